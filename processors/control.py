"""The control a step judges under: the folded commands, the compiled active policy, everybody's keys."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from sluicegate.policies.compile import CompiledPolicy, compile_bundle
from sluicegate.policies.load import parse_documents
from sluicegate.schemas.errors import InvariantBroken
from sluicegate.schemas.events import AuditDrawn, Cause
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.control_epochs import Epoch, commitment_of
from sluicegate.streams.control_state import ControlState, Snapshot, StepSettings
from sluicegate.streams.control_terms import Person, SnapshotTerms
from sluicegate.streams.identity import Ed25519Verifier, HmacKey, Signer, Verifier, agent_secret, public_key

if TYPE_CHECKING:
    from sluicegate.processors.control_recall import Recalled
    from sluicegate.processors.verify_report import Place

COMPILED_MAX = 16
"""Compiled snapshots kept at once; a rollback to one of them costs nothing."""


@lru_cache(maxsize=COMPILED_MAX)
def _compiled(digest: str, documents: str) -> CompiledPolicy:
    bundle = parse_documents(json.loads(documents))
    if bundle.snapshot_digest != digest:
        raise InvariantBroken(f"snapshot `{digest}` has other content than its digest says; publish it again")
    return compile_bundle(bundle)


def snapshot_terms(snapshot: Snapshot) -> SnapshotTerms | None:
    """What a snapshot says of control; None when it does not compile or is not what its digest says.

    An activation of such a one is refused. Whoever may publish signs what they like, and everybody folds it: whatever
    it holds, nothing is raised.
    """
    return _terms(snapshot.digest, snapshot.documents)


@lru_cache(maxsize=COMPILED_MAX)
def _terms(digest: str, documents: str) -> SnapshotTerms | None:
    try:
        policy = _compiled(digest, documents)
        persons = {
            f"person/{person.id}": Person(public_key(person.public_key), frozenset(person.roles))
            for person in policy.reviewers.values()
            if person.public_key
        }
        sign_off, glass = policy.sign_off, policy.break_glass
        return SnapshotTerms(
            snapshot_name=policy.snapshot_name,
            sign_off_people=0 if sign_off is None else sign_off.people,
            sign_off_roles=() if sign_off is None else tuple(sign_off.roles),
            break_glass_role=None if glass is None else glass.role,
            break_glass_sec_max=0 if glass is None else int(glass.max_sec),
            persons=persons,
        )
    except Exception:  # noqa: BLE001  # whatever it raises, it is unusable
        return None


class Control:
    """Read-only, one per folded command. Holds no clock; the engine answers for its freshness."""

    def __init__(
        self,
        state: ControlState,
        tenant: str,
        master: bytes | None,
        operators: dict[str, Ed25519Verifier],
        signer: Signer | None = None,
        keys: Keyring | None = None,
        epoch_keys: Callable[[int], bytes | None] | None = None,
    ) -> None:
        self.state = state
        self.tenant = tenant
        self.signer = signer
        """What signs grants; only the gate has it."""
        self.keys: Keyring = NoKeyring() if keys is None else keys
        """What opens and seals envelopes: the key store, where there is one. An erased key raises KeyErased."""
        self.recalled: Recalled | None = None
        """What `verify` knows from the log of a payload whose key is erased; None wherever something is decided."""
        self.said: Mapping[Place, AuditDrawn] | None = None
        """What the log says was drawn, by cause; only `verify` has it."""
        self._epoch_keys = epoch_keys
        self._epochs: dict[int, bytes | None] = {}
        self._master = master
        self._operators = operators
        self._keys: dict[str, Verifier] = {}
        self._policy = None if state.active is None else _compiled(state.active.digest, state.active.documents)

    @property
    def offset(self) -> int:
        """The control offset that decisions made under this name."""
        return self.state.offset

    @property
    def settings(self) -> StepSettings:
        return self.state.settings

    @property
    def ready(self) -> bool:
        """Whether a policy is active: nothing is judged before."""
        return self._policy is not None

    @property
    def active(self) -> Snapshot:
        """The active snapshot; raises InvariantBroken when there is none."""
        if self.state.active is None:
            raise InvariantBroken("no policy is active; publish one with `sluicegate policy publish`")
        return self.state.active

    @property
    def policy(self) -> CompiledPolicy:
        """The compiled active policy; raises InvariantBroken when there is none."""
        if self._policy is None:
            raise InvariantBroken("no policy is active; publish one with `sluicegate policy publish`")
        return self._policy

    def epoch_key(self, epoch: Epoch) -> bytes | None:
        """The key of an epoch of sampled audit; None where nobody here has the one that was committed to."""
        if epoch.number not in self._epochs:
            key = None if self._epoch_keys is None else self._epoch_keys(epoch.number)
            self._epochs[epoch.number] = key if key is not None and commitment_of(key) == epoch.commitment else None
        return self._epochs[epoch.number]

    def said_drawn(self, cause: Cause) -> AuditDrawn | None:
        """What `verify` knows of a draw; None wherever something is drawn."""
        return None if self.said is None else self.said.get((cause.topic, cause.partition, cause.offset))

    def key(self, key_id: str) -> Verifier | None:
        """The verifier of a key id, or None when nobody is enrolled under it."""
        known = self._keys.get(key_id)
        if known is None:
            known = self._find(key_id)
            if known is not None:  # whoever writes a record chooses its key id: what nobody has is not remembered
                self._keys[key_id] = known
        return known

    def _find(self, key_id: str) -> Verifier | None:
        kind, _, name = key_id.partition("/")
        if kind in ("operator", "monitor"):
            return self._operators.get(key_id)
        if not self.ready:
            return None
        if kind == "person":
            reviewer = self.policy.reviewer(name)
            return None if reviewer is None or not reviewer.public_key else public_key(reviewer.public_key)
        agent = self.policy.agent(name) if kind == "agent" else None
        if agent is None:
            return None
        if agent.key.kind == "ed25519":
            return public_key(agent.key.public_key) if agent.key.public_key else None
        return None if self._master is None else HmacKey(key_id, agent_secret(self._master, name))
