"""The process in which others look through the documents, by an interpreter that has them (`peers.py`)."""

from __future__ import annotations

import json
import selectors
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from sluicegate.schemas.errors import BadInput, Unavailable

PEERS_VARIABLE: Final = "SLUICEGATE_PEERS"
"""Names the interpreter; `make peers` makes one."""
ANSWER_SEC_MAX: Final = 120.0


class Peers:
    """A process that answers as long as it is entered. Raises BadInput where the interpreter has no peers."""

    def __init__(self, interpreter: str, documents: Mapping[str, Sequence[bytes]]) -> None:
        self._interpreter = interpreter
        self._lists = {_word(name): [each.decode() for each in texts] for name, texts in documents.items()}
        self.versions: dict[str, str] = {}
        """By name, of those that are there."""

    def __enter__(self) -> Self:
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8", delete=False) as file:
            json.dump(self._lists, file)
        self._file = Path(file.name)
        script = Path(__file__).with_name("peers.py")
        try:
            self._process = subprocess.Popen(
                [self._interpreter, str(script), file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as problem:
            self._file.unlink()
            raise BadInput(
                f"`{self._interpreter}` of {PEERS_VARIABLE} does not run ({problem.strerror}); make one: `make peers`"
            ) from None
        try:
            self.versions = self._answer()
        except Unavailable:
            self.__exit__()
            raise BadInput(
                f"`{self._interpreter}` of {PEERS_VARIABLE} has no peers; make one that has: `make peers`"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._file.unlink()

    def seconds(self, peer: str, name: str) -> list[float]:
        """Seconds of processor time that a peer takes for each document of a list. Raises Unavailable."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{peer} {_word(name)}\n")
        self._process.stdin.flush()
        found: list[float] = self._answer()["seconds"]
        return found

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(ANSWER_SEC_MAX) else ""
        if not line:
            raise Unavailable(f"the peers gave no answer in {ANSWER_SEC_MAX:g} s; measure without {PEERS_VARIABLE}")
        found: dict[str, Any] = json.loads(line)
        return found


def _word(name: str) -> str:
    """A name without spaces, which part the words of a question."""
    return name.replace(" ", "_")
