"""Which phones may take part: public keys in the state folder of a server, running or not."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pocketfed.core.errors import KeyFileError, RunFolderError
from pocketfed.server.flower_private import Fleet, Node
from pocketfed.server.public_keys import parse_public_key, read_public_key

DATABASE = "fleet.db"
"""Flower's state, in the state folder."""

REVOKED = "revoked"
"""What Flower calls `unregistered`."""


@dataclass(frozen=True)
class EnrolledPhone:
    """A key that was registered.

    Attributes:
        name: given at enrolment; empty for a phone that registered itself.
        fingerprint: `SHA256:…`, as ssh-keygen prints it.
        status: `registered`, `online`, `offline` or `revoked`.
        edge: whether it is no phone but an edge server.
    """

    name: str
    fingerprint: str
    status: str
    edge: bool = False


@dataclass(frozen=True)
class KeyFile:
    """A file with a public key, and the name to tell its holder by."""

    path: Path
    name: str


def register(state: Path, files: Sequence[KeyFile], edge: bool = False) -> list[tuple[EnrolledPhone, bool]]:
    """Let the holders of keys take part, all as phones or all as edge servers; none of them if one key cannot be.

    Args:
        state: of the server; made if it is missing.
        files: with a key each.
        edge: whether they are edge servers.

    Returns:
        For each file, who it is, and whether that is new: a key that is enrolled already stays as it is.

    Raises:
        KeyFileError: a file holds no key that phones can have, or one that was revoked, or enrolled as the other kind.
    """
    keys = [read_public_key(file.path) for file in files]
    fleet = open_fleet(state)
    known = {phone.fingerprint: phone for phone in map(_described, fleet.nodes())}
    for file, key in zip(files, keys, strict=True):
        _check_can_be(file.path, key.fingerprint, known.get(key.fingerprint), edge)
    found = []
    for file, key in zip(files, keys, strict=True):
        is_new = key.fingerprint not in known
        if is_new:
            try:
                fleet.register(key.pem, file.name, edge)
            except ValueError as error:
                raise KeyFileError(
                    f"{file.path} ({key.fingerprint}) has just been enrolled by another command; repeat this one"
                ) from error
            known[key.fingerprint] = EnrolledPhone(file.name, key.fingerprint, "registered", edge)
        found.append((known[key.fingerprint], is_new))
    return found


def _check_can_be(path: Path, fingerprint: str, known: EnrolledPhone | None, edge: bool) -> None:
    if known is None:
        return
    if known.status == REVOKED:
        raise KeyFileError(f"{path} ({fingerprint}) was revoked; the phone needs a new key")
    if known.edge != edge:
        kind = "an edge server" if known.edge else "a phone"
        raise KeyFileError(f"{path} ({fingerprint}) is enrolled as {kind}; revoke it, and enrol a new key")


def revoke_key(state: Path, fingerprint: str) -> EnrolledPhone:
    """Let the holder of a key never take part again; it is refused from its next call on.

    Args:
        state: of the server.
        fingerprint: of the key, or as much of its beginning as only one has.

    Raises:
        RunFolderError: no server has this state, and nobody was enrolled in it.
        KeyFileError: no key, or more than one, has this fingerprint.
    """
    fleet = _existing_fleet(state)
    every = [(node, _described(node)) for node in fleet.nodes()]
    found = [
        node for node, phone in every if phone.fingerprint.startswith(fingerprint) and phone.status != REVOKED
    ]
    if len(found) != 1:
        raise KeyFileError(
            f"{len(found)} enrolled keys have the fingerprint {fingerprint!r}; list them with: "
            f"pocketfed enrol --state {state}"
        )
    fleet.revoke(found[0].id)
    return _described(found[0])


def enrolled(state: Path) -> list[EnrolledPhone]:
    """All keys that were ever registered.

    Raises:
        RunFolderError: no server has this state, and nobody was enrolled in it.
    """
    return [_described(node) for node in _existing_fleet(state).nodes()]


def is_state(state: Path) -> bool:
    """Whether a server has run with this state folder, or somebody was enrolled in it."""
    return os.path.isfile(state / DATABASE)


def _described(node: Node) -> EnrolledPhone:
    status = REVOKED if node.status == "unregistered" else node.status
    fingerprint = parse_public_key(node.public_key, "a key").fingerprint
    return EnrolledPhone(node.name, fingerprint, status, node.edge)


def _existing_fleet(state: Path) -> Fleet:
    if not is_state(state):
        raise RunFolderError(
            f"{state} is no state folder of a server, it has no {DATABASE}; name the server's own with --state"
        )
    return open_fleet(state)


def open_fleet(state: Path) -> Fleet:
    """The state of the phones in a state folder, which is made if it is missing; to look and to enrol only."""
    state.mkdir(parents=True, exist_ok=True)
    return Fleet(state / DATABASE, largest_answer=0)
