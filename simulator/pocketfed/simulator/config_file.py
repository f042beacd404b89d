"""The configuration of a run: one TOML file, command-line flags over it, every mistake reported at once."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import tomli_w
from pydantic import BaseModel, ValidationError

from pocketfed.core.errors import ConfigError
from pocketfed.core.parsing import parse_toml
from pocketfed.core.plugins import load_plugins
from pocketfed.core.visible import visible
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_rules import disagreements


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a configuration file; paths in it are relative to the file, and absolute in the result.

    Raises:
        ConfigError: the file is missing or no TOML, or what should be a path is none.
    """
    try:
        values = parse_toml(path.read_text())
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError([f"{path} is no valid TOML: {error}"]) from error
    captures = values.get("captures")
    if isinstance(captures, dict):
        for key in ("photos", "sounds"):
            if isinstance(captures.get(key), str):
                captures[key] = _absolute(path.parent, captures[key])
    if isinstance(plugins := values.get("plugins"), list):
        values["plugins"] = [_absolute(path.parent, str(plugin)) for plugin in plugins]
    return values


def overlay(values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags over values; a flag is named like `fleet.alpha`, and one that is None was not given."""
    merged: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in values.items()}
    for name, value in flags.items():
        if value is None:
            continue
        *section, key = name.split(".")
        target = merged
        for part in section:
            target = target.setdefault(part, {})
        if isinstance(target, dict):  # else the file has no table there, which validation will say
            target[key] = value
    return merged


def build_config(values: Mapping[str, Any]) -> Config:
    """Validate, after importing the plugins, whose names the values may use.

    Raises:
        ConfigError: with one line for every mistake: the key, the value, and what it may be.
    """
    if isinstance(plugins := values.get("plugins"), (list, tuple)):
        load_plugins([Path(str(plugin)) for plugin in plugins])
    problems: list[str] = []
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        # A default that waits for a value which is itself a mistake is no mistake of its own.
        problems += [_sentence(p) for p in error.errors() if p["type"] != "default_factory_not_called"]
    problems += disagreements(values)
    if problems:
        raise ConfigError(problems)
    return config


def to_toml(config: Config) -> str:
    """The whole configuration, defaults included, so that a run folder says what was run."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def _absolute(folder: Path, name: str) -> str:
    try:
        return str((folder / name).resolve())
    except ValueError as error:  # what no path may hold
        raise ConfigError([f"{name!r} is no path ({error}); give one of a file or folder"]) from error


def _known_keys(unknown: Sequence[Any]) -> str:
    """What to write in place of an unknown key: the nearest in its table, or all of them."""
    table: type[BaseModel] = Config
    for part in unknown[:-1]:
        kinds = (
            table.model_fields[str(part)].annotation,
            *get_args(table.model_fields[str(part)].annotation),
        )
        table = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
    near = difflib.get_close_matches(str(unknown[-1]), table.model_fields, n=1)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(table.model_fields)}"


def _sentence(problem: Any) -> str:
    key = visible(".".join(str(part) for part in problem["loc"])) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"{key}: there is no such key; {_known_keys(problem['loc'])}"
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(problem["input"], dict) else f" (got {problem['input']!r})"
    return f"{key}: {message[0].lower()}{message[1:]}{shown}"
