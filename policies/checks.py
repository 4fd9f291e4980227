"""From a source tree to its model: what pydantic finds becomes faults with positions and a word on what to do."""

from __future__ import annotations

import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sluicegate.policies import documents as docs
from sluicegate.policies.faults import suggest
from sluicegate.policies.fields import PATTERN_WORDS
from sluicegate.policies.source import Source

M = TypeVar("M", bound=BaseModel)

_WANTED: Final = {
    "string_type": "text",
    "bool_type": "`true` or `false`",
    "int_type": "a whole number",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_UNQUOTED: Final = ("true", "false", "null")
_NUMERIC: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_RANGES: Final = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "above"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "below"),
}


def kind_of_source(source: Source) -> type[BaseModel] | None:
    """What kind of document a source is, whether or not it is sound."""
    keys = {key.value for key, _ in source.root.value} if source.root is not None else set()
    return docs.kind_of(source.file, keys)


def model_of(source: Source) -> BaseModel | None:
    """The document as its model; None when it has faults, which are recorded in ``source``."""
    if source.root is None:
        return None
    keys = {key.value for key, _ in source.root.value}
    model = kind_of_source(source)
    if model is None:
        known = [key for wanted, _ in docs.KINDS_BY_KEYS for key in wanted]
        first = next(iter(keys - {"version"}), "")
        fix = suggest(first, known) if first else "begin with `rules:`"
        source.fault((first,), "no top-level key says what kind of document this is", fix, at_key=True)
        return None
    return validated(source, model)


def validated(source: Source, model: type[M]) -> M | None:
    """The source as this model; None when it has faults, which are recorded in ``source``."""
    if source.root is None:
        return None
    try:
        return model.model_validate(source.root.plain())
    except ValidationError as problem:
        for error in problem.errors():
            _record(source, model, error)
        return None


def _record(source: Source, model: type[BaseModel], error: Any) -> None:
    path: tuple[str | int, ...] = tuple(error["loc"])
    kind: str = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    name = path[-1] if path else ""
    given = error.get("input")
    if kind == "extra_forbidden":
        source.fault(path, f"unknown key `{name}`", suggest(str(name), _fields_at(model, path[:-1])), at_key=True)
    elif kind == "missing":
        source.fault(path[:-1], f"`{name}` is missing", f"add `{name}`")
    elif kind == "literal_error":
        known = [each.strip("' ") for each in context["expected"].replace(" or ", ", ").split(", ")]
        if given is None or isinstance(given, dict | list):
            source.fault(path, f"expected one word, found {_shown(given)}", suggest("", known))
        else:
            source.fault(path, f"`{given}` is not known here", suggest(str(given), known))
    elif kind in _WANTED:
        fix = f"write {_WANTED[kind]}" + (", in quotes" if kind == "string_type" and given is not None else "")
        if isinstance(given, str) and kind not in ("string_type", "list_type"):
            fix = f"{fix}, without quotes" if given.lower() in _UNQUOTED or _NUMERIC.fullmatch(given) else fix
            source.fault(path, f"expected {_WANTED[kind]}, found the text `{_shown(given)}`", fix)
            return
        if kind == "list_type" and isinstance(given, str):
            fix = f'write `["{given}"]`'
        source.fault(path, f"expected {_WANTED[kind]}, found `{_shown(given)}`", fix)
    elif kind in _RANGES:
        key, words = _RANGES[kind]
        source.fault(path, f"`{given}` is out of range", f"write a number {words} {context[key]:.15g}")
    elif kind == "string_too_short":
        source.fault(path, f"`{name}` is empty", "write something or remove the key")
    elif kind == "too_short":
        source.fault(path, f"`{name}` is empty", "write at least one entry or remove the key")
    elif kind == "string_pattern_mismatch":
        at_key = bool(path) and path[-1] == "[key]"
        words = PATTERN_WORDS.get(context["pattern"], context["pattern"])
        source.fault(path, f"`{given}` is no valid name here", f"use {words}", at_key=at_key)
    elif "fix" in context:
        source.fault(path, str(context.get("said", error["msg"])), str(context["fix"]))
    else:
        source.fault(path, str(error["msg"]).lower(), "see the documents' guide")


def _shown(value: Any) -> str:
    words = {dict: "a mapping", list: "a list", type(None): "nothing"}
    return words.get(type(value), str(value).lower() if isinstance(value, bool) else str(value)[:80])


def _fields_at(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The keys that may stand at ``path``."""
    here: Any = model
    for step in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            fields = {field.alias or name: field.annotation for name, field in here.model_fields.items()}
            here = _bare(fields.get(str(step)))
        else:
            arguments = get_args(here)
            here = _bare(arguments[-1]) if arguments else None
    if isinstance(here, type) and issubclass(here, BaseModel):
        return [field.alias or name for name, field in here.model_fields.items()]
    return []


def _bare(annotation: Any) -> Any:
    """The annotation without `Annotated` and without `None`."""
    while hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if get_origin(annotation) in (Union, types.UnionType):
        real = [each for each in get_args(annotation) if each is not type(None)]
        return _bare(real[-1])
    return annotation
