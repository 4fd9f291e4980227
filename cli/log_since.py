"""The log as a look back wants it: some topics, from the broker or a copy in a file, of a time or from it on."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from sluicegate.cli.configuration import settings
from sluicegate.cli.output import Output
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.schemas.codec import Codec
    from sluicegate.streams.engine import Record

_SPAN: Final = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_UNIT_MS: Final = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}

SinceOption = Annotated[
    str,
    typer.Option(
        "--since", help="Count from here: a span before the newest record (30m, 12h, 7d), or a date and time (UTC)."
    ),
]
PERIOD_HELP: Final = (
    "A span before the newest record (30m, 12h, 30d), or from..to in days or times (UTC), to exclusive: "
    "2026-11-01..2026-12-01."
)
LogOption = Annotated[
    Path | None, typer.Option("--log", help="Read a copy (`sluicegate verify --copy`) in a file, without Kafka.")
]


class Period(NamedTuple):
    """A time of the log in milliseconds; ``to_ms`` is not in it."""

    from_ms: int
    to_ms: int


def since_ms(text: str, newest_ms: int) -> int | None:
    """The time that a span or a date spells; None for no text. Raises BadInput.

    A span reaches back from the newest record, not from now: a copy of the log gives the same answer every day.
    """
    if not text:
        return None
    span = _span_ms(text)
    if span is not None:
        return max(0, newest_ms - span)
    return _time_ms(text, f"--since `{text}` is no time; give a span as `7d` or a time as `2026-11-01T08:00`")


def period_of(text: str, newest_ms: int) -> Period:
    """What a span before the newest record, or `from..to`, spells; all of the log for no text. Raises BadInput.

    A span takes the newest record in, and reaches as far back as `since_ms`.
    """
    if not text:
        return Period(0, newest_ms + 1)
    span = _span_ms(text)
    if span is not None:
        return Period(max(0, newest_ms - span), newest_ms + 1)
    fault = f"--period `{text}` is no period; give a span as `30d` or days as `2026-11-01..2026-12-01`"
    begins, between, ends = text.partition("..")
    if not between:
        raise BadInput(fault)
    found = Period(_time_ms(begins, fault), _time_ms(ends, fault))
    if found.from_ms >= found.to_ms:
        raise BadInput(f"--period `{text}` ends before it begins; the later time stands last, and is not in it")
    return found


def _span_ms(text: str) -> int | None:
    span = _SPAN.fullmatch(text)
    return None if span is None else int(span[1]) * _UNIT_MS[span[2]]


def _time_ms(text: str, fault: str) -> int:
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(fault) from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)
    return max(0, int(at.timestamp() * 1000))


def newest_of(records: Iterable[Record]) -> int:
    """The append time of the newest record, 0 where there is none."""
    return max((record.timestamp_ms for record in records), default=0)


def read_back(out: Output, log: Path | None, topics: Collection[str]) -> tuple[Codec, list[Record]]:
    """The records of some topics, and what decodes them.

    Raises BadInput for a file that is no copy; as `read_log` where there is no file.
    """
    from sluicegate.schemas.codec import Codec
    from sluicegate.streams.registry import registry_for

    found = settings()
    codec = Codec(registry_for(found.registry_url))
    with out.working("reading the log"):
        if log is None:
            from sluicegate.cli.log_reading import read_log

            return codec, read_log(found, only=topics).records
        from sluicegate.streams.logcopy import read_head, read_records

        read_head(log)
        return codec, [record for record in read_records(log) if record.topic in topics]


def tenant_of(log: Path | None) -> str:
    """Whose log is read: of a copy the tenant that it names. Raises BadInput for a file that is no copy."""
    if log is None:
        return settings().tenant
    from sluicegate.streams.logcopy import read_head

    return read_head(log)[0]
