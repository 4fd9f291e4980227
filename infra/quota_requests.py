"""The two requests of Kafka's protocol about quotas (KIP-546), version 0, in the words of aiokafka."""

from __future__ import annotations

from typing import Any

from aiokafka.protocol.admin import DescribeClientQuotasRequest  # type: ignore[import-untyped]  # without types
from aiokafka.protocol.api import Request, RequestStruct, Response  # type: ignore[import-untyped]  # as above
from aiokafka.protocol.types import (  # type: ignore[import-untyped]  # as above
    Array,
    Boolean,
    Float64,
    Int16,
    Int32,
    Schema,
    String,
)

_TEXT = String("utf-8")
_ENTITY = ("entity", Array(("entity_type", _TEXT), ("entity_name", _TEXT)))

DescribeClientQuotas = DescribeClientQuotasRequest


class _Altered(Response):  # type: ignore[misc]  # a class without types
    API_KEY = 49
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("entries", Array(("error_code", Int16), ("error_message", _TEXT), _ENTITY)),
    )


class _Alter(RequestStruct):  # type: ignore[misc]  # as above
    API_KEY = 49
    API_VERSION = 0
    RESPONSE_TYPE = _Altered
    SCHEMA = Schema(
        ("entries", Array(_ENTITY, ("ops", Array(("key", _TEXT), ("value", Float64), ("remove", Boolean))))),
        ("validate_only", Boolean),
    )


class AlterClientQuotas(Request[_Alter]):  # type: ignore[misc]  # as above
    """Set quotas: entries of an entity, pairs of type and name, and operations (quota, value, whether to remove)."""

    API_KEY = 49

    def __init__(self, entries: list[tuple[list[tuple[str, str]], list[tuple[str, float, bool]]]]) -> None:
        self._entries = entries

    def build(self, request_struct_class: type[_Alter]) -> Any:
        """The request as it is sent."""
        return request_struct_class(self._entries, False)
