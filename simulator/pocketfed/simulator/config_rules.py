"""What the sections of a configuration must agree on."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pocketfed.core.errors import ConfigError
from pocketfed.server.aggregators import AGGREGATORS, Aggregator, build_aggregator, discounts_late
from pocketfed.server.privacy.private_mean import refusal
from pocketfed.simulator.config import AsynchronousConfig


def disagreements(values: Mapping[str, Any]) -> list[str]:
    """A sentence for each mistake that is not of one section alone; also where sections have mistakes of their own.

    Args:
        values: of a configuration, as they were written.
    """
    problems = _privacy_problems(values)
    name, settings = values.get("aggregator", "fedavg"), values.get("aggregation", {})
    if not isinstance(name, str) or name not in AGGREGATORS or not isinstance(settings, Mapping):
        return problems  # the schema says so
    try:
        rule = build_aggregator(name, settings)
    except ConfigError as error:
        return [*(f"aggregation.{problem}" for problem in error.problems), *problems]
    shown = f"{name} over {settings['over']}" if "over" in settings else name
    problems += _lateness_problems(values, rule, shown)
    if values.get("privacy") is not None and (reason := refusal(rule)):
        problems.append(f"privacy: {reason} (got {name!r})")
    return problems


def _lateness_problems(values: Mapping[str, Any], rule: Aggregator[Any], shown: str) -> list[str]:
    """Of weights that fall with lateness, under a rule that does not weigh."""
    try:
        wanted = AsynchronousConfig.model_validate(values.get("asynchronous", {}))
    except ValidationError:
        return []  # the schema says so
    by_weight = wanted.enabled and wanted.staleness != "constant" and wanted.discounts == "weight"
    if not by_weight or discounts_late(rule):
        return []
    problem = (
        f"asynchronous.discounts: {shown} does not weigh updates by how late they are, so all would count in full; "
        'set discounts = "step", or staleness = "constant" if that is wanted (got \'weight\')'
    )
    return [problem]


def _privacy_problems(values: Mapping[str, Any]) -> list[str]:
    """Of ways to fold updates in that a private run does not have."""
    wanted = values.get("privacy")
    if wanted is None:
        return []
    problems = []
    asynchronous, deployment = values.get("asynchronous", {}), values.get("deployment", {})
    waits = not (isinstance(asynchronous, Mapping) and asynchronous.get("enabled"))
    if not waits and isinstance(wanted, Mapping) and (population := wanted.get("population")):
        problems.append(
            "privacy.population: rounds that do not wait ask whoever is idle, which is no random sample; leave it out "
            f"(got {population})"
        )
    if isinstance(deployment, Mapping) and deployment.get("late") == "count":
        problems.append(
            "deployment.late: a phone whose late answer counts is left out of the round that is running, so its captures "
            "would move that by two changes; set it to refuse, or leave [privacy] out (got 'count')"
        )
    return problems
