"""Whether a bundle is of use on this phone, said in one way wherever that shows."""

from collections.abc import Iterator
from contextlib import contextmanager

from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import BundleError, ProgramError
from pocketfed.core.runtime_version import check_runtime
from pocketfed.mobile_client.runtime import runtime_version


@contextmanager
def starting(bundle: Bundle) -> Iterator[None]:
    """Around the first use of a bundle's program: that it cannot be run is the bundle's fault, and a person's to mend.

    Raises:
        BundleError: the runtime here is older than what the bundle was made with, or `ProgramError` was raised inside.
    """
    check_runtime(bundle.manifest, runtime_version(), bundle.folder)
    try:
        yield
    except ProgramError as error:
        raise BundleError(
            f"bundle {bundle.id[:12]} is of no use on this phone: {error}; use one that this version of pocketfed has made"
        ) from error
