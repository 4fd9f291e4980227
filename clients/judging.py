"""What a worker does with one grant: start it, wait, say that it lapsed, or refuse it. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Mapping
from typing import Any, Final, Protocol

import msgspec

from sluicegate.schemas.errors import BadPayload, KeyErased, SealingError, Unavailable
from sluicegate.schemas.events import Grant
from sluicegate.schemas.payload import job_hash, parse_strict
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.control_scopes import Revocation, Stop

REVOKED: Final = "revoked"
"""The code of a refusal because the grant was revoked: nothing ran."""


class WorkerControl(Protocol):
    """What a worker needs of the control state: none of it rests on what a bundle says."""

    @property
    def offset(self) -> int: ...

    @property
    def lease_sec(self) -> int: ...

    def paused(self, agent_id: str, topic: str, tags: Collection[str], job_id: str) -> str | None: ...

    def revoked(
        self, control_offset: int, agent_id: str, topic: str, tags: Collection[str], job_id: str
    ) -> Revocation | None: ...

    def stops_after(
        self, control_offset: int, agent_id: str, topic: str, tags: Collection[str], job_id: str
    ) -> tuple[Stop, ...]: ...


class Terms(msgspec.Struct, frozen=True):
    """What the worker holds a handler to; None where the grant sets no bound.

    ``budget`` has every amount that the handler may spend from, ``credential_set`` names the one set of credentials
    that it gets (empty: the usual one), ``by_handler`` are the constraints that only the handler itself keeps to.
    """

    runtime_sec_max: float | None = None
    output_bytes_max: int | None = None
    network: tuple[str, ...] | None = None
    budget: Mapping[str, int | float | None] = {}
    credential_set: str = ""
    by_handler: tuple[str, ...] = ()


class Start(msgspec.Struct, frozen=True):
    """Run it: the arguments and constraints the handler gets, and what it is held to."""

    payload: Any
    constraints: dict[str, Any]
    terms: Terms = Terms()


class Wait(msgspec.Struct, frozen=True):
    """Its scope is paused, or its key cannot be had now: leave it where it is until it can start or lapses."""

    scope: str


class Lapse(msgspec.Struct, frozen=True):
    """Its start-by time has passed: nothing runs."""


class Refuse(msgspec.Struct, frozen=True):
    """Something is wrong with it: nothing runs, and the log says what."""

    code: str
    message: str


Judgement = Start | Wait | Lapse | Refuse


def judge_grant(
    grant: Grant,
    now_ms: int,
    seen: Container[str],
    paused: str | None,
    *,
    tenant: str,
    pool: str,
    keys: Keyring | None = None,
    revoked: str | None = None,
) -> Judgement:
    """What to do with a grant met at ``now_ms``.

    ``seen`` holds the ids of grants this worker has taken; ``paused`` is the paused scope that covers the job,
    ``revoked`` says in words what voids the grant. A faulty grant is refused even where it would have lapsed or
    waited: it is evidence; so is a revoked one, which can never start again.
    """
    if grant.tenant != tenant or grant.pool != pool:
        where = f"tenant `{grant.tenant}`, pool `{grant.pool}`"
        return Refuse(
            "grant_misrouted", f"the grant is for {where}; this worker serves tenant `{tenant}`, pool `{pool}`"
        )
    try:
        content, salt = (keys or NoKeyring()).open(grant.payload)
    except KeyErased as error:
        return _repeated(grant) if grant.grant_id in seen else Refuse(REVOKED, f"payload erased: {error}")
    except SealingError as error:
        return Refuse("grant_unreadable", f"the payload cannot be opened: {error}")
    except Unavailable as error:
        return _unopened(grant, now_ms, seen, revoked, str(error))
    found = _terms(grant, content, salt, seen)
    if isinstance(found, Refuse):
        return found
    if revoked is not None:
        return Refuse(REVOKED, revoked)
    if now_ms > grant.start_by_ms:
        return Lapse()
    if paused is not None:
        return Wait(paused)
    return Start(*found)


def _terms(grant: Grant, content: bytes, salt: bytes, seen: Container[str]) -> tuple[Any, dict[str, Any]] | Refuse:
    """Payload and constraints of a grant that was opened, or why it is refused for what it holds."""
    if job_hash(content, grant.topic, grant.agent_id, grant.risk_tags, salt) != grant.job_hash:
        return Refuse(
            "grant_altered", "payload, topic, agent or tags are not those that were judged: the job's hash differs"
        )
    if grant.grant_id in seen:
        return _repeated(grant)
    try:
        payload, constraints = parse_strict(content), json.loads(grant.constraints)
    except (BadPayload, ValueError) as error:
        return Refuse("grant_unreadable", f"payload or constraints are not JSON: {error}")
    if not isinstance(constraints, dict):
        return Refuse("grant_unreadable", "the constraints are no JSON object")
    return payload, constraints


def _repeated(grant: Grant) -> Refuse:
    return Refuse(
        "grant_repeated", f"this worker has taken grant `{grant.grant_id}` before; one grant starts one attempt"
    )


def _unopened(grant: Grant, now_ms: int, seen: Container[str], revoked: str | None, why: str) -> Judgement:
    """What to do with a grant whose key nobody gives now: that says nothing of the grant, so it waits for its end."""
    if grant.grant_id in seen:
        return _repeated(grant)
    if revoked is not None:
        return Refuse(REVOKED, revoked)
    return Lapse() if now_ms > grant.start_by_ms else Wait(why)
