"""`sluicegate policy`: check, explain, try, compare and publish the documents that decide."""

from __future__ import annotations

import typer

from sluicegate.cli import policy_activation, policy_impact, policy_offline

app = typer.Typer(no_args_is_help=True, help="Check and publish policies: the YAML documents that decide.")
for part in (policy_offline, policy_activation, policy_impact):
    part.register(app)
