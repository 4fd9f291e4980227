"""One processor as a process: reads its settings, says when it is ready, ends cleanly or with a reason.

A process writes ``run/<name>.<instance>.json`` (pid, health port, ready) into the run folder, serves health and
metrics on loopback, and returns an exit code: 0 after SIGTERM or SIGINT, 1 when it must be started again, 2 when its
configuration cannot be used.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sluicegate.processors.control import Control, snapshot_terms
from sluicegate.schemas.codec import Codec
from sluicegate.schemas.errors import BadInput, LoginRefused, SluicegateError
from sluicegate.schemas.events import Acknowledged
from sluicegate.schemas.payload import NONE
from sluicegate.schemas.sealing import Keyring, NoKeyring
from sluicegate.streams.control_epochs import epoch_key
from sluicegate.streams.control_fold import ControlFold
from sluicegate.streams.control_reader import ControlConfig, ControlReader
from sluicegate.streams.control_state import COMMANDS, ControlState
from sluicegate.streams.engine import Out, Record
from sluicegate.streams.key_store import KeyStore, StoreKeyring, key_store_path
from sluicegate.streams.keys import (
    gate_signer,
    load_audit_master,
    load_master,
    oversight_signer,
    trusted_monitors,
    trusted_operators,
)
from sluicegate.streams.logins import kafka_config
from sluicegate.streams.registry import registry_for
from sluicegate.streams.topics import APPLICATIONS

if TYPE_CHECKING:
    from sluicegate.processors.plane import Plane
    from sluicegate.streams.health import Health
    from sluicegate.streams.settings import Settings

log = logging.getLogger(__name__)

STEPS: Final = ("gate", "outputs", "desk")
AGAIN: Final = 1
UNUSABLE: Final = 2
ANNOUNCE_SEC: Final = 0.1


class Announcer:
    """Keeps the ready file true: rewritten whenever readiness changes."""

    def __init__(self, path: Path, health: Callable[[], Health], port: int) -> None:
        self._path, self._health, self._port = path, health, port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(ready=False)
        self._thread.start()

    def _write(self, *, ready: bool) -> None:
        draft = self._path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps({"pid": os.getpid(), "health_port": self._port, "ready": ready}))
        draft.replace(self._path)

    def _run(self) -> None:
        known = False
        while not self._stop.wait(ANNOUNCE_SEC):
            ready = self._health().ready
            if ready != known:
                known = ready
                self._write(ready=ready)

    def close(self) -> None:
        """Stop and take the file away."""
        self._stop.set()
        self._thread.join()
        self._path.unlink(missing_ok=True)


def run_processor(name: str, settings: Settings, instance: str, ddl: Sequence[str] = ()) -> int:
    """Run one processor until it is told to stop; the exit code. ``ddl`` makes the projector's tables."""
    from sluicegate.streams.logs import set_up_logs

    set_up_logs(name, instance)
    try:
        if name in STEPS:
            _run_step(_plane(name), settings, instance)
        elif name == "watch":
            _run_watch(settings, instance)
        elif name == "oversight":
            _run_oversight(settings, instance)
        elif name == "keys":
            _run_keys(settings, instance)
        elif name == "projector":
            _run_projector(settings, instance, ddl)
        else:
            log.error("`%s` is no processor; run gate, outputs, desk, watch, oversight, keys or projector", name)
            return UNUSABLE
    except (BadInput, LoginRefused) as error:
        log.error("%s", error)  # noqa: TRY400  # its text says what to do; a traceback would bury it
        return UNUSABLE
    except SluicegateError as error:
        log.error("%s", error)  # noqa: TRY400  # as above
        return AGAIN
    except Exception:
        log.exception("`%s` failed", name)
        return AGAIN
    return 0


def _plane(name: str) -> Plane:
    from sluicegate.processors import desk, gate, outputs

    return {"gate": gate.PLANE, "outputs": outputs.PLANE, "desk": desk.PLANE}[name]


def _announced(name: str, settings: Settings, instance: str, health: Callable[[], Health]) -> Callable[[], None]:
    from sluicegate.streams.health import HealthServer

    server = HealthServer(health, {"application": name, "instance": instance})
    announcer = Announcer(settings.run_dir / "run" / f"{name}.{instance}.json", health, server.port)

    def close() -> None:
        announcer.close()
        server.close()

    return close


SEALING: Final = ("gate", "outputs")
"""The steps that open and seal envelopes."""
KNOWS_AGENTS: Final = ("gate", "keys")
"""Who checks what agents sign, and so derives their keys from the master secret."""


def step_keyring(settings: Settings) -> Keyring:
    """What a step opens envelopes with: the key store of this run folder, where payloads are sealed.

    Raises BadInput when it is missing or open to others.
    """
    if settings.sealing == NONE:
        return NoKeyring()
    store = KeyStore(key_store_path(settings))
    store.check()
    return StoreKeyring(store)


def _epoch_keys(settings: Settings) -> Callable[[int], bytes | None]:
    """The keys of the epochs of sampled audit. Raises BadInput without the master key, without which all is drawn."""
    master = load_audit_master(settings)
    return lambda number: epoch_key(master, number)


