"""Being a node of a federation: getting in, staying online, and coming back after a crash of either side."""

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import CallRefused, MalformedObject, ServerError, Unreachable
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.home import writing
from pocketfed.mobile_client.jitter import jitter

KEY_IN_USE, REGISTRATION_CLOSED, NOT_ACTIVATED = 23, 2001, 2004
"""Error codes of Flower."""

UNAUTHENTICATED = 401
SHORTEST, LONGEST = 10.0, 1800.0
"""Seconds between heartbeats that servers accept."""

PATIENCE = 2
"""Intervals without a heartbeat after which a server takes a node for offline."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """What a phone remembers of its server.

    Attributes:
        node: its id there; None if it has none yet.
        server: the address.
        activating: whether it has asked to go online and does not know the answer: it may be online.
    """

    node: int | None = None
    server: str = ""
    activating: bool = False


class Membership:
    """This phone as a node of one server."""

    def __init__(
        self, fleet: Fleet, path: Path, interval: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is sent yet.

        Args:
            fleet: the server.
            path: file of what is remembered.
            interval: seconds between heartbeats.
            monotonic: a clock that only goes forward.
        """
        self.interval = interval
        self._fleet, self._path, self._monotonic = fleet, path, monotonic
        self._seen = self._saved = Seen()  # as it is, and as it is on disk
        self._begun = False
        self._refused_since: float | None = None

    def join(self) -> int:
        """Go online; the node's id, the same as before if the server still knows it.

        Raises:
            Unreachable: not now.
            HomeError: the node's id cannot be written down. It is kept in memory, and the next call tries that first.
            ServerError: the server does not know this phone, and does not take phones that nobody has enrolled.
        """
        if not self._begun:
            self._seen = self._saved = self._read()
            self._begun = True
        self._save(self._seen)
        self._fleet.caller.met |= self._is_known
        # The id may be another server's: this one may have moved here, and a third one does not know the node.
        node = self._go_online() or (self._resume(self._seen.node) if self._seen.node else None)
        node = node or self._register()
        self._refused_since = None
        self._remember(node)
        self._fleet.caller.met = True
        return node

    def beat(self, node: int) -> None:
        """Send one heartbeat; what goes wrong shows in the other calls."""
        try:
            self._fleet.heartbeat(node, self.interval, tries=1)  # the next one is as good
        except (Unreachable, CallRefused, ServerError, MalformedObject) as error:
            log.debug("heartbeat: %s", error)

    def _go_online(self) -> int | None:
        """Activate, with a note as long as the answer is not known: it may be all that is lost."""
        before, asking = self._seen, replace(self._seen, activating=True)
        if not self._is_known:  # a heartbeat shows whether a known node is online
            self._save(asking)
        try:
            return self._activate()
        except Unreachable:
            self._seen = asking
            raise
        except ServerError:
            self._save(before)
            raise

    def _activate(self) -> int | None:
        try:
            return self._fleet.activate(self.interval)
        except CallRefused as refused:
            if refused.code != NOT_ACTIVATED:
                raise
            return None

    def _resume(self, node: int) -> int | None:
        """A node that is still online cannot be activated; its heartbeat is enough."""
        try:
            alive = self._fleet.heartbeat(node, self.interval)
        except CallRefused as refused:
            if refused.status != UNAUTHENTICATED:
                raise
            alive = False
        if alive:
            log.info("still online as node %d", node)
        return node if alive else None

    def _register(self) -> int:
        try:
            node = self._fleet.register()
        except CallRefused as refused:
            if refused.code == REGISTRATION_CLOSED:
                return self._wait_or_give_up(certain=not self._seen.activating)
            if refused.code == KEY_IN_USE:
                return self._activate() or self._wait_or_give_up(certain=False)
            raise
        # Before it is online, so that it can be resumed whatever happens to the next answer.
        self._remember(node)
        log.info("registered as node %d", node)
        return self._activate() or self._resume(node) or self._wait_or_give_up(certain=False)

    def _wait_or_give_up(self, certain: bool) -> int:
        """The server does not let this key in: either nobody enrolled it, or a node with it is still online."""
        now = self._monotonic()
        self._refused_since = self._refused_since or now
        server = self._fleet.caller.server
        key = self._fleet.caller.key.public_openssh
        enrol = f"pocketfed enrol --state STATE key.pub, where key.pub, of the phone's home, holds: {key}"
        if certain or now - self._refused_since > (PATIENCE + 1) * self.interval:
            self._seen = replace(self._seen, activating=False)
            self._save(self._seen)
            raise ServerError(
                f"{server} does not know this phone's key, or has revoked it, or another phone is online with it; "
                f"on the server's side enrol it: {enrol}"
            )
        raise Unreachable(
            f"{server} may have a node online with this phone's key, waiting until it lapses; if nobody has enrolled "
            f"the key: {enrol}"
        )

    def _read(self) -> Seen:
        try:
            values = json.loads(self._path.read_bytes()[:4096])
            node, server = values["node"], values.get("server")
            return Seen(
                node if type(node) is int else None,
                server if isinstance(server, str) else "",
                values.get("activating") is True,
            )
        except FileNotFoundError:
            return Seen()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read (%s); asking the server who this phone is", self._path, error)
            return Seen()

    @property
    def _is_known(self) -> bool:
        return self._seen.node is not None and self._seen.server == self._fleet.caller.server

    def _remember(self, node: int) -> None:
        self._seen = Seen(node, self._fleet.caller.server)
        self._save(self._seen)

    def _save(self, seen: Seen) -> None:
        if seen != self._saved:
            with writing(self._path):
                write_atomically(self._path, json.dumps(asdict(seen)).encode())
            self._saved = seen


def keep_alive(beat: Callable[[], None], interval: float, stop: threading.Event) -> None:
    """Beat until `stop` is set, somewhat more often than every `interval` seconds and not in step with others."""
    while not stop.wait(interval * jitter(0.7, 0.9)):
        beat()
