"""What verbs share: the settings, who is speaking, and the shipped policies."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sluicegate.schemas.errors import BadInput

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

READER: Final = "auditor"
"""The login that may read every topic and write none."""
OPERATOR: Final = "operator"
"""The login, and the operator's name that `up` makes a key for."""

AgentOption = Annotated[
    str, typer.Option("--agent", envvar="SLUICEGATE_AS_AGENT", help="The agent; by default the one with a key here.")
]
PersonOption = Annotated[
    str, typer.Option("--as", envvar="SLUICEGATE_AS", help="The reviewer; by default the only one with a key here.")
]
OperatorOption = Annotated[
    str, typer.Option("--operator", envvar="SLUICEGATE_AS_OPERATOR", help="The operator whose key signs.")
]


def settings() -> Settings:
    """The settings of this call. Raises BadInput, naming the setting or the file."""
    from sluicegate.streams.settings import Settings

    return Settings()


def speaker(found: Settings, kind: str, given: str) -> str:
    """The named agent or person, or the only one with a key in the run folder. Raises BadInput when that is unclear."""
    if given:
        return given
    from sluicegate.streams.keys import keys_dir

    names = sorted([path.name.split(".", 1)[1].removesuffix(".key") for path in keys_dir(found).glob(f"{kind}.*.key")])
    if len(names) == 1:
        return names[0]
    option = "--agent" if kind == "agent" else "--as"
    if not names:
        raise BadInput(f"no {kind} has a key in `{keys_dir(found)}`; start `sluicegate up` once, or put one there")
    raise BadInput(f"{option} is missing; keys are here of {', '.join([f'`{name}`' for name in names])}")


def shipped_policies() -> Path:
    """The folder of the demo's policies in this package."""
    return Path(str(resources.files("sluicegate.policies"))) / "bundles" / "demo"


def policies_folder(found: Settings, given: str = "") -> Path:
    """The folder to publish: the named one, else the setting's, else the shipped one when nothing is set or there."""
    if given:
        return Path(given)
    default = type(found).model_fields["policies"].default
    if found.policies == default and not _holds_policies(found.policies):
        return shipped_policies()
    return found.policies


def _holds_policies(folder: Path) -> bool:
    """Whether documents of a bundle stand in the folder itself; in a clone it is the package, which holds none."""
    if not folder.is_dir() or folder.resolve() == shipped_policies().parent.parent.resolve():
        return False
    return any(path.suffix in (".yaml", ".yml", ".json") for path in folder.iterdir())
