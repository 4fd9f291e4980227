"""What documents say of one another: levels, queues, roles, classes that another document must hold.

Checked only where both documents could be read; what a missing document leaves open is said of the one that needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from pydantic import BaseModel

from sluicegate.policies import documents as docs
from sluicegate.policies.faults import suggest
from sluicegate.policies.source import Source

M = TypeVar("M", bound=BaseModel)


def check_references(sources: Iterable[Source], models: Mapping[str, BaseModel | None]) -> None:
    """Record in each source what it refers to and no document holds."""
    by_file = {source.file: source for source in sources}
    people = _found(by_file, models, docs.ReviewersDocument)
    bundle = _found(by_file, models, docs.BundleDocument)
    agents = _found(by_file, models, docs.AgentsDocument)
    autonomy = _found(by_file, models, docs.AutonomyDocument)
    broken = {docs.stem_of(file) for file, model in models.items() if model is None}
    if agents is not None and autonomy is not None:
        _check_levels(agents[0], agents[1], autonomy[1])
    if bundle is not None and "reviewers" not in broken:
        _check_roles(bundle[0], bundle[1], people[1] if people else docs.ReviewersDocument(people=[]))
    if bundle is not None and agents is not None:
        _check_classes(bundle[0], bundle[1], agents[1])
    if people is not None:
        for file, model in models.items():
            _check_routes(by_file[file], model, people[1])


def _found(
    sources: Mapping[str, Source], models: Mapping[str, BaseModel | None], kind: type[M]
) -> tuple[Source, M] | None:
    return next(((sources[file], model) for file, model in models.items() if isinstance(model, kind)), None)


def _check_levels(source: Source, agents: docs.AgentsDocument, autonomy: docs.AutonomyDocument) -> None:
    defined = sorted(autonomy.autonomy_levels, key=lambda name: int(name.removeprefix("level_")))
    levels = ", ".join(f"`{name}`" for name in defined)
    for index, agent in enumerate(agents.agents):
        level = 0 if agent.initial_level is None else agent.initial_level.level
        if f"level_{level}" not in autonomy.autonomy_levels:
            path = ("agents", index, "initial_level", "level") if agent.initial_level else ("agents", index, "id")
            source.fault(path, f"the autonomy document defines no `level_{level}`", f"use one of {levels}")
        for domain, own in (agent.initial_level.domains if agent.initial_level is not None else {}).items():
            place = ("agents", index, "initial_level", "domains", domain)
            if f"level_{own}" not in autonomy.autonomy_levels:
                source.fault(place, f"the autonomy document defines no `level_{own}`", f"use one of {levels}")
            if domain not in autonomy.domains:
                said = f"the autonomy document has no domain `{domain}`"
                source.fault(place, said, suggest(domain, sorted(autonomy.domains)))


def _check_roles(source: Source, bundle: docs.BundleDocument, reviewers: docs.ReviewersDocument) -> None:
    roles = sorted({role for person in reviewers.people for role in person.roles})
    if bundle.break_glass is not None and bundle.break_glass.role not in roles:
        message = f"nobody in reviewers.yaml has the role `{bundle.break_glass.role}`"
        source.fault(("break_glass", "role"), message, suggest(bundle.break_glass.role, roles))
    if bundle.sign_off is None:
        return
    for index, role in enumerate(bundle.sign_off.roles):
        if role not in roles:
            message = f"nobody in reviewers.yaml has the role `{role}`"
            source.fault(("sign_off", "roles", index), message, suggest(role, roles))
    wanted = set(bundle.sign_off.roles)
    able = [person for person in reviewers.people if not wanted or wanted & set(person.roles)]
    if len(able) < bundle.sign_off.people:
        message = f"{bundle.sign_off.people} people must sign off, and {len(able)} could"
        source.fault(("sign_off",), message, "ask for fewer, or enrol people in reviewers.yaml", at_key=True)


def _check_classes(source: Source, bundle: docs.BundleDocument, agents: docs.AgentsDocument) -> None:
    known = {agent.agent_class for agent in agents.agents} | {docs.WITHOUT_CONFIDENCE}
    for name in bundle.classes:
        if name not in known:
            message = f"no agent is of the class `{name}`"
            source.fault(("classes", name), message, suggest(name, known), at_key=True, severity="warning")


def _check_routes(source: Source, model: BaseModel | None, reviewers: docs.ReviewersDocument) -> None:
    if isinstance(model, docs.RulesDocument):
        lists: list[tuple[tuple[str | int, ...], list[docs.Rule]]] = [(("rules",), model.rules)]
    elif isinstance(model, docs.AutonomyDocument):
        lists = [(("autonomy_levels", name, "rules"), level.rules) for name, level in model.autonomy_levels.items()]
    else:
        return
    for path, rules in lists:
        for index, rule in enumerate(rules):
            if rule.route is not None and rule.route not in reviewers.queues:
                message = f"there is no queue `{rule.route}` in reviewers.yaml"
                source.fault((*path, index, "route"), message, suggest(rule.route, reviewers.queues))
