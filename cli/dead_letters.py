"""`sluicegate dead-letters`: what could not be processed, kept whole; look at it, put it back."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sluicegate.cli import output
from sluicegate.cli.configuration import OPERATOR, settings
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.schemas.events import DeadLetter
    from sluicegate.streams.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Look at inputs that could not be processed, and put them back.")

TOPIC = "dead.letters"
WRITTEN_BY_STEPS = (
    "job.decisions",
    "job.grants",
    "job.results",
    "approval.requests",
    "approval.events",
    "approval.resolutions",
    "timer.",
)
"""Topics that only processors write: a copy put there would be foreign to `verify`, and rightly so."""
PREVIEW_BYTES = 512

LetterArgument = Annotated[
    str, typer.Argument(metavar="LETTER", help="PARTITION/OFFSET, as `list` shows it.", show_default=False)
]


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List all dead letters that are kept, oldest first."""
    out = Output(as_json)
    letters = _letters(settings())
    out.result([_brief(place, letter) for place, letter in letters.items()])
    columns = ("letter", "when", "application", "cause", "reason", "message")
    rows = [
        (place, _when(each), each.application, _cause(each), each.reason, each.message)
        for place, each in letters.items()
    ]
    out.table(columns, rows, empty="no dead letters")
    if letters:
        out.next(f"sluicegate dead-letters show {next(iter(letters))}")


@app.command()
def show(letter: LetterArgument, as_json: JsonOption = False) -> None:
    """Show one dead letter: where it came from, why it was given up, its headers, the beginning of its bytes."""
    out = Output(as_json)
    found = _letter(settings(), letter)
    content = _content(found)
    headers = {name: value.decode("utf-8", "backslashreplace") for name, value in found.headers.items()}
    size = {"size_bytes": len(content), "hex": content[:PREVIEW_BYTES].hex()}
    shown = {**_brief(letter, found), "headers": headers, **size}
    out.result(shown)
    for name, value in shown.items():
        out.say(f"{name:13}{visible(value if isinstance(value, str) else output.json_text(value), 1200)}")
    out.next(f"sluicegate dead-letters replay {letter}")


@app.command()
def replay(
    letter: LetterArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Put a dead letter's record back on its topic, byte for byte, signature and all; needs the login `admin`.

    It is judged as any other input: a signature that is over 24 hours old is refused as stale.
    """
    out = Output(as_json)
    found_settings = settings()
    found = _letter(found_settings, letter)
    topic = found.cause.topic
    if topic.startswith(WRITTEN_BY_STEPS):
        raise BadInput(f"`{topic}` is written by processors only; mend what made the record instead")
    if not yes and not as_json and out.on_terminal:
        typer.confirm(f"write {_cause(found)} to `{topic}` again?", abort=True)
    from sluicegate.streams.kafka import Publisher
    from sluicegate.streams.logins import ADMIN

    publisher = Publisher(found_settings, ADMIN)
    try:
        place = publisher.publish(topic, found.key, _content(found), tuple(found.headers.items()))
    finally:
        publisher.close()
    out.result({"letter": letter, "topic": topic, "partition": place.partition, "offset": place.offset})
    out.say(f"written to {topic}/{place.partition}/{place.offset}")
    out.next("sluicegate tail")


def _letters(found: Settings) -> dict[str, DeadLetter]:
    from sluicegate.schemas.codec import Codec
    from sluicegate.schemas.errors import Undecodable
    from sluicegate.schemas.events import DeadLetter
    from sluicegate.streams.kafka import POLL_SEC, Tail
    from sluicegate.streams.registry import registry_for

    codec = Codec(registry_for(found.registry_url))
    tail = Tail(found, OPERATOR, (TOPIC,), group=OPERATOR, start="beginning")
    letters: list[tuple[int, str, DeadLetter]] = []
    try:
        while not tail.at_end():
            for record in tail.poll(POLL_SEC):
                try:
                    event = codec.decode(record.value)
                except Undecodable:
                    continue
                if isinstance(event, DeadLetter):
                    letters.append((record.timestamp_ms, f"{record.partition}/{record.offset}", event))
    finally:
        tail.close()
    return {place: event for _, place, event in sorted(letters, key=lambda each: each[:2])}


def _letter(found: Settings, place: str) -> DeadLetter:
    letter = _letters(found).get(place)
    if letter is None:
        raise BadInput(f"no dead letter `{place}`; copy PARTITION/OFFSET from `sluicegate dead-letters list`")
    return letter


def _content(letter: DeadLetter) -> bytes:
    from sluicegate.schemas.payload import unseal

    return unseal(letter.value)[0]


def _cause(letter: DeadLetter) -> str:
    return f"{letter.cause.topic}/{letter.cause.partition}/{letter.cause.offset}"


def _when(letter: DeadLetter) -> str:
    return datetime.datetime.fromtimestamp(letter.appended_at_ms / 1000, datetime.UTC).isoformat(timespec="seconds")


def _brief(place: str, letter: DeadLetter) -> dict[str, Any]:
    return {
        "letter": place,
        "application": letter.application,
        "cause": _cause(letter),
        "appended_at": _when(letter),
        "key": letter.key.decode("utf-8", "backslashreplace"),
        "reason": letter.reason,
        "message": letter.message,
    }
