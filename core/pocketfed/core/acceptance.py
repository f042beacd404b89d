"""What a phone accepts of a bundle that is offered to it: the signature first, then a later release than its own.

Everything in a bundle hangs on its manifest, so these rules need nothing else; nothing is fetched, nor even parsed, on
behalf of a manifest that the trusted key did not sign.
"""

from dataclasses import dataclass

from pocketfed.core.errors import OutdatedError, SignatureError
from pocketfed.core.release import Release, read_release
from pocketfed.core.signing import VerifyingKey


@dataclass(frozen=True)
class Installed:
    """The release that a phone has, by the id and the version of its bundle."""

    id: str
    version: int


def accept(
    manifest: bytes, signature: str | None, trusted: VerifyingKey, installed: Installed | None, origin: str
) -> Release:
    """The release that is offered, if this phone may have it: a later one than its own, or its own again.

    Args:
        manifest: its bytes.
        signature: of the manifest; None if it has none.
        trusted: the key that must have signed it.
        installed: what the phone has, or had last if that is damaged; None on a new phone.
        origin: who offers it, for messages.

    Raises:
        SignatureError: it is not signed, or by another key, or was changed.
        OutdatedError: it is an older release than the phone's, or another one of the same version.
        BundleError: the manifest is none, or of another format.
    """
    if signature is None:
        raise SignatureError(
            f"the bundle of {origin} is not signed; sign it where it is made: pocketfed bundle --key"
        )
    try:
        trusted.check(manifest, signature)
    except SignatureError as error:
        raise SignatureError(f"the bundle of {origin} cannot be trusted: {error}") from error
    release = read_release(manifest, f"the bundle of {origin}")
    if installed is None or release.id == installed.id:
        return release
    if release.version < installed.version:
        raise OutdatedError(
            f"the bundle of {origin} is version {release.version}, older than version {installed.version} that is "
            "installed; serve the newer one"
        )
    if release.version == installed.version:
        raise OutdatedError(
            f"the bundle of {origin} is another one of version {release.version}, which is installed; release it "
            "with a higher one: pocketfed bundle --version"
        )
    return release
