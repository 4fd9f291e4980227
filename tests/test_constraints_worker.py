"""What a worker does with a grant whose constraints it can or cannot enforce, up to the start of the handler."""

from __future__ import annotations

from typing import Any

import pytest
from clients_events import grant

from sluicegate.clients.handlers import Handlers
from sluicegate.clients.judging import Refuse, Start, judge_grant


def handlers() -> Handlers:
    made = Handlers(credentials={"": {"key": "all"}, "read_only": {"key": "reader"}})
    made.add("job.read", lambda call: call.payload, limits={"max_affected_rows": "n"})
    return made


def held(constraints: str) -> Start | Refuse:
    """A whole grant, judged and then held to its constraints; its payload is {"n": 1}."""
    judged = judge_grant(grant(constraints=constraints), 5_000, (), None, tenant="default", pool="default")
    assert isinstance(judged, Start)
    return handlers().hold(0, judged)


@pytest.mark.parametrize(
    ("constraints", "code"),
    [
        ('{"max_affected_rows":0}', "constraint_exceeded"),
        ('{"max_amount_usd":5}', "constraint_unenforceable"),
        ('{"dry_run":true}', "constraint_unenforceable"),
        ('{"network_allowlist":["*"]}', "constraint_unenforceable"),
    ],
)
def test_a_grant_that_cannot_be_held_starts_nothing(constraints: str, code: str) -> None:
    """The code says whose turn it is: the argument was too large, or the worker cannot enforce the constraint."""
    found = held(constraints)
    assert isinstance(found, Refuse)
    assert found.code == code


CHOSEN: list[tuple[str, dict[str, Any]]] = [("{}", {"key": "all"}), ('{"read_only":true}', {"key": "reader"})]


@pytest.mark.parametrize(("constraints", "credentials"), CHOSEN)
def test_the_handler_gets_the_chosen_credentials_and_no_other(constraints: str, credentials: dict[str, Any]) -> None:
    """One set, by the constraints that are true."""
    found = held(constraints)
    assert isinstance(found, Start)
    assert handlers().credentials_of(found) == credentials


def test_a_grant_within_its_constraints_starts_with_its_terms() -> None:
    """Payload and constraints are those of the grant; the terms are what the worker holds the handler to."""
    found = held('{"max_affected_rows":1,"max_runtime_sec":2}')
    assert isinstance(found, Start)
    assert (found.payload, found.constraints) == ({"n": 1}, {"max_affected_rows": 1, "max_runtime_sec": 2})
    assert (found.terms.runtime_sec_max, found.terms.budget) == (2, {"max_affected_rows": 1})
