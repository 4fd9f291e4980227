"""What a handler may still spend of each limit of its grant: the worker's side, which the handler cannot reach."""

from __future__ import annotations

import decimal
import math
import threading
from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from sluicegate.clients.allowlist import printable
from sluicegate.schemas.errors import BadInput, SluicegateError

AMOUNT_BITS_MAX: Final = 1_024
"""The largest whole amount, as large as the largest finite float."""
EXPONENT_MAX: Final = 400
DIGITS_MAX: Final = 2_000
"""Digits that sums are kept with; no amount needs as many, so that no sum is ever rounded."""

_EXACT: Final = decimal.Context(
    prec=DIGITS_MAX, Emax=10 * EXPONENT_MAX, Emin=-10 * EXPONENT_MAX, traps=[decimal.Inexact, decimal.InvalidOperation]
)


class BudgetExceeded(SluicegateError):
    """More was to be spent than the grant's limit leaves: nothing of it may be done."""


def exact(amount: object) -> Decimal:
    """An amount as the decimal that is written, so that 0.1 is a tenth. Raises BadInput unless finite and from 0."""
    if isinstance(amount, bool) or not isinstance(amount, int | float | Decimal):
        raise BadInput(f"a value of type `{type(amount).__name__}` is no amount; give a number from 0")
    if isinstance(amount, int):
        value = Decimal(amount if amount.bit_length() <= AMOUNT_BITS_MAX else math.inf)
    else:
        value = amount if isinstance(amount, Decimal) else Decimal(repr(amount))
    if not value.is_finite() or value < 0 or abs(value.adjusted()) > EXPONENT_MAX or _digits(value) > EXPONENT_MAX:
        raise BadInput(f"`{printable(str(value), 40)}` is no amount; give a finite number from 0")
    return value


def number(amount: Decimal) -> int | float:
    """The nearest number that JSON can hold, whole where the amount is: for people and frames, never to reckon with."""
    return int(amount) if amount == amount.to_integral_value() else float(amount)


def _digits(value: Decimal) -> int:
    return len(value.as_tuple().digits)


class Ledger:
    """The budgets of one attempt, by constraint; None is a budget without a limit in this grant. For any thread.

    Raises BadInput for a limit that is no amount.
    """

    def __init__(self, limits: Mapping[str, float | Decimal | None]) -> None:
        self._left = {name: None if limit is None else exact(limit) for name, limit in limits.items()}
        self._lock = threading.Lock()
        self._breaches: list[str] = []

    @property
    def breaches(self) -> tuple[str, ...]:
        """The constraints that were to be exceeded, each once, in the order of the first try."""
        with self._lock:
            return tuple(self._breaches)

    def left(self, name: str) -> Decimal | None:
        """What is left; None without a limit. Raises BadInput for a name that the handler does not spend from."""
        with self._lock:
            return self._left[self._known(name)]

    def spend(self, name: str, amount: float | Decimal) -> Decimal | None:
        """Take an amount before it is spent outside, and say what is left; None without a limit.

        Raises BudgetExceeded, and then nothing is taken; BadInput for an unknown name or what is no amount.
        """
        value = exact(amount)
        with self._lock:
            left = self._left[self._known(name)]
            if left is None:
                return None
            if value > left:
                if name not in self._breaches:
                    self._breaches.append(name)
                amounts = [printable(f"{each:f}", 40) for each in (value, left)]
                raise BudgetExceeded(f"`{name}`: {amounts[0]} is more than the {amounts[1]} left; spend less")
            rest = self._left[name] = _EXACT.subtract(left, value)
            return rest

    def _known(self, name: str) -> str:
        if name not in self._left:
            known = ", ".join(f"`{each}`" for each in sorted(self._left)) or "none"
            raise BadInput(
                f"there is no budget `{printable(str(name), 64)}`: the handler is registered for {known}; name it in "
                "`spends` or `limits`"
            )
        return name
