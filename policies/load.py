"""From a folder to a bundle: reading is the only I/O of this room, parsing is pure.

A bundle is what a snapshot freezes: its digest is the SHA-256 of the RFC 8785 JSON of {file name: parsed document},
so comments, spacing and the order of keys do not change it and anyone can compute it with other tools.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Final, Generic, TypeVar

import rfc8785
from pydantic import BaseModel

from sluicegate.policies import documents as docs
from sluicegate.policies.checks import kind_of_source, model_of
from sluicegate.policies.constraints import ConstraintType
from sluicegate.policies.faults import Fault, PolicyFaults, PolicyUnreadable
from sluicegate.policies.meaning import Vocabulary, check_meaning, declared_types
from sluicegate.policies.output_document import OutputPolicyDocument
from sluicegate.policies.reading import read_source
from sluicegate.policies.references import check_references
from sluicegate.policies.source import DOCUMENT_CHARS_MAX, Json, Source, position_of, source_of_document

SUFFIXES: Final = (".yaml", ".yml", ".json")
FILES_MAX: Final = 200
"""How many documents a bundle may have."""
DEFAULT_VERSION: Final = "v1"
SNAPSHOT_HEX_DIGITS: Final = 6
OUTPUT_POLICY_FILE: Final = "output-policy.yaml"

M = TypeVar("M", bound=BaseModel)

_SINGLE: Final[tuple[type[BaseModel], ...]] = (docs.AutonomyDocument, docs.AuditDocument, docs.ContractDocument)


@dataclass(frozen=True, slots=True)
class Placed(Generic[M]):
    """A document and the name of its file."""

    file: str
    document: M


@dataclass(frozen=True, slots=True)
class Bundle:
    """Checked documents and their identity. ``documents`` is what is published; treat it as frozen."""

    documents: Mapping[str, Json]
    version: str
    snapshot_name: str
    snapshot_digest: str
    settings: docs.BundleDocument
    constraint_types: Mapping[str, ConstraintType]
    layers: Mapping[str, Placed[docs.RulesDocument]]
    autonomy: Placed[docs.AutonomyDocument] | None
    audit: Placed[docs.AuditDocument] | None
    actions: docs.ActionsDocument
    agents: docs.AgentsDocument
    reviewers: docs.ReviewersDocument
    contract: docs.ContractDocument | None
    baseline: docs.BaselineDocument | None
    output_policy: OutputPolicyDocument | None
    warnings: tuple[Fault, ...]


def read_folder(path: str | Path) -> dict[str, str]:
    """The texts of a folder's own .yaml, .yml and .json files by file name, or of one file.

    Names that begin with a dot are editors' files and are left out. Raises PolicyUnreadable when there is nothing
    to read, PolicyFaults for files that are too large or not UTF-8.
    """
    place = Path(path)
    try:
        files = sorted(place.iterdir()) if place.is_dir() else [place]
        wanted = [each for each in files if _is_policy_file(each)] if place.is_dir() else files
        if not wanted:
            raise PolicyUnreadable(f"no .yaml, .yml or .json file in `{path}`; give the folder that holds the policies")
        contents = {each.name: _bytes_of(each) for each in wanted}
    except OSError as problem:
        reason = (problem.strerror or str(problem)).lower()
        raise PolicyUnreadable(f"cannot read `{path}`: {reason}; give a folder or a file of policies") from problem
    texts: dict[str, str] = {}
    faults: list[Fault] = []
    for name, content in contents.items():
        try:
            texts[name] = content.decode("utf-8-sig")
        except UnicodeDecodeError as problem:
            line, column = position_of(content[: problem.start].decode("utf-8", "replace"), problem.start)
            faults.append(Fault(name, line, column, "", "the file is not UTF-8 here", "save it as UTF-8"))
    if faults:
        raise PolicyFaults(faults)
    return texts


def _is_policy_file(path: Path) -> bool:
    return path.suffix in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as file:
        # A character has at most four bytes; a longer file is refused by its number of characters later.
        return file.read(DOCUMENT_CHARS_MAX * 4 + 4)


def parse_bundle(files: Mapping[str, str]) -> Bundle:
    """The bundle of these texts by file name. Raises PolicyFaults with every fault of every file."""
    return _bundle([read_source(name, files[name]) for name in sorted(files)])


def parse_documents(documents: Mapping[str, Any]) -> Bundle:
    """The same bundle from parsed documents, as a snapshot carries them; the digest is equal.

    Raises PolicyFaults; its faults have no positions.
    """
    return _bundle([source_of_document(name, documents[name]) for name in sorted(documents)])


def snapshot_digest(documents: Mapping[str, Any]) -> str:
    """SHA-256, 64 hex digits, of the RFC 8785 JSON of {file name: parsed document}."""
    return hashlib.sha256(rfc8785.dumps(dict(documents))).hexdigest()


def _bundle(sources: list[Source]) -> Bundle:
    faults = list(_folder_faults([source.file for source in sources]))
    faults += _twice(sources)
    models = {source.file: model_of(source) for source in sources}
    settings = _only(models, docs.BundleDocument) or docs.BundleDocument()
    types = declared_types(settings)
    actions = _only(models, docs.ActionsDocument) or docs.ActionsDocument(actions=[])
    facts = frozenset(fact for entry in actions.actions for fact in entry.facts)
    # Where the file that declares a name is itself broken, its names are unknown to us, not to its author.
    broken = {docs.stem_of(file) for file, model in models.items() if model is None}
    words = Vocabulary(None if "bundle" in broken else types, None if "actions" in broken else facts)
    for source in sources:
        check_meaning(source, kind_of_source(source), words)
    check_references(sources, models)
    faults += [fault for source in sources for fault in source.faults]
    if any(fault.severity == "error" for fault in faults):
        raise PolicyFaults(faults)
    documents = {source.file: source.root.plain() for source in sources if source.root is not None}
    version = _version(settings, models.values())
    digest = snapshot_digest(documents)
    return Bundle(
        documents=copy.deepcopy(documents),
        version=version,
        snapshot_name=f"{version}:{digest[:SNAPSHOT_HEX_DIGITS]}",
        snapshot_digest=digest,
        settings=settings,
        constraint_types=types,
        layers={docs.stem_of(each.file): each for each in _all(models, docs.RulesDocument)},
        autonomy=next(iter(_all(models, docs.AutonomyDocument)), None),
        audit=next(iter(_all(models, docs.AuditDocument)), None),
        actions=actions,
        agents=_only(models, docs.AgentsDocument) or docs.AgentsDocument(agents=[]),
        reviewers=_only(models, docs.ReviewersDocument) or docs.ReviewersDocument(people=[]),
        contract=_only(models, docs.ContractDocument),
        baseline=_only(models, docs.BaselineDocument),
        output_policy=_only(models, OutputPolicyDocument),
        warnings=tuple(sorted(faults)),
    )


@cache
def shipped_output_policy() -> OutputPolicyDocument:
    """The document that holds for every bundle without an `output-policy.yaml`; it comes with the package."""
    text = (resources.files("sluicegate.policies") / OUTPUT_POLICY_FILE).read_text("utf-8")
    document = parse_bundle({OUTPUT_POLICY_FILE: text}).output_policy
    assert document is not None
    return document


def _folder_faults(files: list[str]) -> Iterable[Fault]:
    if not files:
        yield Fault("", 0, 0, "", "there is no document", "give at least one file")
    if len(files) > FILES_MAX:
        yield Fault(files[FILES_MAX], 0, 0, "", f"more than {FILES_MAX} documents", "join some of them")
    for file in files:
        if PurePosixPath(file).suffix not in SUFFIXES or PurePosixPath(file).name != file:
            fix = "name it like `safety-policy.yaml`"
            yield Fault(file, 0, 0, "", f"`{file}` is no name of a .yaml, .yml or .json file", fix)


def _twice(sources: Iterable[Source]) -> Iterable[Fault]:
    """Documents that a bundle may hold once: each layer name, each named document, each kind of which there is one."""
    first: dict[str, str] = {}
    for source in sources:
        kind = kind_of_source(source)
        stem = docs.stem_of(source.file)
        named = stem in docs.KINDS_BY_NAME or kind is docs.RulesDocument
        label = stem if named else kind.__name__ if kind in _SINGLE and kind is not None else source.file
        if label in first:
            message = f"`{source.file}` and `{first[label]}` are the same document twice"
            yield Fault(source.file, 1, 1, "", message, "keep one, or rename one" if named else "keep one")
        first.setdefault(label, source.file)


def _all(models: Mapping[str, BaseModel | None], kind: type[M]) -> list[Placed[M]]:
    return [Placed(file, model) for file, model in models.items() if isinstance(model, kind)]


def _only(models: Mapping[str, BaseModel | None], kind: type[M]) -> M | None:
    return next((each.document for each in _all(models, kind)), None)


def _version(settings: docs.BundleDocument, models: Iterable[BaseModel | None]) -> str:
    if settings.version is not None:
        return settings.version
    named = {version for model in models if (version := getattr(model, "version", None)) is not None}
    return named.pop() if len(named) == 1 else DEFAULT_VERSION
