"""The settings of one tenant on one machine: where broker, store and keys are, and every limit with its unit.

They come, first one wins, from the arguments of `Settings`, from `SLUICEGATE_*` in the environment, and from
`sluicegate.yaml` in the working folder or the file that `SLUICEGATE_CONFIG` names. Importing this module loads neither
Kafka nor ClickHouse, so that an offline verb starts quickly.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from sluicegate.schemas.errors import BadInput, Unavailable
from sluicegate.streams.topics import DEFAULT_POOL, DEFAULT_TENANT, TOPICS

if TYPE_CHECKING:
    from sluicegate.streams.control_state import StepSettings

CONFIG_FILE: Final = "sluicegate.yaml"
CONFIG_VARIABLE: Final = "SLUICEGATE_CONFIG"
PREFIX: Final = "SLUICEGATE_"
TENANT_CHARS_MAX: Final = 20
"""A changelog's name holds the tenant once per input, and Kafka's topic names end at 249 characters."""
_WORD: Final = re.compile(r"[a-z0-9][a-z0-9_-]*")
RESERVED: Final = frozenset(
    {spec.name.split(".")[0] for spec in TOPICS}
    | {role for spec in TOPICS for role in spec.writers | spec.readers}
    | {"admin", "broker", "controller"}
)
"""What no tenant may be called: names and prefixes of the default tenant's topics, groups and logins begin so."""


