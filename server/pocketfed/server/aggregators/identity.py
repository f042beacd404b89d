"""What makes two rules the same, in words: two servers whose rules have the same identity can share a fold."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

from pocketfed.server.aggregators.aggregator import Aggregator


@runtime_checkable
class Identified(Protocol):
    """A rule whose fields are not what it is by, as one that names another rule.

    Attributes:
        identity: equal for two rules if and only if they are one rule with the same settings.
    """

    @property
    def identity(self) -> str: ...


def identity(rule: Aggregator[Any]) -> str:
    """The rule with all of its settings, whatever order they were given in and whether or not they are defaults."""
    return rule.identity if isinstance(rule, Identified) else written(rule)


def settings_of(rule: Any) -> dict[str, Any]:
    """The fields of a rule by which it equals another."""
    return {field.name: getattr(rule, field.name) for field in fields(rule) if field.compare}


def call(name: str, settings: Mapping[str, str]) -> str:
    """`name(first=..., second=...)`, by the settings' names."""
    return f"{name}({', '.join(f'{key}={settings[key]}' for key in sorted(settings))})"


def written(value: Any) -> str:
    """As `repr`, but the same for all values that are equal: nothing depends on an order that has no meaning."""
    if is_dataclass(value) and not isinstance(value, type):
        return call(type(value).__name__, {k: written(v) for k, v in settings_of(value).items()})
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{written(k)}: {written(v)}' for k, v in value.items()))}}}"
    if isinstance(value, AbstractSet):
        return f"{{{', '.join(sorted(map(written, value)))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(written, value))}]"
    return repr(value)
