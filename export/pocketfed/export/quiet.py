"""coremltools without its noise: bars, warnings about versions, notes of what is missing off a Mac."""

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that is logged, warned of or written to the error stream inside is shown; errors are raised as ever."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@functools.cache
def coremltools() -> Any:
    """The package; importing it takes seconds."""
    with quiet():
        import coremltools
        import coremltools.optimize.coreml
        import coremltools.proto
    return coremltools
