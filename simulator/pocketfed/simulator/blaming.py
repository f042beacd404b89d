"""Whose fault it is that something of a bundle cannot be used: the bundle's, since anybody may have written it."""

from collections.abc import Iterator
from contextlib import contextmanager

from pocketfed.core.errors import BundleError, PocketfedError


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Around the use of what anybody may have written: whatever goes wrong is its fault.

    Args:
        what: of the bundle, by its path, and what cannot be done with it.

    Raises:
        BundleError: something went wrong; the message begins with `what`, unless it was a BundleError already.
    """
    try:
        yield
    except BundleError:
        raise
    except (
        PocketfedError, LookupError, ArithmeticError, AttributeError, TypeError, ValueError, RuntimeError, OSError,
        MemoryError,
    ) as error:  # fmt: skip
        # A KeyError's text is the key alone; others' may have several lines.
        said = repr(error) if isinstance(error, KeyError) else str(error) or type(error).__name__
        raise BundleError(f"{what} ({' '.join(said.split())}); make the bundle anew") from error
