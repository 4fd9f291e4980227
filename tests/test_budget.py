"""The worker's side of a handler's budget."""

from __future__ import annotations

import math
import threading
from decimal import Decimal
from typing import Any

import pytest

from sluicegate.clients.budget import BudgetExceeded, Ledger, number
from sluicegate.schemas.errors import BadInput


def test_a_spend_says_what_is_left() -> None:
    """Each budget counts for itself, down to nothing."""
    ledger = Ledger({"max_amount_usd": 100, "max_affected_rows": 3})
    assert ledger.spend("max_amount_usd", 40) == 60
    assert ledger.spend("max_amount_usd", 60) == 0
    assert ledger.spend("max_amount_usd", 0) == 0
    assert ledger.left("max_affected_rows") == 3
    assert ledger.breaches == ()


def test_more_than_is_left_takes_nothing_and_is_a_breach() -> None:
    """What would exceed is refused whole, the rest stays for what fits; the breach is kept, once for each name."""
    ledger = Ledger({"max_amount_usd": 100})
    for _ in range(2):
        with pytest.raises(BudgetExceeded, match=r"`max_amount_usd`: 100.5 is more than the 100 left"):
            ledger.spend("max_amount_usd", 100.5)
    assert ledger.spend("max_amount_usd", 100) == 0
    with pytest.raises(BudgetExceeded):
        ledger.spend("max_amount_usd", 1e-300)
    assert ledger.breaches == ("max_amount_usd",)


def test_amounts_are_the_decimals_that_are_written() -> None:
    """A thousand spends of 0.1 are a hundred, not a little more or less; nothing is rounded at either end."""
    ledger = Ledger({"a": 100.0, "b": 1e308})
    for _ in range(1_000):
        left = ledger.spend("a", 0.1)
    assert left == 0
    assert ledger.breaches == ()
    assert ledger.spend("b", 5e-324) == ledger.left("b")
    assert ledger.left("b") != Decimal(10) ** 308


NO_AMOUNTS: list[Any] = [
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -0.01,
    True,
    False,
    None,
    "5",
    [5],
    Decimal("NaN"),
    Decimal("sNaN"),
    Decimal(-1),
    Decimal("1E+999999"),
    Decimal("1E-999999"),
    pytest.param(10**5_000, id="huge"),
    pytest.param({"a": 10**5_000}, id="a mapping"),
]


@pytest.mark.parametrize("amount", NO_AMOUNTS)
def test_what_is_no_amount_is_refused(amount: Any) -> None:
    """Finite and from 0, of a number's type: whatever else a handler sends takes nothing and gives nothing."""
    ledger = Ledger({"max_amount_usd": 100})
    with pytest.raises(BadInput):
        ledger.spend("max_amount_usd", amount)
    assert ledger.left("max_amount_usd") == 100
    with pytest.raises(BadInput):
        Ledger({"max_amount_usd": [amount] if amount is None else amount})  # type: ignore[dict-item]


def test_a_budget_that_the_grant_does_not_limit_is_endless() -> None:
    """A handler spends in the same way whether or not its grant sets the limit."""
    ledger = Ledger({"max_amount_usd": None})
    assert ledger.spend("max_amount_usd", 1e300) is None


@pytest.mark.parametrize("name", ["max_ammount_usd", "", "x" * 5_000, "\x1b"])
def test_an_unknown_name_is_no_endless_budget(name: str) -> None:
    """A misspelt name is an error, not a way around the limit."""
    with pytest.raises(BadInput, match="the handler is registered for `max_amount_usd`"):
        Ledger({"max_amount_usd": 100}).spend(name, 1)


def test_threads_cannot_spend_the_same_twice() -> None:
    """Spends from several threads together never exceed the limit."""
    ledger = Ledger({"max_affected_rows": 1_000})
    taken = []

    def spend() -> None:
        for _ in range(500):
            try:
                ledger.spend("max_affected_rows", 1)
            except BudgetExceeded:
                return
            taken.append(1)

    threads = [threading.Thread(target=spend) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 1_000
    assert ledger.left("max_affected_rows") == 0


@pytest.mark.parametrize(("amount", "said"), [("60", 60), ("0.1", 0.1), ("1E+308", 10**308), ("0", 0)])
def test_what_is_left_can_be_said_in_json(amount: str, said: float) -> None:
    """Whole amounts stay whole numbers, others become the nearest float."""
    found = number(Decimal(amount))
    assert (found, type(found)) == (said, type(said))
