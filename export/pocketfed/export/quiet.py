"""Exporters without their noise; coremltools' is bars, warnings about versions, notes of what is missing off a Mac."""

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Nothing that is logged or warned of inside is shown, up to warnings; errors are raised as ever."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """As `unwarned`, and nothing that is written to the error stream is shown either."""
    with unwarned(), contextlib.redirect_stderr(io.StringIO()):
        yield


@functools.cache
def coremltools() -> Any:
    """The package; importing it takes seconds."""
    with quiet():
        import coremltools
        import coremltools.optimize.coreml
        import coremltools.proto
    return coremltools
