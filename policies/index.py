"""Finds, among very many rules, the few that can fit a topic and its tags, without asking each.

An agent may make up topics, and each new one is settled once; so that must not cost a pass over ten thousand rules.
Every rule stands in buckets by what it surely needs: a whole topic, the literal start or end of a pattern, or a tag.
What a bucket yields is only a candidate.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import Final

_STAR: Final = "*"


class RuleIndex:
    """Indexes of rules by what they need; ``add`` them all, then ask for ``candidates``."""

    def __init__(self) -> None:
        self._whole: dict[str, list[int]] = defaultdict(list)
        self._begins: dict[str, list[int]] = defaultdict(list)
        self._ends: dict[str, list[int]] = defaultdict(list)
        self._tags: dict[str, list[int]] = defaultdict(list)
        self._always: list[int] = []
        self._begin_chars: tuple[int, ...] = ()
        self._end_chars: tuple[int, ...] = ()

    def add(self, index: int, topics: Iterable[str], any_tags: Collection[str], all_tags: Collection[str]) -> None:
        """Put a rule in its buckets: by each of its topics, else by each tag it may need, else in everybody's way."""
        patterns = list(topics)
        if patterns and not any(pattern.strip(_STAR) == "" for pattern in patterns):
            for pattern in patterns:
                self._add_pattern(index, pattern)
        elif any_tags:
            for tag in any_tags:
                self._tags[tag].append(index)
        elif all_tags:
            self._tags[min(all_tags)].append(index)
        else:
            self._always.append(index)

    def _add_pattern(self, index: int, pattern: str) -> None:
        if _STAR not in pattern:
            self._whole[pattern].append(index)
            return
        begin, end = pattern.partition(_STAR)[0], pattern.rpartition(_STAR)[2]
        if len(begin) >= len(end):
            self._begins[begin].append(index)
            self._begin_chars = tuple(sorted({*self._begin_chars, len(begin)}))
        else:
            self._ends[end].append(index)
            self._end_chars = tuple(sorted({*self._end_chars, len(end)}))

    def candidates(self, topic: str, tags: Iterable[str]) -> list[int]:
        """The indexes of all rules that may fit, in order, each once; those left out cannot fit."""
        return sorted({index for bucket in self._buckets(topic, tags) for index in bucket})

    def _buckets(self, topic: str, tags: Iterable[str]) -> Iterator[list[int]]:
        yield self._always
        yield self._whole.get(topic, [])
        for chars in self._begin_chars:
            if chars <= len(topic):
                yield self._begins.get(topic[:chars], [])
        for chars in self._end_chars:
            if chars <= len(topic):
                yield self._ends.get(topic[len(topic) - chars :], [])
        for tag in tags:
            yield self._tags.get(tag, [])
