"""Writes docs/commands.md, docs/configuration.md and docs/interpreter.md from the code: `python docs/reference.py`.

tests/test_docs.py holds these pages to the code, so run this after a change of an option or a setting.
"""

import dataclasses
import enum
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import click
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from pocketfed.export.mil.operators import GROUPS
from pocketfed.server.aggregators import AGGREGATORS
from pocketfed.simulator.cli import app
from pocketfed.simulator.config import Config

HERE = Path(__file__).parent
MADE = "<!-- Made from the code by `python docs/reference.py`; do not edit. -->"

KINDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
BOUNDS = {
    "ge": "at least",
    "gt": "more than",
    "le": "at most",
    "lt": "less than",
    "multiple_of": "a multiple of",
}


def commands_page() -> str:
    """Every command: what it does, its arguments and options, its examples; Markdown."""
    root = typer.main.get_command(app)
    assert isinstance(root, click.Group)
    panels: dict[str, list[click.Command]] = {}
    for command in root.commands.values():
        panels.setdefault(getattr(command, "rich_help_panel", ""), []).append(command)
    lines = [
        "# Commands",
        "",
        MADE,
        "",
        "`pocketfed COMMAND --help` shows the same in the terminal. A mistake of the user is one sentence and exit code 2;",
        "Ctrl-C ends a command with 130. Options in **bold** must be given.",
    ]
    for panel, commands in panels.items():
        lines += ["", f"## {panel}"]
        for command in commands:
            lines += ["", *_command(command)]
    return "\n".join(lines) + "\n"


def _command(command: click.Command) -> Iterator[str]:
    about, _, examples = inspect.cleandoc(command.help or "").partition("Examples:")
    yield f"### pocketfed {command.name}"
    yield ""
    yield about.strip()
    yield ""
    yield "| option | value | default | |"
    yield "|---|---|---|---|"
    hints = get_type_hints(command.callback, include_extras=True)
    for parameter in command.params:
        # Of arguments, click keeps no help: typer does.
        stated = getattr(hints[str(parameter.name)], "__metadata__", ())
        yield _parameter(parameter, next((info.help for info in stated if getattr(info, "help", None)), ""))
    if lines := [line.strip() for line in examples.splitlines() if line.strip()]:
        yield ""
        yield "```text"
        yield from lines
        yield "```"


def _parameter(parameter: click.Parameter, about: str) -> str:
    is_argument = parameter.param_type_name == "argument"
    own_name = parameter.metavar or str(parameter.name).upper()
    names = [own_name] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    about, default = about.replace("\\", ""), ""
    if stated := re.search(r"\s*\[default: ([^\]]*)\]", about):
        about, default = about.replace(stated[0], ""), stated[1]
        default = default if " " in default else f"`{default}`"
    elif parameter.default not in (None, False, ""):
        default = "on" if parameter.default is True else f"`{_plain(parameter.default)}`"
    shown = ", ".join(f"**`{name}`**" if parameter.required else f"`{name}`" for name in names)
    about = about if about.endswith("...") else about.rstrip(".")
    if parameter.multiple and "given again" not in about:
        about += "; may be given again"
    return f"| {shown} | {_value(parameter)} | {_cell(default)} | {_cell(about)} |"


