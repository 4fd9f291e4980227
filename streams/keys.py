"""The key files of the run folder: made, loaded, 0600, written atomically, never printed.

``keys/agents.master`` holds 32 random bytes from which every agent's HMAC secret derives; an agent gets only its own,
as ``agent.<id>.key`` (base64), or an Ed25519 key (``ed25519:`` and base64 of the seed). People, operators and monitors
have ``<kind>.<id>.key`` (base64 of a 32-byte Ed25519 seed). ``operators.json`` maps key ids to base64 public keys: it
is the root of trust for commands, and is read from disk by every process, never from the log; so is ``gates.json`` for
grants, by every worker.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sluicegate.schemas.errors import BadInput
from sluicegate.streams.identity import Ed25519Signer, Ed25519Verifier, HmacKey, agent_secret, public_key

if TYPE_CHECKING:
    from sluicegate.streams.settings import Settings

KEY_BYTES: Final = 32
ID_CHARS_MAX: Final = 128
ED25519_PREFIX: Final = "ed25519:"
MASTER: Final = "agents.master"
AUDIT_MASTER: Final = "audits.master"
OPERATORS: Final = "operators.json"
MONITORS: Final = "monitors.json"
GATES: Final = "gates.json"
POOLS: Final = "pools.json"
OVERSIGHT: Final = "oversight"
GATE: Final = "gate"
"""The one name under which every gate of a tenant signs grants."""


def keys_dir(settings: Settings) -> Path:
    """The folder of the keys."""
    return Path(settings.run_dir) / "keys"


def _checked_id(name: str) -> str:
    bad = not name or name.startswith(".") or len(name) > ID_CHARS_MAX or not name.isprintable()
    if bad or any(sign in name for sign in "/\\ "):
        raise BadInput(f"`{name}` cannot be an id here; use letters, digits, `.`, `_`, `-`, at most {ID_CHARS_MAX}")
    return name


def write_private(path: Path, content: bytes, *, replace: bool) -> bool:
    """Write a 0600 file whole or not at all. With ``replace=False`` an existing file stays and False comes back."""
    for folder in (path.parent.parent, path.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
            return True
        try:
            os.link(draft, path)  # fails when the name is taken, so two processes cannot both make a key
        except FileExistsError:
            return False
        return True
    finally:
        draft.unlink(missing_ok=True)


def read_private(path: Path, remedy: str) -> bytes:
    """The content of a key file. Raises BadInput when it is missing, unreadable or open to other users."""
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"no key file `{path}`; {remedy}") from None
    except OSError as error:
        raise BadInput(f"key file `{path}` cannot be read ({error.strerror}); {remedy}") from None
    if mode & 0o077:
        raise BadInput(f"key file `{path}` is open to other users; run `chmod 600 {path}` and think about a new key")
    return content


def _decoded(path: Path, text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise BadInput(f"key file `{path}` does not hold {KEY_BYTES} bytes in base64; delete it and make the key again")
    return raw


def make_master(settings: Settings) -> bytes:
    """The tenant's master key of agents, made on first use."""
    write_private(keys_dir(settings) / MASTER, secrets.token_bytes(KEY_BYTES), replace=False)
    return load_master(settings)


def load_master(settings: Settings) -> bytes:
    """The master key; raises BadInput when there is none. Only the gate and the enrolment verb need it."""
    return _load_master(keys_dir(settings) / MASTER)


def make_audit_master(settings: Settings) -> bytes:
    """The tenant's master key of audits, made on first use."""
    write_private(keys_dir(settings) / AUDIT_MASTER, secrets.token_bytes(KEY_BYTES), replace=False)
    return load_audit_master(settings)


def load_audit_master(settings: Settings) -> bytes:
    """The key from which those of the epochs derive; raises BadInput when there is none.

    Only gate and oversight need it; who verifies without it waits until an epoch's key is told.
    """
    return _load_master(keys_dir(settings) / AUDIT_MASTER)


