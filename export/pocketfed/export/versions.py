"""Versions of what programs are made with; a program runs where the runtime is not older."""

from importlib.metadata import version

PACKAGES = ("executorch", "torch", "torchao", "coremltools")


def exporter_versions() -> dict[str, str]:
    """The installed versions, by package."""
    return {name: version(name) for name in PACKAGES}
