"""The scripts that write files for other languages, as modules."""

import importlib.util
from pathlib import Path
from types import ModuleType

from tests.conftest import REPOSITORY


def load_script(path: str) -> ModuleType:
    """A script of the repository."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