def has_audit_master(settings: Settings) -> bool:
    """Whether this run folder has the master key of audits."""
    return (keys_dir(settings) / AUDIT_MASTER).exists()


def _load_master(path: Path) -> bytes:
    master = read_private(path, "start `sluicegate up` once, or copy it from the gate's host")
    if len(master) != KEY_BYTES:
        raise BadInput(f"key file `{path}` does not hold {KEY_BYTES} bytes; restore it from a backup")
    return master


def new_agent(settings: Settings, agent_id: str) -> None:
    """Derive an agent's HMAC key from the master and put it beside; again gives the same file."""
    path = keys_dir(settings) / f"agent.{_checked_id(agent_id)}.key"
    secret = agent_secret(load_master(settings), agent_id)
    write_private(path, base64.b64encode(secret), replace=False)


def new_agent_ed25519(settings: Settings, agent_id: str) -> str:
    """Make an agent an Ed25519 key instead; the public key in base64, for `agents.yaml`."""
    path = keys_dir(settings) / f"agent.{_checked_id(agent_id)}.key"
    content = ED25519_PREFIX.encode() + base64.b64encode(secrets.token_bytes(KEY_BYTES))
    if not write_private(path, content, replace=False):
        raise BadInput(f"agent `{agent_id}` has a key in `{path}`; delete that file first if it shall get another")
    return base64.b64encode(_ed25519_of(path, f"agent/{agent_id}", content.decode()).public()).decode()


def _ed25519_of(path: Path, key_id: str, text: str) -> Ed25519Signer:
    return Ed25519Signer(key_id, _decoded(path, text.removeprefix(ED25519_PREFIX)))


def agent_signer(settings: Settings, agent_id: str) -> HmacKey | Ed25519Signer:
    """The signer of an agent from its own key file; raises BadInput when it has none."""
    path = keys_dir(settings) / f"agent.{_checked_id(agent_id)}.key"
    remedy = f"run `sluicegate agents enroll {agent_id}` and put the key file there"
    text = read_private(path, remedy).decode("ascii", "replace").strip()
    if text.startswith(ED25519_PREFIX):
        return _ed25519_of(path, f"agent/{agent_id}", text)
    return HmacKey(f"agent/{agent_id}", _decoded(path, text))


def _load(settings: Settings, kind: str, name: str) -> Ed25519Signer:
    path = keys_dir(settings) / f"{kind}.{_checked_id(name)}.key"
    remedy = f"make one for {kind} `{name}` first, or name somebody who has a key in `{path.parent}`"
    text = read_private(path, remedy).decode("ascii", "replace").strip()
    return _ed25519_of(path, f"{kind}/{name}", text)


def _make(settings: Settings, kind: str, name: str) -> str:
    path = keys_dir(settings) / f"{kind}.{_checked_id(name)}.key"
    write_private(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)), replace=False)
    return base64.b64encode(_load(settings, kind, name).public()).decode()


def person_signer(settings: Settings, person_id: str) -> Ed25519Signer:
    """The signer of a reviewer; raises BadInput when there is no key file."""
    return _load(settings, "person", person_id)


def operator_signer(settings: Settings, operator_id: str) -> Ed25519Signer:
    """The signer of an operator; raises BadInput when there is no key file."""
    return _load(settings, "operator", operator_id)


def monitor_signer(settings: Settings, monitor_id: str) -> Ed25519Signer:
    """The signer of a monitor; raises BadInput when there is no key file."""
    return _load(settings, "monitor", monitor_id)


def new_person(settings: Settings, person_id: str) -> str:
    """Make a reviewer's key on first use; the public key in base64, for `reviewers.yaml`."""
    return _make(settings, "person", person_id)


