"""Folders, snapshots and what a bundle knows besides rules."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import rfc8785
import yaml

from sluicegate.policies.compile import compile_bundle
from sluicegate.policies.faults import PolicyFaults, PolicyUnreadable
from sluicegate.policies.load import parse_bundle, parse_documents, read_folder

CORPUS = Path(__file__).parent / "corpus"
ARTICLE = CORPUS / "article"
DEMO = Path(__file__).parents[1] / "policies" / "bundles" / "demo"
RULES = 'rules:\n  - match: { topics: ["*"] }\n    decision: allow\n'


def test_the_articles_seven_files_load_together_without_a_word() -> None:
    """They are the compatibility contract: unmodified, together, no fault and no warning; two of them are layers."""
    bundle = parse_bundle(read_folder(ARTICLE))
    assert len(bundle.documents) == 7
    assert bundle.warnings == ()
    assert sorted(bundle.layers) == ["escalation-policy", "safety-policy"]
    assert bundle.version == "v1"


@pytest.mark.parametrize("name", [path.name for path in sorted(ARTICLE.iterdir())])
def test_each_file_of_the_article_loads_alone(name: str) -> None:
    """One file is a bundle, too."""
    assert list(parse_bundle(read_folder(ARTICLE / name)).documents) == [name]


def test_the_demos_bundle_loads_without_a_word() -> None:
    """What we ship has no warning, and every agent's owner and signer is one of the people."""
    bundle = parse_bundle(read_folder(DEMO))
    people = {person.id for person in bundle.reviewers.people}
    assert bundle.warnings == ()
    assert {agent.id for agent in bundle.agents.agents} == {
        "deployer",
        "researcher",
        "cleaner",
        "apprentice",
        "supporter",
    }
    for agent in bundle.agents.agents:
        assert agent.initial_level is not None
        assert {agent.owner, agent.initial_level.signer} <= people


def test_the_digest_is_that_of_the_canonical_json_of_the_parsed_documents() -> None:
    """Anyone can compute it: SHA-256 over RFC 8785 JSON of {file name: parsed document}; the name shows six digits."""
    bundle = parse_bundle(read_folder(ARTICLE))
    parsed = {path.name: yaml.safe_load(path.read_text()) for path in ARTICLE.iterdir()}
    assert bundle.documents == parsed
    assert bundle.snapshot_digest == hashlib.sha256(rfc8785.dumps(parsed)).hexdigest()
    assert bundle.snapshot_name == f"v1:{bundle.snapshot_digest[:6]}"


def test_comments_and_spacing_do_not_change_the_digest_but_a_value_does() -> None:
    """The digest is of what the documents say."""
    digest = parse_bundle({"a.yaml": RULES}).snapshot_digest
    spaced = '# said\nrules: [{decision: allow,   match: {topics: ["*"]}}]\n'
    assert parse_bundle({"a.yaml": spaced}).snapshot_digest == digest
    assert parse_bundle({"a.yaml": RULES.replace("allow", "deny")}).snapshot_digest != digest
    assert parse_bundle({"b.yaml": RULES}).snapshot_digest != digest


@pytest.mark.parametrize("folder", [ARTICLE, DEMO])
def test_a_bundle_comes_back_from_the_log_as_it_went_in(folder: Path) -> None:
    """Parsed documents, through canonical JSON and back, give the same digest and the same rules' hashes."""
    bundle = parse_bundle(read_folder(folder))
    again = parse_documents(json.loads(rfc8785.dumps(dict(bundle.documents))))
    assert again.snapshot_digest == bundle.snapshot_digest
    assert again.snapshot_name == bundle.snapshot_name
    assert compile_bundle(again)._layers[0].rules[0].rule.ref == compile_bundle(bundle)._layers[0].rules[0].rule.ref


def test_the_order_of_actions_survives_the_log() -> None:
    """The first pattern that names a pool wins; JSON's sorted keys must not change which that is."""
    text = 'actions:\n  - { topics: ["z.*"], pool: first }\n  - { topics: ["*"], pool: second }\n'
    bundle = parse_bundle({"actions.yaml": text, "a.yaml": RULES})
    again = parse_documents(json.loads(rfc8785.dumps(dict(bundle.documents))))
    assert compile_bundle(again).action("z.a").pool == "first"


