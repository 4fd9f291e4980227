"""What sealing costs the gate: intents a second with payloads sealed with AES-256-GCM, against the same in the clear.

The gate opens each payload with a key of its own, which it derives from the key store; what it grants is the envelope
as it came. Every job has another key, so nothing is saved by remembering.
"""

from __future__ import annotations

from typing import Final

from sluicegate.bench.figures import Findings, figure
from sluicegate.bench.gate import ROUND_SEC, TRIED, Round, one_round, outs_of_an_intent
from sluicegate.bench.stage import INTERVAL_MS, Stage
from sluicegate.schemas.payload import NONE
from sluicegate.schemas.sealing import AES_256_GCM

AGAINST: Final = "the same gate, payloads in the clear (`sealing: none`)"
NAME: Final = f"gate with payloads sealed, 1 process, commits every {INTERVAL_MS} ms"


def measure(stage: Stage, findings: Findings, *, rounds: int, count_max: int) -> None:
    """So many rounds of either kind in turn, in fresh processes; a round lasts a few seconds."""
    outs = outs_of_an_intent()
    tenants = {
        sealing: stage.tenant(f"sealing-{word}", sealing=sealing)
        for word, sealing in (("aes", AES_256_GCM), ("none", NONE))
    }
    found: dict[str, list[Round]] = {sealing: [] for sealing in tenants}
    count = count_max
    if count > TRIED:
        first = [one_round(stage, tenants[each], "gate", 1, outs, "first", TRIED) for each in tenants]
        count = min(max(int(first[0].rate * ROUND_SEC), TRIED), count_max)
    for number in range(rounds):
        for sealing, settings in tenants.items():
            found[sealing].append(one_round(stage, settings, "gate", 1, outs, f"r{number}", count))
    rates = {each: [one.rate for one in found[each]] for each in found}
    used = {each: [one.cpu_us for one in found[each]] for each in found}
    findings.figures.append(figure(NAME, "intents/s", rates[AES_256_GCM], AGAINST, rates[NONE]))
    findings.figures.append(figure(f"{NAME}: processor time", "us/intent", used[AES_256_GCM], AGAINST, used[NONE]))
