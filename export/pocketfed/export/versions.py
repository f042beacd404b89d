"""Versions of what programs are made with; a program runs where the runtime is not older."""

from collections.abc import Mapping
from importlib.metadata import version

from pocketfed.core.runtime_version import RUNTIME

PACKAGES = ("executorch", "torch", "torchao", "coremltools")


def least_runtime(made_with: Mapping[str, str]) -> str:
    """The runtime that programs need which were made with these versions, for people."""
    return f"ExecuTorch {made_with[RUNTIME]}"


def exporter_versions() -> dict[str, str]:
    """The installed versions, by package."""
    return {name: version(name) for name in PACKAGES}
