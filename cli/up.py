"""`sluicegate up`: everything at once on this machine, until Ctrl-C."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sluicegate.cli.configuration import OPERATOR, OperatorOption, policies_folder, settings
from sluicegate.cli.output import JsonOption, Output
from sluicegate.cli.visible import visible
from sluicegate.schemas.errors import BadInput, SluicegateError

if TYPE_CHECKING:
    from rich.table import Table

    from sluicegate.cli.prepare import Prepared
    from sluicegate.infra.supervisor import ProcessState, Supervisor

LOOK_SEC: Final = 0.5
BROKER_AGAIN_SEC: Final = 5.0
HEALTH_SEC_MAX: Final = 1.0
LAG_NAMES: Final = ("lag_records", "behind", "waiting_requests")
"""What steps, projector and watch call the records they have still to read."""


def up(
    policies: Annotated[
        str,
        typer.Option(
            "--policies", help="Folder to publish first; by default the setting `policies`, else the shipped one."
        ),
    ] = "",
    instances: Annotated[
        list[str] | None, typer.Option("--instances", help="NAME=COUNT, such as `gate=2`; may be repeated.")
    ] = None,
    operator: OperatorOption = OPERATOR,
    as_json: JsonOption = False,
) -> None:
    """Start everything: Kafka with users and access control lists, the policy, every processor, the reading room.

    Kafka and ClickHouse are embedded unless `bootstrap` and `clickhouse_dsn` name yours. The first start downloads
    Kafka's jars once. Each processor is a process of its own and is restarted when it ends. Ctrl-C ends all of them,
    the data stays in the run folder. With --json one document is printed when everything is ready.
    """
    out = Output(as_json)
    counts = dict([_count(each) for each in instances or ()])
    found = settings()
    folder = policies_folder(found, policies)
    from sluicegate.cli.prepare import prepare
    from sluicegate.infra.supervisor import Supervisor

    with _ended_by_signals():
        out.say(f"starting in {found.run_dir}, policies from {folder}")
        prepared = prepare(found, folder, operator)
        try:
            supervisor = Supervisor(prepared.settings, instances=counts)
            try:
                supervisor.start()
                with out.working("waiting for the processors"):
                    supervisor.wait_ready()
                _say_ready(out, prepared, supervisor)
                _watch(out, prepared, supervisor)
            except KeyboardInterrupt:
                out.say("stopping")
            finally:
                _let_nothing_interrupt()
                supervisor.stop()
        finally:
            if prepared.broker is not None:
                prepared.broker.stop()
    out.say("stopped; the data is kept")


def _count(text: str) -> tuple[str, int]:
    from sluicegate.infra.supervisor import PROCESSORS

    name, _, number = text.partition("=")
    if name not in PROCESSORS or not number.isdigit() or not 1 <= int(number) <= 16:
        raise BadInput(f"`{text}` is not NAME=COUNT with one of {', '.join(PROCESSORS)} and 1 to 16; write `gate=2`")
    if name == "projector" and int(number) > 1:
        raise BadInput("`projector` runs once: an embedded store opens in one process only")
    return name, int(number)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end this the way Ctrl-C does."""

    def end(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _let_nothing_interrupt() -> None:
    """Stopping takes seconds and must be whole: a second Ctrl-C would leave processes behind."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _say_ready(out: Output, prepared: Prepared, supervisor: Supervisor) -> None:
    found = prepared.settings
    processes = {f"{each.name}.{each.instance}": each for each in supervisor.status()}
    out.result(
        {
            "ready": True,
            "tenant": found.tenant,
            "bootstrap": found.servers,
            "run_dir": str(found.run_dir),
            "policy_snapshot": prepared.snapshot,
            "processes": {
                label: {"pid": each.pid, "health_port": each.health_port, "log": each.log}
                for label, each in processes.items()
            },
        }
    )
    out.say(f"ready: Kafka at {found.servers}, policy {prepared.snapshot}, logs in {found.run_dir}/logs")
    if prepared.awaiting:
        name = prepared.bundle.snapshot_name
        out.note(f"{name} is proposed and not active: people must agree with `sluicegate policy sign-off {name}`")
    out.next("in another terminal: sluicegate tail; sluicegate job submit job.report.read --agent researcher --wait 5")


def _watch(out: Output, prepared: Prepared, supervisor: Supervisor) -> None:
    """Show states and lag until interrupted; the broker, too, is started again when it ends."""
    shown: dict[str, str] = {}
    if out.on_terminal and not out.as_json:
        from rich.live import Live

        with Live(_table(supervisor.status()), refresh_per_second=2, transient=True) as live:
            while True:
                time.sleep(LOOK_SEC)
                _keep_broker(out, prepared)
                live.update(_table(supervisor.status()))
    while True:
        time.sleep(LOOK_SEC)
        _keep_broker(out, prepared)
        for each in supervisor.status():
            label, word = f"{each.name}.{each.instance}", f"{each.state}, restarted {each.restarts} times"
            if shown.setdefault(label, word) != word:
                shown[label] = word
                out.note(f"{label}: {word}, last exit {each.exit_code}")


def _keep_broker(out: Output, prepared: Prepared) -> None:
    broker = prepared.broker
    if broker is None or broker.running:
        return
    out.note("Kafka ended; it is started again with its data")
    try:
        broker.start()
    except SluicegateError as error:
        out.note(f"error: {visible(str(error), 600)}; tried again in {BROKER_AGAIN_SEC:g} s")
        time.sleep(BROKER_AGAIN_SEC)


def _table(states: list[ProcessState]) -> Table:
    from rich.table import Table

    table = Table("process", "state", "lag", "restarts", "up", "pid", "health", box=None, header_style="bold")
    for each in states:
        lag = _lag(each)
        table.add_row(
            f"{each.name}.{each.instance}",
            each.state,
            "-" if lag is None else str(lag),
            str(each.restarts),
            f"{each.up_sec:.0f} s",
            str(each.pid or "-"),
            "-" if each.health_port is None else f"127.0.0.1:{each.health_port}",
        )
    return table


def _lag(state: ProcessState) -> int | None:
    """Records a process has still to read, as it says itself; None while it does not say."""
    from sluicegate.infra.supervisor import health_url

    if state.health_port is None:
        return None
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
    try:
        with opener.open(health_url(state.health_port), timeout=HEALTH_SEC_MAX) as answer:
            found = json.loads(answer.read())
    except (OSError, ValueError):
        return None
    lag = next((found[name] for name in LAG_NAMES if name in found), None)
    if isinstance(lag, dict):
        return sum([int(number) for number in lag.values()])
    return lag if isinstance(lag, int) else None
