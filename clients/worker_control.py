"""Whom a worker believes: the operators who may pause it, and the gates whose grants it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput
from sluicegate.streams.control_fold import ControlFold
from sluicegate.streams.control_reader import ControlConfig, ControlReader
from sluicegate.streams.control_state import ControlState
from sluicegate.streams.identity import Ed25519Verifier
from sluicegate.streams.keys import GATES, OPERATORS, keys_dir, trusted_gates, trusted_operators
from sluicegate.streams.logins import kafka_config

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings


def believed_gates(settings: Settings) -> dict[str, Ed25519Verifier]:
    """Who may sign grants for this worker. Raises BadInput when nobody may, so that it could run nothing."""
    gates = trusted_gates(settings)
    if not gates:
        where = keys_dir(settings) / GATES
        raise BadInput(f"`{where}` trusts no gate, so that this worker could run nothing; copy it from the gate's host")
    return gates


def own_control(settings: Settings, user: str, group: str, instance: str, codec: Codec) -> ControlReader[ControlState]:
    """A reader of the control commands, started. Raises BadInput where nobody could pause the worker."""
    operators = trusted_operators(settings)
    if not operators:
        where = keys_dir(settings) / OPERATORS
        raise BadInput(
            f"`{where}` trusts no operator, so that nobody could pause this worker; copy it from the gate's host"
        )
    config = ControlConfig(
        connection=kafka_config(settings, user),
        group=group,
        instance=instance,
        tenant=settings.tenant,
        age_ms_max=settings.control_age_ms_max,
    )
    reader = ControlReader(config, ControlFold(codec, settings.tenant, operators), ControlState())
    reader.start()
    return reader
