"""Python files from outside the package that add to its registries.

A bundle has no code in it: it says by name and hash which files it was made with, and whoever needs them has to have
them, and to say so: a user's configurations and options are imported from, and never what a bundle says.
"""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pocketfed.core.errors import PluginError

LOADED: dict[str, Path] = {}
"""What this process has imported: paths by the SHA-256 (hex) of what was in them."""


def load_plugins(paths: Sequence[Path]) -> None:
    """Import each file once in this process, under a name made from its path.

    Raises:
        PluginError: a file is missing or fails to import; all such files at once.
    """
    problems: list[str] = []
    for path in paths:
        try:
            _load(path.resolve())
        except PluginError as error:
            problems += error.problems
    if problems:
        raise PluginError(problems)


def plugin_digest(path: Path) -> str:
    """SHA-256 (hex) of a plug-in's content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plugin_records(paths: Sequence[Path]) -> list[dict[str, str]]:
    """What a manifest says of plug-ins, which exist: name and hash of each, in order."""
    return [{"name": path.name, "sha256": plugin_digest(path)} for path in paths]


def _load(path: Path) -> None:
    name = f"pocketfed_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    if not os.path.isfile(path) or spec is None or spec.loader is None:
        raise PluginError([f"plugin {path} is no Python file; give the path of one, ending in .py"])
    digest = plugin_digest(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise PluginError([f"plugin {path} cannot be imported: {type(error).__name__}: {error}"]) from error
    LOADED[digest] = path
