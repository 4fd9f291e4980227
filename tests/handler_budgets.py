"""How handlers spend from their budgets, also by tricks."""

from __future__ import annotations

import os
import threading
from typing import Any

from handler_attacks import own_pipes, tried

from sluicegate.clients.call import BudgetExceeded, Call, Channel
from sluicegate.schemas.errors import BadInput


def spends(call: Call) -> Any:
    """Take each amount of the payload; what was left after each, or what was raised."""
    budget = call.budget("max_affected_rows")
    found: list[Any] = []
    for amount in call.payload:
        try:
            budget.spend(float(amount) if isinstance(amount, str) else amount)
        except (BudgetExceeded, BadInput) as error:
            found.append(type(error).__name__)
        else:
            found.append(budget.left)
    return found


def spends_and_looks(call: Call) -> Any:
    call.budget("max_affected_rows").spend(10**6)
    return str(call.budget("max_affected_rows").left)


def spends_unlisted(call: Call) -> Any:
    call.budget("max_amount_usd").spend(1)


def spends_all(call: Call) -> Any:
    call.budget("max_affected_rows").spend(1_000)


def _taken(call: Call) -> int:
    taken = 0
    for _ in range(100):
        try:
            call.budget("max_affected_rows").spend(1)
            taken += 1
        except BudgetExceeded:
            pass
    return taken


def raced_by_forks(call: Call) -> Any:
    """Four processes take 100 each, one at a time."""
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            os._exit(_taken(call))
        children.append(child)
    counts = [_taken(call), *[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]]
    return sum(counts)


def raced_by_threads(call: Call) -> Any:
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(_taken(call))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def resets_the_ledger(call: Call) -> Any:
    """What is in a handler's own memory is no ledger: a copy and a new channel find the same one."""
    call.budget("max_affected_rows").spend(150)
    if os.fork() == 0:
        again = Call(**{name: getattr(call, name) for name in call.__struct_fields__})
        os._exit(1 if "got" in tried(lambda: again.budget("max_affected_rows").spend(100)) else 0)
    child = os.waitstatus_to_exitcode(os.wait()[1])
    up, down, _ = own_pipes()
    made = Channel(up, down).spend("max_affected_rows", "-1000")
    return [child, made.refused is not None, call.budget("max_affected_rows").left]
