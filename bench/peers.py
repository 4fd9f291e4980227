"""What others take to look through the same documents: a program for an interpreter that has them, and not us.

``python bench/peers.py FILE``: FILE is a JSON object of lists of documents as texts. Each line of the standard input
names a peer and a list; the answer is a line of JSON: the seconds of processor time of each document, and how many
things were found. The first line that is written tells the versions.

presidio-analyzer has its own patterns and checksums and no model: spaCy is a blank pipeline, so names are not looked
for. It meets a document as one text, which is quicker for it than one string after another. detect-secrets meets the
strings one by one, by its plugins alone, without the filters that would only take findings away.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

Look = Callable[[str], int]
"""Looks through a document and says how many things it found."""
ENTITIES: Final = ["CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "IP_ADDRESS", "PHONE_NUMBER", "US_SSN"]
"""What presidio is asked for: what we look for, too; asked for all it knows it takes far longer."""


def presidio() -> Look:
    """Presidio's analyzer with patterns only."""
    # What it knows of domains comes with the package: nothing is fetched.
    domains: Any = import_module("tldextract")
    domains.extract = domains.TLDExtract(suffix_list_urls=())
    analyzer: Any = import_module("presidio_analyzer")
    models = [{"lang_code": "en", "model_name": "blank"}]
    engine = import_module("presidio_analyzer.nlp_engine").SpacyNlpEngine(models=models)
    engine.nlp = {"en": import_module("spacy").blank("en")}
    registry = analyzer.RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    registry.remove_recognizer("SpacyRecognizer")
    asked = analyzer.AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])

    def look(document: str) -> int:
        return len(asked.analyze(document, language="en", entities=ENTITIES))

    return look


def detect_secrets() -> Look:
    """All plugins of detect-secrets."""
    known: Any = import_module("detect_secrets.core.plugins.util")
    made = [plugin() for plugin in known.get_mapping_from_secret_type_to_class().values()]

    def look(document: str) -> int:
        return sum(1 for text in strings(json.loads(document)) for plugin in made for _ in plugin.analyze_string(text))

    return look


def strings(value: Any) -> Iterator[str]:
    """Every text of a document, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)


PEERS: Final[dict[str, tuple[str, Callable[[], Look]]]] = {
    "presidio": ("presidio-analyzer", presidio),
    "detect-secrets": ("detect-secrets", detect_secrets),
}
"""By name: the package, and how it is made ready."""


def main() -> int:
    """Answer until the input ends."""
    lists: dict[str, list[str]] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    looks = {name: make() for name, (_, make) in PEERS.items()}
    _say({name: version(package) for name, (package, _) in PEERS.items()})
    for line in sys.stdin:
        peer, name = line.split()
        look, seconds, found = looks[peer], list[float](), 0
        for document in lists[name]:
            began = time.thread_time()
            found += look(document)
            seconds.append(time.thread_time() - began)
        _say({"seconds": seconds, "found": found})
    return 0


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