@pytest.mark.parametrize(
    ("documents", "version"),
    [
        ({"a.yaml": RULES}, "v1"),
        ({"a.yaml": "version: v3\n" + RULES}, "v3"),
        ({"a.yaml": "version: v3\n" + RULES, "b.yaml": RULES}, "v3"),
        ({"a.yaml": "version: v3\n" + RULES, "b.yaml": "version: v4\n" + RULES}, "v1"),
        ({"a.yaml": "version: v3\n" + RULES, "bundle.yaml": "version: v9\n"}, "v9"),
    ],
)
def test_the_version_is_the_bundles_else_the_common_one_else_v1(documents: dict[str, str], version: str) -> None:
    """`bundle.yaml` has the last word; documents that disagree name none."""
    assert parse_bundle(documents).snapshot_name.startswith(f"{version}:")


def test_a_folder_is_its_own_yaml_and_json_files(tmp_path: Path) -> None:
    """Neither folders inside it nor other files nor an editor's files are part of it."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("broken: [")
    (tmp_path / "a.yml").write_text(RULES)
    (tmp_path / "c.json").write_text("{}")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / ".#a.yaml").write_text("x")
    assert sorted(read_folder(tmp_path)) == ["a.yml", "c.json"]


def test_a_folder_without_policies_is_an_error_that_says_so(tmp_path: Path) -> None:
    """An empty folder is a wrong path, not an empty bundle."""
    with pytest.raises(PolicyUnreadable, match=r"no \.yaml, \.yml or \.json file"):
        read_folder(tmp_path)
    with pytest.raises(PolicyUnreadable, match="cannot read"):
        read_folder(tmp_path / "missing")


def test_a_file_that_is_not_utf8_is_a_fault_with_its_place(tmp_path: Path) -> None:
    """Bytes that are no text are named by line and column."""
    (tmp_path / "a.yaml").write_bytes(b"version: v1\nrules: \xff\n")
    with pytest.raises(PolicyFaults) as refused:
        read_folder(tmp_path)
    assert [(fault.line, fault.column) for fault in refused.value.faults] == [(2, 8)]


def test_no_document_at_all_is_a_fault() -> None:
    """An empty mapping is nobody's policy."""
    with pytest.raises(PolicyFaults, match="there is no document"):
        parse_bundle({})


def test_actions_add_the_tags_of_every_pattern_and_take_the_rest_from_the_first() -> None:
    """Tags are a union; pool and retry come from the first pattern that names them, else the defaults."""
    text = """
actions:
  - { topics: ["job.deploy.*"], risk_tags: [prod] }
  - { topics: ["job.*"], risk_tags: [write, prod], pool: one, retry: safe, facts: { amount_usd: a } }
  - { topics: ["*"], pool: two, retry: ask, facts: { amount_usd: b, size: c } }
"""
    policy = compile_bundle(parse_bundle({"actions.yaml": text, "a.yaml": RULES}))
    action = policy.action("job.deploy.api")
    assert action.risk_tags == ("prod", "write")
    assert (action.pool, action.retry_safe) == ("one", True)
    assert action.facts == {"amount_usd": ("a",), "size": ("c",)}
    assert (policy.action("other").pool, policy.action("other").retry_safe) == ("two", False)
    assert policy.pools == ("default", "one", "two")


def test_what_no_action_names_goes_to_the_default_pool_and_is_not_repeated() -> None:
    """Without a word from the platform team a lost attempt is asked about."""
    action = compile_bundle(parse_bundle({"a.yaml": RULES})).action("anything")
    assert (action.pool, action.retry_safe, action.risk_tags) == ("default", False, ())


def test_agents_and_reviewers_are_found_by_id() -> None:
    """Who is not listed is nobody."""
    policy = compile_bundle(parse_bundle(read_folder(DEMO)))
    agent = policy.agent("deployer")
    assert agent is not None
    assert (agent.owner, agent.key.kind, agent.agent_class) == ("rosa", "hmac", "automation")
    assert policy.agent("stranger") is None
    reviewer = policy.reviewer("ken")
    assert reviewer is not None
    assert reviewer.name == "Ken Adeyemi"
    assert policy.reviewer("stranger") is None
    assert policy.queues["security-approvers"] == ("ken", "mei")


def test_the_evidence_contract_has_a_default_and_can_be_written() -> None:
    """Without a contract a verdict carries the four fields; with one, what it says."""
    four = ("policy_snapshot", "job_hash", "approver_id", "decision_ts")
    assert compile_bundle(parse_bundle({"a.yaml": RULES})).evidence_fields == four
    evidence = {"required_fields": ["job_hash"], "reject_if_incomplete": False}
    contract = json.dumps({"approval_queue_policy": {}, "evidence_contract": evidence})
    policy = compile_bundle(parse_bundle({"a.yaml": RULES, "contract.json": contract}))
    assert (policy.evidence_fields, policy.reject_if_incomplete) == (("job_hash",), False)
