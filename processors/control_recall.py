"""What the log says of a turn whose payload nobody can open any more. Only `verify` has it; production has none.

A decision rests on facts, and those stand in the journal; so what a rule makes of them is recomputed though the key
of the payload is erased. What was made of the payload itself (an edit, a review, a fault of its content) is taken as it
stands, and ``taken`` then says that it was. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

from sluicegate.policies.compile import ACTIONS_LAYER, SCHEMA_SAID
from sluicegate.schemas.events import (
    ApprovalRequest,
    Closed,
    Decision,
    Event,
    Granted,
    Held,
    Intent,
    Quarantined,
    Refused,
    Result,
    Sealed,
)

PAYLOAD_ERASED: Final = "payload_erased"
"""The code of everything that ends because the key it would have needed was erased: an outcome, and no incident."""
ERASED: Final = "the key of its payload was erased; nothing of it can be read any more"
"""What is said then. Who erased it, when and why says the `erase` command in the log."""
CONTENT_FAULTS: Final = ("malformed", "hash_mismatch")
"""The codes of what is wrong with a content that could be opened."""
LOST_SAID: Final = "; an earlier attempt was lost, so whether it took effect is unknown"
SHAPE, TARGET_KNOWN, TARGET = 5, 6, 7
"""Where the bins that only a payload can give stand in a decision's ``features``."""


class Recalled:
    """What one group of journal events says of the content behind it."""

    def __init__(
        self,
        events: Sequence[Event],
        decision: Decision | None,
        requests: Mapping[str, ApprovalRequest],
        payloads: Mapping[str, Sealed],
        *,
        unsure: Collection[str] = (),
        truths: Collection[str] = (),
    ) -> None:
        """``events`` are the group; ``decision`` holds the facts; ``requests`` are those for outputs, by id.

        ``payloads`` are envelopes by job hash. ``unsure`` names computed facts that rest on what is erased by now:
        they are taken from the decision. ``truths`` names facts whose 0 or 1 was false or true.
        """
        self._events = events
        self._decision = decision
        self._requests = requests
        self._payloads = payloads
        self._unsure = unsure
        self._truths = truths
        self._facts = {} if decision is None else {fact.name: fact.value for fact in decision.facts}
        self.taken = False
        """Whether something was taken as it stands that no facts give."""
        self.judged = False
        """Whether an erased payload was judged by its facts."""

    @property
    def complete(self) -> bool:
        """Whether the facts of the payload are known."""
        return self._decision is not None

    # --- the gate

    def content_fault(self) -> tuple[str, str] | None:
        """What the gate found wrong with the content, if it refused it."""
        for event in self._events:
            if isinstance(event, Refused) and event.subject == "intent" and event.code in CONTENT_FAULTS:
                self.taken = True
                return event.code, event.message
        return None

    def declared(self, names: Iterable[str]) -> dict[str, float | bool | None]:
        """The facts that stood in the payload."""
        self.judged = True
        return {name: self._value(name) for name in names}

    def _value(self, name: str) -> float | bool | None:
        value = self._facts.get(name)
        return bool(value) if value is not None and name in self._truths else value

    def computed(self, names: Iterable[str]) -> dict[str, float | bool | None]:
        """Of these computed facts, those that cannot be recomputed without what is erased."""
        return {name: self._facts[name] for name in names if name in self._unsure and name in self._facts}

    @property
    def retry_count(self) -> int:
        """How often the same was tried before: what the same is, the payload said."""
        return int(self._facts.get("retry_count") or 0)

    @property
    def shape(self) -> int:
        """The bin of the payload's shape, which is its own bin again."""
        return self._feature(SHAPE)

    @property
    def target(self) -> int | None:
        """The folded target, which folds to itself; None where there was none."""
        return self._feature(TARGET) if self._feature(TARGET_KNOWN) else None

    def _feature(self, place: int) -> int:
        features = [] if self._decision is None else self._decision.features
        return features[place] if place < len(features) else 0

    @property
    def schema_fault(self) -> str | None:
        """What was wrong with the payload by its action's schema."""
        found = self._decision
        if found is None:
            return None
        for rule in [*found.rules, *([] if found.observed is None else found.observed.rules)]:
            if rule.layer == ACTIONS_LAYER and (rule.reason or "").startswith(SCHEMA_SAID):
                self.taken = True
                return (rule.reason or "").removeprefix(SCHEMA_SAID)
        return None

    def tags(self, classes: Collection[str]) -> set[str]:
        """The tags of these classes that the payload's phrases gave."""
        found = set() if self._decision is None else {tag for tag in self._decision.risk_tags if tag in classes}
        self.taken = self.taken or bool(found)
        return found

    def waited(self) -> bool:
        """Whether a job that had to wait for people's time has left no decision from which that could be told."""
        unknown = self.judged and self._decision is None
        self.taken = self.taken or unknown
        return unknown

    def edited(self, intent: Intent) -> tuple[Sealed, str] | str:
        """The envelope and the hash of what people edited, or why their edits could not be applied."""
        self.taken = True
        for event in self._events:
            if isinstance(event, Closed) and event.by == "gate" and event.reason:
                return event.reason.removesuffix(LOST_SAID)
        hashes = [event.job_hash for event in self._events if isinstance(event, (Decision, Granted, Held))]
        empty = Sealed(algorithm=intent.payload.algorithm, key_id=intent.payload.key_id, nonce=b"", content=b"")
        found = hashes[0] if hashes else ""
        return self._payloads.get(found, empty), found

    # --- outputs

    def review(self, grant_id: str) -> Result | Quarantined | Refused | None:
        """What review made of the output of a grant."""
        self.taken = True
        for event in self._events:
            if isinstance(event, (Result, Quarantined)) and event.grant_id == grant_id:
                return event
            if isinstance(event, Refused) and event.ref == grant_id and event.code == "hash_mismatch":
                return event
        return None

    def released(self, request_id: str) -> Result | None:
        """The result that left when people had let it."""
        for event in self._events:
            if isinstance(event, Result) and event.request_id == request_id and event.output is not None:
                self.taken = True
                return event
        return None

    def request(self, request_id: str) -> ApprovalRequest | None:
        """The request for a held output, which carries what was sealed for it."""
        return self._requests.get(request_id)
