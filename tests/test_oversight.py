"""Oversight: epochs of sampled audit begin, end and are told by the clock, whatever was killed or interferes."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from fixtures_kafka import TenantFactory
from test_audits import AUDIT, begin_epoch, files, run
from world import CODEC, OPERATORS, World

from sluicegate.processors import oversight
from sluicegate.processors.audits import AUDITS
from sluicegate.processors.control import Control
from sluicegate.processors.oversight import AGAIN_MS, MARGIN_MS, Due, Oversight, due, mix_of
from sluicegate.schemas.events import AuditDrawn, Cause, Command
from sluicegate.streams.control_epochs import REVEAL_AFTER_MS, UNREVEALED_MAX, Epoch, commitment_of, epoch_key
from sluicegate.streams.control_fold import ControlFold
from sluicegate.streams.control_state import ControlState
from sluicegate.streams.identity import Ed25519Signer, Ed25519Verifier, sign
from sluicegate.streams.kafka import Publisher, event_headers
from sluicegate.streams.topics import TOPICS

MASTER = b"a" * 32
DAY = 86_400
OVERSIGHT = Ed25519Signer("oversight/oversight", b"v" * 32)


def epoch(number: int, began: int, ended: int = 0, master: bytes = MASTER) -> Epoch:
    return Epoch(number, commitment_of(epoch_key(master, number)), "1", began, ended)


@pytest.mark.parametrize(
    ("epochs", "now_ms", "expected"),
    [
        ((), 0, Due(begins=1)),
        ((epoch(1, 0),), 1_000, None),
        ((epoch(1, 0),), DAY * 1_000 - 1, None),
        ((epoch(1, 0),), DAY * 1_000, Due(begins=2)),
        ((epoch(4, 0, master=b"x" * 32),), 1_000, Due(begins=5)),
        ((epoch(1, 0, 1_000), epoch(2, 1_000)), 1_000 + REVEAL_AFTER_MS, None),
        ((epoch(1, 0, 1_000), epoch(2, 1_000)), 1_000 + REVEAL_AFTER_MS + MARGIN_MS, Due(tells=1)),
        ((epoch(1, 0, 1_000, b"x" * 32), epoch(2, 1_000)), 500_000, None),
        ((epoch(1, 0, 9), epoch(2, 9, 99), epoch(3, 99)), 500_000, Due(tells=1)),
    ],
)
def test_what_is_due_follows_from_the_log(epochs: tuple[Epoch, ...], now_ms: int, expected: Due | None) -> None:
    """Begin the first, the next after its time or at once where the key is not ours; tell what is over for long."""
    assert due(ControlState(epochs=epochs), now_ms, DAY, MASTER) == expected


class Running:
    """Oversight over a world in memory."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.oversight = Oversight(self.control, MASTER, DAY, self.write, self.mix, "operator/olga")

    def control(self) -> Control:
        return Control(self.world.state(), "default", None, OPERATORS)

    def write(self, command: Command) -> int:
        fields = {name: getattr(command, name) for name in ("epoch", "commitment", "scale", "revealed")}
        self.world.command(command.kind, **fields)
        return self.world.log.records("control.commands")[-1].offset

    def mix(self, of: Epoch) -> Counter[str]:
        return mix_of(self.world.events("agent.audits", AuditDrawn), of.number)

    def tick(self) -> str | None:
        now_ms = self.world.log.clock_ms
        self.oversight.heed(self.world.state(), now_ms)
        found = self.oversight.tick(now_ms)
        return None if found is None else f"{found.kind} {found.epoch}"


def test_epochs_begin_end_and_are_told() -> None:
    """One after the other, each command once; then the draws verify without any key."""
    world = World(files())
    running = Running(world)
    assert [running.tick() for _ in range(3)] == ["epoch 1", None, None]
    assert running.oversight.ready
    run(world, "a")
    world.log.advance(DAY * 1_000)
    assert [running.tick() for _ in range(3)] == ["epoch 2", None, None]
    world.log.advance(REVEAL_AFTER_MS + MARGIN_MS)
    assert [running.tick() for _ in range(2)] == ["reveal 1", None]
    world.audit_master = None  # type: ignore[assignment]  # who verifies has none
    report = world.verified()
    assert report.clean
    assert (report.recomputed["AuditDrawn"], report.as_recorded) == (1, {})


