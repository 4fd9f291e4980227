"""The half of a match that asks for no fact: topics and tags. One match model in every document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec

from sluicegate.policies.patterns import Glob

if TYPE_CHECKING:
    from sluicegate.policies.documents import Match


class StaticMatch(msgspec.Struct, frozen=True):
    """What a match wants of topic and tags; a field that is not given wants nothing."""

    globs: tuple[Glob, ...] = ()
    any_tags: frozenset[str] = frozenset()
    all_tags: frozenset[str] = frozenset()
    only_tags: frozenset[str] | None = None

    @classmethod
    def of(cls, match: Match) -> Self:
        """A document's match, compiled."""
        return cls(
            globs=tuple(map(Glob, match.topics or ())),
            any_tags=frozenset(match.risk_tags or ()),
            all_tags=frozenset(match.risk_tags_all or ()),
            only_tags=None if match.risk_tags_only is None else frozenset(match.risk_tags_only),
        )

    def fits(self, topic: str, tags: frozenset[str]) -> bool:
        """Whether topic and tags are as they are wanted."""
        if self.any_tags and self.any_tags.isdisjoint(tags):
            return False
        if not self.all_tags <= tags:
            return False
        if self.only_tags is not None and not tags <= self.only_tags:
            return False
        return not self.globs or any(glob.matches(topic) for glob in self.globs)