class Settings(BaseSettings):
    """What one process knows of its surroundings. Raises BadInput for a key, a value or a file that cannot be used."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True)

    tenant: str = DEFAULT_TENANT
    """Prefix of topics, groups and logins; `default` has none."""
    run_dir: Path = Path(".sluicegate")
    """Passwords, keys, the embedded broker's and store's data, the engine's state; 0700."""
    policies: Path = Path("policies")
    """The folder of policy documents that `up` publishes first."""

    bootstrap: str = ""
    """Kafka's servers, `host:port,...`; empty for the embedded broker, whose address stands in the run folder."""
    security_protocol: str = "SASL_PLAINTEXT"
    sasl_mechanism: str = "SCRAM-SHA-256"
    ssl_ca_location: str = ""
    """A file of certificates to trust, for `SASL_SSL`; empty for the system's."""
    logins_file: Path | None = None
    """Login to password, 0600; by default `logins.json` in the run folder."""
    partitions: int = Field(default=3, ge=1, le=1_000)
    """How many partitions each keyed topic has. Fixed once topics exist."""
    replication: int = Field(default=-1, ge=-1, le=10)
    """Replicas of the topics that we make; -1 for the broker's own default."""
    pools: Annotated[tuple[str, ...], NoDecode] = (DEFAULT_POOL,)
    """The worker pools that exist; each has a topic of grants and a login. `a,b` in the environment."""
    sealing: Literal["none", "AES-256-GCM"] = "AES-256-GCM"
    """What payloads, outputs and results are sealed with, under keys of the key service (`run keys`) and of no other;
    with `none` they stand in the log in the clear."""
    registry_url: str = ""
    """A Confluent-compatible schema registry; empty for the schemas in the package."""

    clickhouse_dsn: str = ""
    """A ClickHouse server; empty for the embedded store under the run folder."""
    audit_port: int = Field(default=0, ge=0, le=65_535)
    """Loopback port of the audit service; 0 picks a free one and writes it into the run folder."""
    metrics_port: int = Field(default=0, ge=0, le=65_535)
    """Loopback port of health and metrics of the first process, the next ones count up; 0 picks free ones."""

    control_age_ms_max: int = Field(default=500, ge=100, le=8_000)
    """How old the last look at the end of `control.commands` may be when a judgement or a handler starts."""
    commit_interval_ms: int = Field(default=50, ge=1, le=5_000)
    transaction_timeout_ms: int = Field(default=10_000, ge=9_000, le=60_000)
    """Above the 8 s that a step waits for fresh control, so that waiting never breaks a transaction."""
    session_timeout_ms: int = Field(default=6_000, ge=1_000, le=60_000)
    handlers_max: int = Field(default=8, ge=1, le=1_000)
    """Jobs that one worker runs at once."""

    request_timeout_sec: int = Field(default=3_600, ge=1)
    audit_epoch_sec: int = Field(default=86_400, ge=60)
    """How long jobs are drawn for audit under one key, which is told afterwards."""
    start_within_sec: int = Field(default=300, ge=1)
    attempt_lease_sec: int = Field(default=30, ge=3)
    attempts_max: int = Field(default=3, ge=1, le=100)
    hold_first_sec: int = Field(default=5, ge=1)
    hold_max_sec: int = Field(default=60, ge=1)
    unmatched_wait_sec: int = Field(default=30, ge=1)
    payload_bytes_max: int = Field(default=262_144, ge=1, le=524_288)
    intents_per_min_max: int = Field(default=6_000, ge=1)
    in_flight_max: int = Field(default=1_000, ge=1)
    open_requests_max: int = Field(default=200, ge=1)
    topics_per_day_max: int = Field(default=500, ge=1, le=10_000)
    """Distinct topics that one agent may use in a day (UTC)."""
    agent_bytes_per_sec_max: int = Field(default=500_000, ge=1_000)
    """What the broker takes from one agent's login; on average: of two seconds on the embedded broker, else of ten."""
    parked_max: int = Field(default=4_000, ge=1)
    """Of an agent's jobs in flight each may have a start, signs of life and an output that outputs, back from a crash,
    reads before the grants; what is refused then is lost, so this covers all of `in_flight_max`."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise BadInput(_explain(error)) from None

    @field_validator("tenant")
    @classmethod
    def _tenant(cls, value: str) -> str:
        if len(value) > TENANT_CHARS_MAX or not _WORD.fullmatch(value):
            raise ValueError(f"use at most {TENANT_CHARS_MAX} of a-z, 0-9, `_`, `-`")
        if value in RESERVED:
            raise ValueError("that word begins names of the default tenant; take another")
        return value

    @field_validator("pools", mode="before")
    @classmethod
    def _pools(cls, value: Any) -> Any:
        return tuple(value.split(",")) if isinstance(value, str) else value

    @field_validator("pools")
    @classmethod
    def _pool_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pool in value:
            if not _WORD.fullmatch(pool):
                raise ValueError(f"pool `{pool}` is no name; use a-z, 0-9, `_`, `-`")
        return tuple(dict.fromkeys((*value, DEFAULT_POOL)))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, file; no `.env`, no folder of secrets."""
        return init_settings, env_settings, _FileSource(settings_cls)

    @property
    def logins_path(self) -> Path:
        """The file of logins and passwords."""
        return self.logins_file or self.run_dir / "logins.json"

    @property
    def endpoint_path(self) -> Path:
        """Where the embedded broker writes its address."""
        return self.run_dir / "kafka" / "endpoint"

    @property
    def embedded(self) -> bool:
        """Whether the broker is ours to start."""
        return not self.bootstrap

    @property
    def servers(self) -> str:
        """Kafka's servers. Raises Unavailable when the embedded broker was never started in this run folder."""
        if self.bootstrap:
            return self.bootstrap
        try:
            return self.endpoint_path.read_text().strip()
        except OSError:
            raise Unavailable(
                f"no broker was started in `{self.run_dir}`; run `sluicegate up` first, or set `bootstrap`"
            ) from None

    def step_settings(self) -> StepSettings:
        """The part that judgements depend on, as it travels in the activating command."""
        from sluicegate.streams.control_state import StepSettings

        return StepSettings(**{name: getattr(self, name) for name in StepSettings.__struct_fields__})


class _FileSource(PydanticBaseSettingsSource):
    """The YAML file; a missing default file is no settings, a missing named one is an error."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        named = os.environ.get(CONFIG_VARIABLE, "")
        path = Path(named or CONFIG_FILE)
        if not named and not path.exists():
            return {}
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise BadInput(f"settings file `{path}` cannot be read ({error.strerror})") from None
        except (UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadInput(f"settings file `{path}` is no YAML: {' '.join(str(error).split())}") from None
        if found is None:
            return {}
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise BadInput(f"settings file `{path}` must hold `name: value` lines")
        for name in found:
            if name not in Settings.model_fields:
                raise BadInput(f"settings file `{path}`: {_unknown(name)}")
        return found


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, Settings.model_fields, n=1)
    return f"no setting is called `{name}`" + (f"; did you mean `{near[0]}`?" if near else "; see the README's table")


def _explain(error: ValidationError) -> str:
    lines = []
    for fault in error.errors(include_url=False):
        name = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            lines.append(_unknown(name))
            continue
        said = fault["msg"].removeprefix("Value error, ")
        lines.append(f"setting `{name}` cannot be `{fault['input']}`: {said[:1].lower()}{said[1:]}")
    return "; ".join(lines)
