"""Presidio behind our interface, asked in a process of an interpreter that has both; the numbers phonenumbers knows.

``python -m sluicegate.bench.detection_process`` reads a JSON list of texts from the standard input and answers with one
JSON object. `make peers` makes an interpreter that has sluicegate with its extra `presidio`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, Final

import msgspec

from sluicegate.bench.peer_process import PEERS_VARIABLE
from sluicegate.policies.detectors import Detectors
from sluicegate.policies.presidio_recogniser import PresidioRecogniser
from sluicegate.policies.scan import scan
from sluicegate.schemas.errors import BadInput

ANSWER_SEC_MAX: Final = 300.0


class PhoneExample(msgspec.Struct, frozen=True):
    """A number as it is written for callers from abroad and at home."""

    international: str
    national: str


class PresidioFound(msgspec.Struct, frozen=True):
    """For each text what presidio finds in it (class, start, end), and the examples of phonenumbers."""

    version: str
    found: list[list[tuple[str, int, int]]]
    phones: list[PhoneExample]


def presidio_finds(interpreter: str, texts: Sequence[str]) -> PresidioFound:
    """The answer of the process. Raises BadInput where the interpreter cannot give it."""
    command = [interpreter, "-m", "sluicegate.bench.detection_process"]
    problem = f"no answer in {ANSWER_SEC_MAX:g} s"
    try:
        done = subprocess.run(
            command, input=msgspec.json.encode(list(texts)), capture_output=True, check=False, timeout=ANSWER_SEC_MAX
        )
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout, type=PresidioFound)
        problem = done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or f"exit status {done.returncode}"
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as caught:
        problem = getattr(caught, "strerror", None) or problem
    raise BadInput(
        f"`{interpreter}` of {PEERS_VARIABLE} does not run presidio behind our interface ({problem}); make one that "
        "does: `make peers`"
    )


def _examples() -> Iterator[PhoneExample]:
    """Of each region a number of a house and one of a mobile, as far as phonenumbers has one."""
    phones: Any = import_module("phonenumbers")
    for region in sorted(phones.SUPPORTED_REGIONS):
        for kind in (phones.PhoneNumberType.FIXED_LINE, phones.PhoneNumberType.MOBILE):
            number = phones.example_number_for_type(region, kind)
            if number is not None:
                forms = phones.PhoneNumberFormat
                yield PhoneExample(
                    phones.format_number(number, forms.INTERNATIONAL), phones.format_number(number, forms.NATIONAL)
                )


def main() -> int:
    """Answer once."""
    texts = msgspec.json.decode(sys.stdin.buffer.read(), type=list[str])
    detectors = Detectors.build(builtin=False, recognisers=[PresidioRecogniser()])
    found = [
        [(each.klass, each.start or 0, len(text) if each.end is None else each.end) for each in seen]
        for text in texts
        for seen in [scan({"text": text}, detectors).findings]
    ]
    answer = PresidioFound(version("presidio-analyzer"), found, list(_examples()))
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
