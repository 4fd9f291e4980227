"""Logins of the broker: who there is, their passwords (0600, never printed), and how a client connects as one."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sluicegate.schemas.errors import BadInput
from sluicegate.streams.topics import physical

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

ADMIN: Final = "admin"
BROKER: Final = "broker"
CONTROLLER: Final = "controller"
SUPER_USERS: Final = (ADMIN, BROKER, CONTROLLER)
"""Logins of the cluster; no tenant stands before them."""
SERVICES: Final = (
    *("gate", "outputs", "desk", "watch", "oversight", "keys", "projector"),
    *("reviewer", "operator", "monitor", "auditor"),
)
"""One login each in a tenant; agents (`agent.<id>`) and worker pools (`worker.<pool>`) have one each besides."""
_PASSWORD_BYTES: Final = 24


def new_password() -> str:
    """192 random bits, of letters, digits, `-` and `_`: nothing that a JAAS line or a shell would read otherwise."""
    return secrets.token_urlsafe(_PASSWORD_BYTES)


def login_of(settings: Settings, user: str) -> str:
    """The broker's name of a login: the tenant's prefix, but for the cluster's own logins."""
    return user if user in SUPER_USERS else physical(settings.tenant, user)


def load_logins(path: Path) -> dict[str, str]:
    """Login to password; empty when there is no file.

    Raises BadInput when it is open to other users, unreadable, or no JSON object of texts.
    """
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInput(f"logins file `{path}` cannot be read ({error.strerror})") from None
    if mode & 0o077:
        raise BadInput(f"logins file `{path}` is open to other users; run `chmod 600 {path}` and make new passwords")
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise BadInput(f"logins file `{path}` is not a JSON object of logins and passwords; restore it from a backup")
    return found


def save_logins(path: Path, logins: Mapping[str, str]) -> None:
    """Write the file whole or not at all, 0600, in a folder that only its owner may enter if it is made here."""
    private_folder(path.parent)
    write_private(path, json.dumps(dict(sorted(logins.items())), indent=2).encode() + b"\n")


def private_folder(path: Path) -> None:
    """Make a folder 0700; one that exists stays as it is."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically by one that only its owner may read."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def password_of(settings: Settings, user: str) -> str:
    """The password of a login. Raises BadInput when the logins file holds none."""
    login = login_of(settings, user)
    found = load_logins(settings.logins_path).get(login)
    if found is None:
        raise BadInput(f"no password of `{login}` in `{settings.logins_path}`; {_remedy(user)}")
    return found


def _remedy(user: str) -> str:
    if user.startswith("agent."):
        return f"run `sluicegate agents enroll {user.removeprefix('agent.')}` first"
    if user.startswith("worker."):
        return f"name the pool `{user.removeprefix('worker.')}` under `pools` and start `sluicegate up`"
    return "start `sluicegate up` once, or put the login there"


def kafka_config(settings: Settings, user: str, **extra: str | int) -> dict[str, str]:
    """Librdkafka's settings of a connection as ``user`` (without tenant); keyword ``a_b`` adds ``a.b``.

    Raises BadInput when there is no password, Unavailable when no broker was ever started here.
    """
    config = {
        "bootstrap.servers": settings.servers,
        "security.protocol": settings.security_protocol,
        "sasl.mechanism": settings.sasl_mechanism,
        "sasl.username": login_of(settings, user),
        "sasl.password": password_of(settings, user),
        # A broker that was away comes back at the same address within seconds: look often, the default goes up to 10 s.
        "reconnect.backoff.max.ms": "1000",
    }
    if settings.ssl_ca_location:
        config["ssl.ca.location"] = settings.ssl_ca_location
    config.update({name.replace("_", "."): str(value) for name, value in extra.items()})
    return config


def faust_credentials(settings: Settings, user: str) -> Any:
    """The same login for Faust (`broker_credentials`); loads Faust only here."""
    import ssl

    import faust

    context = None
    if settings.security_protocol == "SASL_SSL":
        context = ssl.create_default_context(cafile=settings.ssl_ca_location or None)
    return faust.SASLCredentials(
        username=login_of(settings, user),
        password=password_of(settings, user),
        mechanism=settings.sasl_mechanism,
        ssl_context=context,
    )