class StepControl:
    """The `ControlSource` of a step: compiles once per folded state, waits until a policy is active."""

    def __init__(self, settings: Settings, name: str, instance: str, codec: Codec) -> None:
        self._codec, self._instance, self._tenant = codec, instance, settings.tenant
        self._master = load_master(settings) if name in KNOWS_AGENTS else None
        self._signer = gate_signer(settings) if name == "gate" else None
        self._keys = step_keyring(settings) if name in SEALING else None
        self._epoch_keys = _epoch_keys(settings) if name == "gate" else None
        self._operators = trusted_operators(settings)
        self._monitors = trusted_monitors(settings)
        config = ControlConfig(
            connection=kafka_config(settings, name),
            group=name,
            instance=instance,
            tenant=settings.tenant,
            age_ms_max=settings.control_age_ms_max,
        )
        fold = ControlFold(codec, settings.tenant, self._operators, snapshot_terms)
        self._reader: ControlReader[ControlState] = ControlReader(
            config,
            fold,
            ControlState(),
            complete=lambda state: state.active is not None,
            acknowledge=self._acknowledge if name == "gate" else None,
        )
        self._known: tuple[ControlState, Control] | None = None

    def start(self) -> None:
        self._reader.start()

    def stop(self) -> None:
        self._reader.stop()

    def current(self) -> Control:
        state = self._reader.current()
        if self._known is None or self._known[0] is not state:
            keys = {**self._operators, **self._monitors}
            self._known = (
                state,
                Control(state, self._tenant, self._master, keys, self._signer, self._keys, self._epoch_keys),
            )
        return self._known[1]

    def _acknowledge(self, state: ControlState, record: Record) -> Out | None:
        last = state.last if record.topic == COMMANDS else state.last_snapshot
        if last is None:
            return None
        # What is active while a snapshot is folded depends on how this process read two topics: it is not said.
        active = state.active if record.topic == COMMANDS else None
        event = Acknowledged(
            instance=self._instance,
            control_offset=record.offset,
            command_id=last.command_id,
            accepted=last.accepted,
            code=last.code,
            policy_snapshot=None if active is None else active.name,
            topic=record.topic,
        )
        ack_id = f"ack/{self._instance}/{record.topic}/{record.offset}"
        headers = (("ce_specversion", b"1.0"), ("ce_id", ack_id.encode()))
        kind = ("ce_type", b"sluicegate.Acknowledged.v1")
        key = f"gate/{self._instance}".encode()
        return Out("job.decisions", key, self._codec.encode(event), (*headers, kind))


def _run_step(plane: Plane, settings: Settings, instance: str) -> None:
    from sluicegate.streams.health import Health
    from sluicegate.streams.quix import EngineConfig, QuixEngine

    codec = Codec(registry_for(settings.registry_url))
    control = StepControl(settings, plane.name, instance, codec)
    config = EngineConfig(
        application=APPLICATIONS[plane.name],
        instance=instance,
        connection=kafka_config(settings, plane.name),
        state_dir=settings.run_dir / "state" / plane.name / instance,
        tenant=settings.tenant,
        interval_ms=settings.commit_interval_ms,
        session_timeout_ms=settings.session_timeout_ms,
        transaction_timeout_ms=settings.transaction_timeout_ms,
    )
    engine: QuixEngine[Control] = QuixEngine(config, plane.bound(codec, settings.tenant, settings.partitions), control)

    def health() -> Health:
        return Health(engine.status.ready, _details(engine.status))

    control.start()
    close = _announced(plane.name, settings, instance, health)
    try:
        engine.run()
    finally:
        close()
        control.stop()


def _details(status: msgspec.Struct) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(status)
    found.pop("ready", None)
    return found


def _run_watch(settings: Settings, instance: str) -> None:
    from sluicegate.processors import watch
    from sluicegate.streams.health import Health

    closers: list[Callable[[], None]] = []

    def on_start(running: watch.Watch) -> None:
        def health() -> Health:
            status = running.status()
            return Health(status.ready, _details(status))

        closers.append(_announced("watch", settings, instance, health))

    try:
        watch.main(settings, instance, on_start)
    finally:
        _all(closers)


def _run_oversight(settings: Settings, instance: str) -> None:
    from sluicegate.processors.oversight import Oversight, serve
    from sluicegate.streams.health import Health

    stop = _stopped_by_signals()
    codec = Codec(registry_for(settings.registry_url))
    master, signer = load_audit_master(settings), oversight_signer(settings)
    control = StepControl(settings, "oversight", instance, codec)
    closers: list[Callable[[], None]] = [control.stop]

    def on_start(running: Oversight) -> None:
        closers.append(_announced("oversight", settings, instance, lambda: Health(running.ready, {})))

    control.start()
    try:
        serve(settings, codec, control, signer, master, stop, on_start)
    finally:
        _all(closers)


def _stopped_by_signals() -> threading.Event:
    """What is set when this process is told to end."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _run_keys(settings: Settings, instance: str) -> None:
    from sluicegate.processors.key_process import Requests, serve
    from sluicegate.streams.health import Health

    stop = _stopped_by_signals()
    codec = Codec(registry_for(settings.registry_url))
    control = StepControl(settings, "keys", instance, codec)
    closers: list[Callable[[], None]] = [control.stop]

    def on_start(requests: Requests) -> None:
        closers.append(_announced("keys", settings, instance, lambda: Health(requests.caught_up, {})))

    control.start()
    try:
        serve(settings, codec, control, stop, on_start)
    finally:
        _all(closers)


def _run_projector(settings: Settings, instance: str, ddl: Sequence[str]) -> None:
    from sluicegate.processors.audit_service import serve
    from sluicegate.processors.projector import Projector
    from sluicegate.streams.health import Health

    stop = _stopped_by_signals()
    closers: list[Callable[[], None]] = []

    def on_start(projector: Projector) -> None:
        def health() -> Health:
            status = projector.status()
            return Health(status.ready, _details(status))

        closers.append(_announced("projector", settings, instance, health))

    try:
        serve(settings, ddl, stop, on_start)
    finally:
        _all(closers)


def _all(closers: Iterable[Callable[[], None]]) -> None:
    for close in closers:
        close()
