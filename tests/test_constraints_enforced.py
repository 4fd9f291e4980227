"""Which constraints of a grant a worker holds a handler to, and which make it refuse the grant."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sluicegate.clients.capabilities import Capability, capability, credential_sets, enforce, manifest
from sluicegate.clients.judging import Refuse, Terms
from sluicegate.policies.constraints import BUILT_IN
from sluicegate.policies.paths import compile_path, path_problem, read_path
from sluicegate.schemas.errors import BadInput

PLAIN = capability("job.*")
REFUND = capability("job.support.refund", limits={"max_amount_usd": "refund.amount_usd"}, spends=("max_affected_rows",))


def code(found: Terms | Refuse) -> str:
    return found.code if isinstance(found, Refuse) else "runs"


def test_a_grant_without_constraints_holds_to_nothing() -> None:
    """No bound, the usual credentials, no endless list of what might have been."""
    assert enforce({}, {}, PLAIN) == Terms()


def test_the_worker_itself_enforces_runtime_output_and_network() -> None:
    """Every handler can be held to these three; they need no registration."""
    constraints = {"max_runtime_sec": 1.5, "max_output_bytes": 10, "network_allowlist": ["a.example"]}
    assert enforce(constraints, {}, PLAIN) == Terms(runtime_sec_max=1.5, output_bytes_max=10, network=("a.example",))


def test_an_empty_allowlist_is_no_missing_one() -> None:
    """An empty list opens nothing; no list leaves the network as it is."""
    assert enforce({"network_allowlist": []}, {}, PLAIN) == Terms(network=())
    assert enforce({}, {}, PLAIN) == Terms(network=None)


UNENFORCEABLE: list[tuple[dict[str, Any], str]] = [
    ({"max_amount_usd": 5}, "limits={'max_amount_usd': PATH}"),
    ({"path_allowlist": ["/tmp"]}, "enforces=('path_allowlist',)"),  # noqa: S108
    ({"of_the_future": {"a": 1}}, "enforces=('of_the_future',)"),
    ({"of_the_future": None}, "enforces=('of_the_future',)"),
    ({"read_only": True}, "a set `read_only`"),
    ({"read_only": True, "dry_run": True}, "a set `dry_run+read_only`"),
    ({"may_write": False}, "enforces=('may_write',)"),
    ({"network_allowlist": ["http://a.example"]}, "mend the policy"),
    ({"network_allowlist": "a.example"}, "mend the policy"),
    ({"network_allowlist": [1]}, "mend the policy"),
    ({"max_runtime_sec": True}, "mend the policy"),
    ({"max_runtime_sec": -1}, "mend the policy"),
    ({"max_runtime_sec": "5"}, "mend the policy"),
    ({"max_output_bytes": 1.5}, "mend the policy"),
    ({"max_runtime_sec": None}, "mend the policy"),
]


@pytest.mark.parametrize(("constraints", "remedy"), UNENFORCEABLE)
def test_what_cannot_be_enforced_refuses_the_grant(constraints: dict[str, Any], remedy: str) -> None:
    """The message names constraint, handler and remedy."""
    found = enforce(constraints, {}, PLAIN)
    assert isinstance(found, Refuse)
    assert found.code == "constraint_unenforceable"
    assert all(name in found.message for name in constraints)
    assert "handler `job.*`" in found.message
    assert remedy in found.message


def test_no_built_in_constraint_is_forgotten() -> None:
    """Each built-in type is enforced by the worker or refused: none passes by without a word."""
    values = {"number": 1, "integer": 1, "boolean": True, "list": ["a.example"]}
    passed = {name for name, kind in BUILT_IN.items() if code(enforce({name: values[kind.kind]}, {}, PLAIN)) == "runs"}
    assert passed == {"max_runtime_sec", "max_output_bytes", "network_allowlist"}


@pytest.mark.parametrize("amount", [0, 99.99, 100, 100.0, 1e-300])
def test_an_argument_up_to_its_limit_runs(amount: float) -> None:
    """The limit itself is allowed; the handler may spend what the limit says."""
    terms = enforce({"max_amount_usd": 100}, {"refund": {"amount_usd": amount}}, REFUND)
    assert isinstance(terms, Terms)
    assert terms.budget == {"max_affected_rows": None, "max_amount_usd": 100}


@pytest.mark.parametrize(
    "payload",
    [
        {"refund": {"amount_usd": 100.00000000000001}},
        {"refund": {"amount_usd": 10**400}},
        {"refund": {"amount_usd": -5}},
        {"refund": {"amount_usd": "50"}},
        {"refund": {"amount_usd": True}},
        {"refund": {"amount_usd": None}},
        {"refund": {"amount_usd": [50]}},
        {"refund": {"amount_usd": math.nan}},
        {"refund": {"amount_usd": math.inf}},
        {"refund": {}},
        {"refund": [{"amount_usd": 50}]},
        {"amount_usd": 50},
        [],
        None,
    ],
)
def test_an_argument_above_its_limit_or_unreadable_refuses_the_grant(payload: Any) -> None:
    """More than the limit, negative, no number, or not there: nothing runs."""
    assert code(enforce({"max_amount_usd": 100}, payload, REFUND)) == "constraint_exceeded"


def test_an_argument_is_not_read_without_its_constraint() -> None:
    """A grant without the limit asks nothing of the payload."""
    assert code(enforce({}, {}, REFUND)) == "runs"


def test_a_refusal_holds_no_value_of_the_payload_but_the_amount() -> None:
    """The record of a refusal is no way to carry data: text at the path is not repeated."""
    found = enforce({"max_amount_usd": 1}, {"refund": {"amount_usd": "secret"}}, REFUND)
    assert isinstance(found, Refuse)
    assert "secret" not in found.message


def test_what_is_spent_needs_no_argument() -> None:
    """A handler that says it spends from a limit gets it as a budget."""
    terms = enforce({"max_affected_rows": 7}, {}, REFUND)
    assert isinstance(terms, Terms)
    assert terms.budget["max_affected_rows"] == 7
    assert code(enforce({"max_affected_rows": "many"}, {}, REFUND)) == "constraint_unenforceable"


def test_entries_can_be_counted() -> None:
    """`#` at the end of a path is how many entries there are."""
    mail = capability("mail", limits={"max_affected_users": "$.to.#"})
    assert code(enforce({"max_affected_users": 2}, {"to": ["a", "b"]}, mail)) == "runs"
    assert code(enforce({"max_affected_users": 1}, {"to": ["a", "b"]}, mail)) == "constraint_exceeded"


def test_what_the_handler_enforces_is_its_own_word() -> None:
    """It runs, and the log says which constraints only the handler keeps to."""
    own = capability("own", enforces=("path_allowlist", "may_write", "unused"))
    terms = enforce({"path_allowlist": ["/a"], "may_write": False}, {}, own)
    assert terms == Terms(by_handler=("may_write", "path_allowlist"))


CHOICES: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    ({}, ("", "read_only"), ""),
    ({"read_only": False}, ("", "read_only"), ""),
    ({"read_only": True}, ("", "read_only"), "read_only"),
    ({"read_only": True, "dry_run": False}, ("read_only",), "read_only"),
    ({"read_only": True, "dry_run": True}, ("dry_run", "read_only", "dry_run+read_only"), "dry_run+read_only"),
]


@pytest.mark.parametrize(("constraints", "sets", "chosen"), CHOICES)
def test_true_constraints_choose_one_credential_set(
    constraints: dict[str, Any], sets: tuple[str, ...], chosen: str
) -> None:
    """The names of those that are true, sorted and joined; no true one, the usual set."""
    assert enforce(constraints, {}, PLAIN, sets) == Terms(credential_set=chosen)


def test_two_sets_are_not_the_set_of_both() -> None:
    """Without the combined set the grant is refused, rather than run with the wider of two."""
    found = enforce({"read_only": True, "dry_run": True}, {}, PLAIN, ("", "read_only", "dry_run"))
    assert code(found) == "constraint_unenforceable"


def test_the_narrower_credentials_go_before_the_handlers_word() -> None:
    """A handler that says it is read-only gets the read-only set where there is one, else its word is all there is."""
    own = capability("own", enforces=("read_only",))
    with_set = enforce({"read_only": True}, {}, own, ("", "read_only"))
    assert with_set == Terms(credential_set="read_only")
    assert enforce({"read_only": True}, {}, own, ("",)) == Terms(by_handler=("read_only",))


@pytest.mark.parametrize(
    "registration",
    [
        {"limits": {"max_amount_usd": "a b"}},
        {"limits": {"max_amount_usd": ""}},
        {"limits": {"max_amount_usd": "a..b"}},
        {"limits": {"max_amount_usd": "x" * 300}},
        {"limits": {"Max": "a"}},
        {"limits": {"max_runtime_sec": "a"}},
        {"limits": {"min_balance_usd": "a"}},
        {"spends": "max_affected_rows"},
        {"spends": ("min_balance_usd",)},
        {"enforces": "path_allowlist"},
        {"enforces": ("network_allowlist",)},
        {"enforces": ("a b",)},
    ],
)
def test_a_registration_that_could_not_mean_what_it_says_is_refused(registration: dict[str, Any]) -> None:
    """No path, no name, one text for a list, a lower limit, or what the worker enforces itself."""
    with pytest.raises(BadInput):
        capability("job.*", **registration)


@pytest.mark.parametrize(
    "name", ["read_only+dry_run", "read_only+read_only", "+read_only", "Read", "read_only + dry_run"]
)
def test_credentials_that_no_grant_could_choose_are_refused(name: str) -> None:
    """A set is named by constraints in the order of the alphabet, joined with `+`."""
    with pytest.raises(BadInput):
        credential_sets({"": {}, name: {}})


def test_sets_are_known_by_name() -> None:
    """What a worker has is the names; the credentials stay where they are."""
    assert credential_sets(None) == frozenset()
    assert credential_sets({"": {"key": "k"}, "dry_run+read_only": {}}) == {"", "dry_run+read_only"}


PATHS = ["a", "$.a", "a.b", "a[0]", "a[0].b", "a.#", "#", "a[00]", ".a", "a.", "a#", "", "$", "a[1].#", "a b", "a[-1]"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_means_what_it_means_in_policies(path: str) -> None:
    """Worker and gate read the same place: the same paths are paths, and each finds the same."""
    if path_problem(path) is not None:
        with pytest.raises(BadInput):
            capability("x", limits={"max_amount_usd": path})
        return
    read = capability("x", limits={"max_amount_usd": path})
    assert read.limits["max_amount_usd"] == compile_path(path)
    for payload in [{"a": 1}, {"a": {"b": 2}}, {"a": [{"b": 3}, [4]]}, [5], {"a": {"#": 6}}, None]:
        found = read_path(payload, compile_path(path))
        fits = isinstance(found, int) and found <= 3
        assert (code(enforce({"max_amount_usd": 3}, payload, read)) == "runs") is fits


def test_a_manifest_says_who_enforces_what() -> None:
    """Pool, credential sets, and for each handler every constraint with its enforcer, ready for JSON."""
    own = Capability("b", enforces=frozenset({"path_allowlist"}))
    worker = {"max_output_bytes": "worker", "max_runtime_sec": "worker", "network_allowlist": "worker"}
    assert manifest("default", [REFUND, own], {"read_only", ""}) == {
        "pool": "default",
        "credentials": ["", "read_only"],
        "handles": [
            {
                "topics": "job.support.refund",
                "constraints": {"max_affected_rows": "budget", "max_amount_usd": "argument", **worker},
            },
            {"topics": "b", "constraints": {**worker, "path_allowlist": "handler"}},
        ],
    }
