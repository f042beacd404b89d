"""Which bundle a phone works with: the newest that its server offers and its key vouches for, else the last good one."""

import logging
import shutil
import time
from collections.abc import Callable
from itertools import count

from pocketfed.core.acceptance import accept
from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import BundleError, Declined, Unreachable
from pocketfed.core.release import Release
from pocketfed.core.runtime_version import check_runtime
from pocketfed.mobile_client.bundle_store import BundleStore, writing
from pocketfed.mobile_client.delivery import Depot, Gone, Offer
from pocketfed.mobile_client.flower.agent import Pace
from pocketfed.mobile_client.runtime import runtime_version

EVERY = 600.0
"""Seconds between two looks; one that brings no news is one small call."""

LONGEST = 86_400.0
"""Seconds that they grow to while what is offered is refused."""

RELEASES = 3
"""That are begun with in one look, each since the server has taken it over while the one before was fetched."""

PACE = Pace()
"""Of a phone that has no bundle at all."""

log = logging.getLogger(__name__)


class Renewed(Exception):
    """A newer bundle is installed: whoever works with the one before begins anew."""


class Renewal:
    """Keeps the bundles of a store as new as those of a server."""

    def __init__(
        self,
        store: BundleStore,
        depot: Depot,
        check: Callable[[Bundle], object] = lambda bundle: None,
        every: float = EVERY,
        refusal: Callable[[], str | None] = lambda: None,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet.

        Args:
            store: of this phone.
            depot: of its server.
            check: tries a bundle before it is installed; raises `ProgramError` if it is of no use.
            every: seconds between two looks.
            refusal: why nothing may be asked or fetched now, by the phone's policy; None if it may.
            sleep: waits so many seconds.
            monotonic: a clock that only goes forward.
        """
        self._store, self._depot, self._check = store, depot, check
        self._every, self._refusal, self._sleep, self._monotonic = every, refusal, sleep, monotonic
        self._etag, self._refusals, self._next = "", 0, monotonic()

    def open(self) -> Bundle:
        """The phone's bundle, after a look at what the server offers. A server that does not answer, and a policy that
        does not allow to look, are waited for only by a phone that has no bundle.

        Raises:
            BundleError: what the server offers is refused, and there is none from before.
        """
        said = ""
        for tried in count():
            try:
                if reason := self._refusal():
                    raise Declined(f"no look at the server's bundle: {reason}")
                self._renew()
            except (Unreachable, Declined) as error:
                if (bundle := self._store.open()) is not None:
                    log.warning("%s; going on with %s", error, _named(bundle))
                    return bundle
                if str(error) != said:
                    log.warning("%s; there is no bundle yet, trying again", error)
                said = str(error)
                self._sleep(PACE.wait(tried))
                continue
            except BundleError as error:
                if (bundle := self._store.open()) is None:
                    raise
                self._stay(error, bundle)
                return bundle
            if (bundle := self._store.open()) is not None:
                return bundle
            self._etag = ""  # what was there a moment ago is damaged now
        raise AssertionError("counting has no end")

    def go_back(self, bundle: Bundle, error: BundleError) -> None:
        """Have `open` give the bundle before this one, which failed at its start, until this process ends.

        Raises:
            BundleError: there is none; it is `error`.
        """
        self._store.fail(bundle)
        former = self._store.open()
        if former is None:
            raise error
        log.error("%s cannot be worked with: %s; going back to %s", _named(bundle), error, _named(former))

    def nap(self, seconds: float) -> None:
        """Wait, and look for a newer bundle if it is time; between two rounds, as installing one takes a while.

        Raises:
            Renewed: there is one.
            BundleError: what the server offers is refused, and what was installed is gone.
        """
        self._sleep(seconds)
        if self._monotonic() < self._next or self._refusal() is not None:
            return
        try:
            renewed = self._renew()
        except Unreachable as error:
            log.info("no look for a newer bundle: %s", error)
            return
        except BundleError as error:
            if (bundle := self._store.open()) is None:
                raise
            self._stay(error, bundle)
            return
        if renewed:
            raise Renewed

    def _renew(self) -> bool:
        """Look once, and install what is newer; whether it was."""
        self._next = self._monotonic() + self._every
        if (offer := self._depot.offer(self._etag)) is None:
            return False
        for _ in range(RELEASES - 1):
            try:
                return self._take(offer)
            except Gone as gone:
                later = self._depot.offer(offer.etag)
                if later is None or later.manifest == offer.manifest:
                    raise
                log.info("%s; it offers another bundle now", gone)
                offer = later
        return self._take(offer)

    def _take(self, offer: Offer) -> bool:
        """Install what is offered if it is newer; whether it was.

        Raises:
            Gone: the server has a file of it no more.
        """
        server, installed = self._depot.server, self._store.installed
        release = accept(offer.manifest, offer.signature, self._store.trusted, installed, server)
        if self._store.has_failed(release.id):
            raise BundleError(f"bundle {release.id[:12]} of {server} has failed here; serve a later version")
        newest = self._store.open()
        new = newest is None or newest.id != release.id
        if new:
            assert offer.signature is not None  # `accept` has checked it
            check_runtime(release.manifest, runtime_version(), f"the bundle of {server}")
            self._bring(release)
            bundle = self._store.install(release, offer.manifest, offer.signature, self._check)
            log.info("installed %s", _named(bundle))
        else:
            self._store.tidy()
        self._etag, self._refusals = offer.etag, 0
        return new

    def _bring(self, release: Release) -> None:
        place = self._store.incoming(release)
        log.info("fetching bundle %s, version %d, %d bytes", release.id[:12], release.version, release.size)
        with writing(self._store.folder):
            for name, file in release.files.items():
                path = place / name
                same = None if path.exists() else self._store.find(file.sha256)
                if same is not None and same.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(same, path)
                self._depot.fetch(release, name, path)

    def _stay(self, error: BundleError, bundle: Bundle) -> None:
        self._refusals += 1
        wait = min(LONGEST, self._every * 2 ** min(self._refusals, 20))
        self._next = self._monotonic() + wait
        log.warning("%s; going on with %s", error, _named(bundle))


def _named(bundle: Bundle) -> str:
    return f"bundle {bundle.id[:12]}, version {bundle.version}"
