"""Aggregation rules by name. A rule is a frozen dataclass; its fields are what a configuration may set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from pocketfed.core.errors import ConfigError
from pocketfed.server.aggregators.aggregator import Aggregator


@dataclass(frozen=True)
class Rule:
    """A registered rule.

    Attributes:
        build: the dataclass.
        preset: values of its fields where they differ from the defaults.
    """

    build: Callable[..., Aggregator[Any]]
    preset: Mapping[str, Any]


AGGREGATORS: dict[str, Rule] = {}


def register(name: str, rule: Callable[..., Aggregator[Any]], **preset: Any) -> None:
    """Add a rule: a frozen dataclass that is an `Aggregator`. Its annotations are checked, pydantic's `Field` included.

    Args:
        name: for configurations.
        rule: the dataclass.
        preset: values of its fields that differ from its defaults under this name.

    Raises:
        TypeError: it is no dataclass.
    """
    if not (isinstance(rule, type) and is_dataclass(rule)):
        raise TypeError(f"{rule!r} is no dataclass, whose fields would be the rule's settings")
    AGGREGATORS[name] = Rule(cast(Any, rule), preset)


def build_aggregator(name: str, settings: Mapping[str, Any] | None = None) -> Aggregator[Any]:
    """The rule of this name.

    Args:
        name: as in `AGGREGATORS`.
        settings: values for the rule's fields; the others keep their defaults.

    Raises:
        ConfigError: there is no such rule, or it has no such setting, or a value is a mistake; all mistakes at once.
    """
    if name not in AGGREGATORS:
        raise ConfigError(
            [f"there is no aggregator named {name!r}; choose one of: {', '.join(sorted(AGGREGATORS))}"]
        )
    rule, build = AGGREGATORS[name], cast(Any, AGGREGATORS[name].build)
    known = {field.name for field in fields(build)}
    problems = [
        f"{key}: {name} has no such setting; it has: {', '.join(sorted(known)) or 'none'}"
        for key in settings or {}
        if key not in known
    ]
    given = {key: value for key, value in (settings or {}).items() if key in known}
    try:
        built: Aggregator[Any] = TypeAdapter(build).validate_python({**rule.preset, **given})
    except ValidationError as error:
        problems += [_sentence(problem) for problem in error.errors()]
    if problems:
        raise ConfigError(problems)
    return built


def _sentence(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"]) or "settings"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message[0].lower()}{message[1:]} (got {problem['input']!r})"
