"""A phone's part in a federation: what it takes to work with a bundle, put together, for one bundle after the other."""

import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import BundleError
from pocketfed.core.wire import ENVELOPE
from pocketfed.mobile_client.capture_store import CaptureStore
from pocketfed.mobile_client.flower.agent import Agent
from pocketfed.mobile_client.flower.calls import Caller
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.home import Home
from pocketfed.mobile_client.flower.journal import Journal
from pocketfed.mobile_client.flower.key import PhoneKey
from pocketfed.mobile_client.flower.membership import Membership
from pocketfed.mobile_client.flower.work import Work
from pocketfed.mobile_client.gate import Gate
from pocketfed.mobile_client.looks import IdleLooks
from pocketfed.mobile_client.renewal import Renewal, Renewed
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from pocketfed.mobile_client.taking_part import Own
from pocketfed.mobile_client.usable import starting

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """On what terms a phone takes part.

    Attributes:
        server: `http(s)://host:port`.
        verify: whom to trust, for https.
        captures: folder of photos and sounds.
        number: of its random numbers.
        quota: bytes of decoded captures that it keeps.
        inbox: whether the captures are its own, and the oldest beyond the quota are deleted.
        heartbeat: seconds between two.
        rounds: instructions that it answers, statuses not counted; None for ever.
        app_version: that it states.
    """

    server: str
    verify: ssl.SSLContext | None
    captures: Path
    number: int
    quota: int
    inbox: bool
    heartbeat: float
    rounds: int | None
    app_version: str


class Participation:
    """One phone at one server."""

    def __init__(
        self, terms: Terms, home: Home, key: PhoneKey, gate: Gate, threads: Callable[[Bundle], int]
    ) -> None:
        """Nothing is begun yet.

        Args:
            terms: see there.
            home: where the phone keeps what it must not lose; in the hands of this process.
            key: of the phone.
            gate: says when it may train.
            threads: on how many threads a bundle's program runs.

        Raises:
            HomeError: the home cannot be written.
        """
        self._terms, self._home, self._key, self._gate, self._threads = terms, home, key, gate, threads
        self._journal = Journal(home.journal)  # one for all bundles: it may hold what the disk does not take
        self._answered = 0

    @property
    def is_over(self) -> bool:
        """Whether the phone has answered as often as it should."""
        return self._terms.rounds is not None and self._answered >= self._terms.rounds

    def work_with(self, bundle: Bundle, nap: Callable[[float], None] = time.sleep) -> None:
        """Work with one bundle until this is over. May be ended by an exception at any moment.

        Args:
            bundle: whole.
            nap: waits so many seconds while there is nothing to do.

        Raises:
            BundleError: this phone cannot run the bundle's program.
            CaptureError: the home cannot be written.
            ServerError: the server refuses this phone for good.
        """
        terms, home, spec = self._terms, self._home, bundle.spec
        store = CaptureStore(terms.captures, spec, home.folder / "captures", terms.quota, own=terms.inbox)
        with starting(bundle):
            threads = self._threads(bundle)
            runtime = ExecutorchRuntime(bundle.program, threads)
        work = Work(
            terms.number, spec, runtime, store, self._gate, terms.app_version, self._gate.charging,
            own=Own.of(bundle, home.memory), bundle=bundle.id,
        )  # fmt: skip
        about = (terms.number, bundle.id[:12], bundle.version, threads)
        log.info("phone %d with bundle %s, version %d, threads: %d", *about)
        looks = IdleLooks(store.scan, self._gate.refusal)

        def idle(seconds: float) -> None:
            looks()
            nap(seconds)

        largest = 4 * spec.weights + ENVELOPE  # the weights are the largest thing that a server sends
        with Caller(terms.server, self._key, verify=terms.verify, max_answer=largest) as caller:
            fleet = Fleet(caller)
            member = Membership(fleet, home.node, terms.heartbeat)
            agent = Agent(fleet, member, self._journal, work, sleep=idle, refusal=work.refusal)
            try:
                agent.run(None if terms.rounds is None else terms.rounds - self._answered)
            finally:
                self._answered += agent.answered

    def work_with_newest(self, renewal: Renewal) -> None:
        """Work with the server's bundle, and with the next one as soon as it is installed, until this is over; with the one
        before it if it fails at its start.

        Raises:
            BundleError: what the server offers is refused, and there is none from before, or that one cannot be run.
            CaptureError, ServerError: see `work_with`.
        """
        while not self.is_over:
            bundle = renewal.open()
            try:
                with suppress(Renewed):
                    self.work_with(bundle, renewal.nap)
            except BundleError as error:
                renewal.go_back(bundle, error)