def new_operator(settings: Settings, operator_id: str) -> str:
    """Make an operator's key on first use and trust it in `operators.json`; the public key in base64."""
    public = _make(settings, "operator", operator_id)
    _trust(settings, OPERATORS, f"operator/{operator_id}", public)
    return public


def oversight_signer(settings: Settings) -> Ed25519Signer:
    """The signer of oversight; raises BadInput when there is no key file."""
    return _load(settings, OVERSIGHT, OVERSIGHT)


def new_oversight(settings: Settings) -> str:
    """Make oversight's key on first use and trust it in `operators.json`; the public key in base64."""
    public = _make(settings, OVERSIGHT, OVERSIGHT)
    _trust(settings, OPERATORS, f"{OVERSIGHT}/{OVERSIGHT}", public)
    return public


def gate_signer(settings: Settings) -> Ed25519Signer:
    """The signer of grants; raises BadInput when there is no key file. Only the gate needs it."""
    return _load(settings, "gate", GATE)


def new_gate(settings: Settings) -> str:
    """Make the gate's key on first use and trust it in `gates.json`; the public key in base64."""
    public = _make(settings, "gate", GATE)
    _trust(settings, GATES, f"gate/{GATE}", public)
    return public


def pool_signer(settings: Settings, pool: str) -> Ed25519Signer:
    """What a pool of workers asks for keys with; raises BadInput when there is no key file."""
    return _load(settings, "pool", pool)


def new_pool(settings: Settings, pool: str) -> str:
    """Make a pool's key on first use and trust it for asking keys; the public key in base64."""
    public = _make(settings, "pool", pool)
    _trust(settings, POOLS, f"pool/{pool}", public)
    return public


def new_monitor(settings: Settings, monitor_id: str) -> str:
    """Make a monitor's key on first use and trust it for incidents; the public key in base64."""
    public = _make(settings, "monitor", monitor_id)
    _trust(settings, MONITORS, f"monitor/{monitor_id}", public)
    return public


def _trust(settings: Settings, file: str, key_id: str, public: str) -> None:
    known = _trusted(settings, file)
    if known.get(key_id) != public:
        content = json.dumps({**known, key_id: public}, indent=2, sort_keys=True)
        write_private(keys_dir(settings) / file, content.encode(), replace=True)


def _trusted(settings: Settings, file: str) -> dict[str, str]:
    path = keys_dir(settings) / file
    if not path.exists():
        return {}
    content = read_private(path, "make an operator's key first")
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise BadInput(f"`{path}` is not a JSON object of key ids and public keys; restore it from a backup")
    return found


def trusted_operators(settings: Settings) -> dict[str, Ed25519Verifier]:
    """Key id to verifier of everyone whose commands count here; empty when nobody's do.

    The key of oversight is among them: the fold takes of it what begins and ends epochs of sampled audit.
    """
    trusted = _trusted(settings, OPERATORS).items()
    # A monitor's key in this file must not command, whoever put it there.
    return {key_id: public_key(text) for key_id, text in trusted if key_id.startswith(("operator/", "oversight/"))}


def trusted_pools(settings: Settings) -> dict[str, Ed25519Verifier]:
    """Key id to verifier of every pool that may ask for the keys of jobs."""
    trusted = _trusted(settings, POOLS).items()
    return {key_id: public_key(text) for key_id, text in trusted if key_id.startswith("pool/")}


def trusted_gates(settings: Settings) -> dict[str, Ed25519Verifier]:
    """Key id to verifier of whoever may sign grants; empty when no grant can be believed here."""
    trusted = _trusted(settings, GATES).items()
    return {key_id: public_key(text) for key_id, text in trusted if key_id.startswith("gate/")}


def trusted_monitors(settings: Settings) -> dict[str, Ed25519Verifier]:
    """Key id to verifier of every monitor whose incidents count here."""
    trusted = _trusted(settings, MONITORS).items()
    return {key_id: public_key(text) for key_id, text in trusted if key_id.startswith("monitor/")}
