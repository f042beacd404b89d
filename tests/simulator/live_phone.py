"""What `pocketfed phone` composes, in a thread."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pocketfed.core.bundle import Bundle
from pocketfed.core.errors import PocketfedError
from pocketfed.mobile_client.capture_store import CaptureStore
from pocketfed.mobile_client.flower.agent import Agent, Pace
from pocketfed.mobile_client.flower.calls import Caller
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.journal import Journal
from pocketfed.mobile_client.flower.key import load_or_create_key
from pocketfed.mobile_client.flower.membership import Membership
from pocketfed.mobile_client.flower.work import Work
from pocketfed.mobile_client.gate import Gate
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from pocketfed.mobile_client.taking_part import Own


@contextmanager
def live_phone(
    url: str, number: int, bundle: Bundle, captures: Path, home: Path, rounds: int
) -> Iterator[None]:
    """Takes part until it has answered so many instructions, or the server is gone."""
    home.mkdir(parents=True)
    store = CaptureStore(captures, bundle.spec, home / "captures", settle=0.0)
    own = Own.of(bundle, home / "memory")
    work = Work(number, bundle.spec, ExecutorchRuntime(bundle.program), store, Gate(None), own=own)
    with Caller(url, load_or_create_key(home / "key")) as caller:
        fleet = Fleet(caller)
        member = Membership(fleet, home / "node.json", 60.0)
        agent = Agent(fleet, member, Journal(home / "journal"), work, Pace(0.02, 0.2))

        def run() -> None:
            with suppress(PocketfedError, RuntimeError):
                agent.run(rounds)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield
        thread.join(10)