def _value(parameter: click.Parameter) -> str:
    kind = parameter.type
    if getattr(parameter, "is_flag", False):
        return "a switch"
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{_plain(choice)}`" for choice in kind.choices)
    name = {"integer": "whole number", "float": "number"}.get(kind.name.split()[0], kind.name.split()[0])
    if isinstance(kind, (click.IntRange, click.FloatRange)):
        bounds = {"at least": kind.min, "at most": kind.max}
        return ", ".join(
            [name, *(f"{word} {_plain(bound)}" for word, bound in bounds.items() if bound is not None)]
        )
    return name


def configuration_page() -> str:
    """Every section and setting of the configuration file; Markdown."""
    lines = [
        "# Configuration",
        "",
        MADE,
        "",
        "One TOML file sets what a run does: `pocketfed simulate --config FILE`, `pocketfed serve --config FILE`, and the",
        "`config.toml` of every run folder, state folder and bundle. Every mistake in it is reported at once. Paths are",
        "relative to the file. [simulate.md](simulate.md#configuration) and [serve.md](serve.md#what-it-serves) have the",
        "defaults as TOML to copy.",
        "",
        "## Top level",
        "",
        *_section(Config),
    ]
    for name, field in Config.model_fields.items():
        if (section := _model(field.annotation)) is not None:
            lines += ["", f"## [{name}]", ""]
            lines += ["Absent by default.", ""] if field.default is None else []
            lines += _section(section)
    lines += [
        "",
        "## [aggregation]",
        "",
        "Settings of the rule that `aggregator` names ([aggregation.md](aggregation.md)):",
        "",
    ]
    lines += ["| `aggregator` | key | value | default |", "|---|---|---|---|", *_rules()]
    lines += [
        "",
        "## Environment variables",
        "",
        "| variable | |",
        "|---|---|",
        "| `POCKETFED_CACHE` | folder of exported programs; `pocketfed` in the user's cache folder by default |",
        "| `POCKETFED_DATA` | folder of the real captures that some tests use ([CONTRIBUTING.md](../CONTRIBUTING.md)) |",
    ]
    return "\n".join(lines) + "\n"


def interpreter_page() -> str:
    """Every operator of MIL that the interpreter of Core ML packages knows; Markdown."""
    lines = [
        "# Operators of the Core ML interpreter",
        "",
        MADE,
        "",
        "`pocketfed verify` runs Core ML packages operator by operator ([bundles.md](bundles.md)). A package with any other one is",
        "not made: use other operators in the backbone, or leave Core ML out (`pocketfed bundle --no-coreml`).",
        "",
        "| | |",
        "|---|---|",
    ]
    for group in GROUPS:
        names = ", ".join(f"`{name}`" for name in sorted(group.OPERATORS))
        lines.append(f"| {inspect.cleandoc(group.__doc__ or '').partition('.')[0]} | {names} |")
    return "\n".join(lines) + "\n"


def _section(section: type[BaseModel]) -> Iterator[str]:
    yield inspect.cleandoc(section.__doc__ or "")
    yield ""
    yield "| key | value | default |"
    yield "|---|---|---|"
    for name, field in section.model_fields.items():
        if _model(field.annotation) is None and name != "aggregation":
            yield f"| `{name}` | {_cell(_kind(field.annotation, field.metadata))} | {_cell(_default(field))} |"


def _rules() -> Iterator[str]:
    for name, rule in AGGREGATORS.items():
        build: Any = rule.build
        if not build.__module__.startswith("pocketfed."):
            continue  # a plug-in's
        hints = get_type_hints(build, include_extras=True)
        if not dataclasses.fields(build):
            yield f"| `{name}` | no settings | | |"
        for field in dataclasses.fields(build):
            if field.name in rule.preset and name != "multi-krum":
                continue
            default = rule.preset.get(field.name, field.default)
            if default is dataclasses.MISSING:
                default = field.default_factory() if callable(field.default_factory) else "must be given"
            shown = "none" if default is None else f"`{_toml(default)}`"
            yield f"| `{name}` | `{field.name}` | {_cell(_kind(hints[field.name], ()))} | {shown} |"


def _model(annotation: Any) -> type[BaseModel] | None:
    """The section that a field is, if it is one."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _kind(annotation: Any, metadata: Any) -> str:
    """A type with its bounds, in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(inner[0], [*inner[1:], *metadata])
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(kind, metadata) for kind in inner if kind is not type(None))
    if origin is Literal:
        return ", ".join(f"`{_toml(value)}`" for value in inner)
    if origin is tuple:
        return f"list of: {_kind(inner[0], metadata)}"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(f"`{_toml(str(value))}`" for value in annotation)
    name = KINDS.get(annotation, "table" if origin is dict or origin is Mapping else str(annotation))
    return ", ".join([name, *_bounds(metadata)])


def _bounds(metadata: Any) -> Iterator[str]:
    for entry in metadata:
        for part in entry.metadata if isinstance(entry, FieldInfo) else [entry]:
            for key, words in BOUNDS.items():
                if (bound := getattr(part, key, None)) is not None:
                    yield f"{words} {_plain(bound)}"
            if (longest := getattr(part, "max_length", None)) is not None:
                yield f"at most {longest} characters"


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "follows from other settings"
    if field.default is PydanticUndefined:
        return "must be given"
    return "none" if field.default is None else f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml(entry) for entry in value)}]"
    if isinstance(value, Mapping):
        return "{}" if not value else str(dict(value))
    return _plain(value)


def _plain(value: Any) -> str:
    """A number without needless zeros; the word of an enumeration; anything else as it is."""
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value)) + ".0" * (abs(value) < 10)
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


PAGES = {
    "commands.md": commands_page,
    "configuration.md": configuration_page,
    "interpreter.md": interpreter_page,
}
"""By name, what makes each page."""

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