def test_one_that_was_killed_goes_on_where_the_log_stands() -> None:
    """A second one, or the same after a crash, says nothing that stands there already."""
    world = World(files())
    assert Running(world).tick() == "epoch 1"
    assert Running(world).tick() is None


def test_what_is_refused_is_not_said_again_at_once() -> None:
    """A command that does not count is followed by a minute of silence, not by a flood."""
    world = World(files())
    running = Running(world)
    looked = running.control()
    begin_epoch(world)  # somebody else was first, between the look and the word
    running.oversight._control = lambda: looked
    assert running.tick() == "epoch 1"
    running.oversight._control = running.control
    world.log.advance(DAY * 1_000)
    assert running.tick() is None
    world.log.advance(AGAIN_MS)
    assert running.tick() == "epoch 2"


def test_the_next_scale_comes_from_what_the_last_epoch_has_seen() -> None:
    """Twice as many jobs of weight 3 as of weight 1/2: the rate holds for that mix; what must be is left out."""
    normal = AUDIT.replace("strategy:", "normalise: true, strategy:").replace("rate: 0.5", "rate: 0.1")
    world = World(files(**{"audit-policy.yaml": normal}))
    running = Running(world)
    running.tick()
    for number in range(6):
        run(world, f"d{number}", "job.deploy" if number % 3 else "job.crm.read")
    run(world, "m", "job.pay.bill", payload=b'{"amount":6000}')
    world.log.advance(DAY * 1_000)
    running.tick()
    found = world.state().epoch
    assert found is not None
    scale = float(found.scale)
    assert (4 * 0.3 * scale + 2 * 0.05 * scale) / 6 == pytest.approx(0.1, abs=1e-6)


def test_oversight_begins_and_ends_epochs_and_nothing_else() -> None:
    """Its key counts for no other command and for no snapshot."""
    fold = ControlFold(CODEC, "default", {**OPERATORS, OVERSIGHT.key_id: Ed25519Verifier(OVERSIGHT.public())})
    world = World(files())
    for kind, code in (("pause", "wrong_signer"), ("set_level", "wrong_signer"), ("epoch", None)):
        fields = {"epoch": 1, "commitment": "0" * 64, "scale": "1"} if kind == "epoch" else {"level": 3}
        scope = "agent:deployer" if kind == "set_level" else "everything"
        command = Command(command_id=kind, kind=kind, scope=scope, by=OVERSIGHT.key_id, **fields)  # type: ignore[arg-type]  # words of the loop
        value, topic = CODEC.encode(command), "control.commands"
        headers = sign(OVERSIGHT, topic, kind, world.log.clock_ms, scope.encode(), value)
        state = fold(ControlState(), world.log.produce(topic, scope.encode(), value, headers))
        assert state.last is not None
        assert state.last.code == code


def test_forgotten_epochs_make_room() -> None:
    """However many epochs nobody can tell, the next one begins."""
    world = World(files())
    for number in range(1, UNREVEALED_MAX + 3):
        begin_epoch(world, number, master=b"x" * 32)
    assert len(world.state().epochs) == UNREVEALED_MAX
    assert world.state().epoch == world.state().epochs[-1]
    assert due(world.state(), 0, DAY, MASTER) == Due(begins=UNREVEALED_MAX + 3)


def test_the_mix_is_read_from_the_log(tenant: TenantFactory) -> None:
    """Over all partitions, from a time on, as the login that the table names."""
    settings = tenant(agents=("deployer",))
    drawn = AuditDrawn(
        cause=Cause(topic="job.results", partition=0, offset=0),
        at_ms=1,
        number=1,
        control_offset=0,
        judge=5,
        agent_id="deployer",
        agent_version="1",
        job_id="j",
        topic="job.x",
        outcome="succeeded",
        stratum="read",
        probability="0.5",
        mandatory=False,
        drawn=False,
        epoch=1,
        policy_snapshot="v1:000000",
    )
    publisher = Publisher(settings, "gate")
    try:
        for number in range(20):
            event = msgspec.structs.replace(drawn, job_id=f"j{number}", stratum="read" if number % 4 else "prod")
            headers = event_headers(event, "test", f"record-{number}")
            publisher.publish(AUDITS, f"agent-{number}".encode(), CODEC.encode(event), headers)
    finally:
        publisher.close()
    found = mix_of(oversight._drawn_since(settings, CODEC, 0), 1)
    assert found == {"read": 15, "prod": 5}
    spec = next(spec for spec in TOPICS if spec.name == AUDITS)
    assert "oversight" in spec.readers
