"""Which phones may take part: public keys in the state folder of a server, running or not."""

from dataclasses import dataclass
from pathlib import Path

from pocketfed.core.errors import KeyFileError
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


def register(state: Path, key: Path, name: str, edge: bool = False) -> EnrolledPhone:
    """Let the holder of a key take part, as a phone or as an edge server.

    Raises:
        KeyFileError: the file holds no key that phones can have, or one that was registered before.
    """
    public_key = read_public_key(key)
    fleet = open_fleet(state)
    try:
        fleet.register(public_key.pem, name, edge)
    except ValueError as error:
        known = [
            phone for phone in map(_described, fleet.nodes()) if phone.fingerprint == public_key.fingerprint
        ]
        revoked = any(phone.status == REVOKED for phone in known)
        why = "was revoked; the phone needs a new key" if revoked else "is enrolled already"
        if not revoked and any(phone.edge != edge for phone in known):
            why = f"is enrolled as {'a phone' if edge else 'an edge server'}; revoke it, and enrol a new key"
        raise KeyFileError(f"{key} ({public_key.fingerprint}) {why}") from error
    return EnrolledPhone(name, public_key.fingerprint, "registered", edge)


def revoke_key(state: Path, fingerprint: str) -> EnrolledPhone:
    """Let the holder of a key never take part again; it is refused from its next call on.

    Args:
        state: of the server.
        fingerprint: of the key, or as much of its beginning as only one has.

    Raises:
        KeyFileError: no key, or more than one, has this fingerprint.
    """
    fleet = open_fleet(state)
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
    """All keys that were ever registered."""
    return [_described(node) for node in open_fleet(state).nodes()]


def _described(node: Node) -> EnrolledPhone:
    status = REVOKED if node.status == "unregistered" else node.status
    fingerprint = parse_public_key(node.public_key, "a key").fingerprint
    return EnrolledPhone(node.name, fingerprint, status, node.edge)


def open_fleet(state: Path) -> Fleet:
    """The state of the phones in a state folder, which is made if it is missing; to look and to enrol only."""
    state.mkdir(parents=True, exist_ok=True)
    return Fleet(state / DATABASE, largest_answer=0)
