"""The exact bytes of a value, as they are sent: payloads of agents and what handlers return."""

from __future__ import annotations

import json
from typing import Any

from sluicegate.schemas.errors import BadPayload
from sluicegate.schemas.payload import parse_strict


def json_bytes(value: Any) -> bytes:
    """The exact bytes of a payload: bytes as they are, else compact JSON with sorted keys. Raises BadPayload.

    Sorted, so that the same dictionary, built in another order, is the same job when it is sent again.
    """
    if isinstance(value, bytes):
        content = value
    else:
        try:
            text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
            content = text.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise BadPayload(
                f"not JSON ({error}); give dictionaries, lists, strings, numbers, booleans, None"
            ) from None
    parse_strict(content)
    return content
