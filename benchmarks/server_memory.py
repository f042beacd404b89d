"""Peak memory of the server for fleets of different sizes, with a model of 2 MB: python benchmarks/server_memory.py

Each fleet is run in a fresh process; the phones are trivial, so that the server is all there is to measure.
"""

import functools
import multiprocessing
import resource
import sys

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from pocketfed.core.hyper import Hyper
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.plan import PhoneStatus, Plan, Update
from pocketfed.server.aggregators import GlobalModel, build_aggregator
from pocketfed.server.app import build_server_app
from pocketfed.server.messages import introduce, pack_update, unpack_instruction
from pocketfed.server.outcome import Outcome, RoundWatcher
from pocketfed.server.roster import Roster
from pocketfed.server.terms import Rounds
from pocketfed.simulator.inprocess import InProcessGrid

SIZE = 500_000
"""float32 weights: 2 MB."""


def trivial_phone() -> ClientApp:
    """Answers with the weights it was sent, plus one."""
    app = ClientApp()

    @app.query()
    def who(message: Message, context: Context) -> Message:
        return introduce(message, PhoneStatus(int(context.node_config["partition-id"])))

    @app.train()
    def learn(message: Message, context: Context) -> Message:
        asked = unpack_instruction(message)
        update = Update(asked.weights + np.float32(1), 10, round=asked.plan.round, layout=asked.layout)
        return Message(pack_update(update), reply_to=message)

    return app


class Counter(RoundWatcher):
    """Keeps the figures of a round and not its weights."""

    def __init__(self) -> None:
        self.phones: list[int] = []
        self.seconds: list[float] = []

    def finished(self, outcome: Outcome) -> None:
        self.phones.append(outcome.phones)
        self.seconds.append(outcome.seconds)


def measure(phones: int) -> tuple[float, float]:
    """(peak resident megabytes of the server's process, seconds of a round), over two rounds."""
    counter = Counter()
    layout = Layout((Slice("backbone.w", (SIZE,), Role.BACKBONE, 0),))
    rounds = Rounds(layout, build_aggregator("fedavg"), lambda r: Plan(r, 0, {}, False, Hyper()), seed=0)
    start = np.full(SIZE, 100, dtype=np.float32)
    server = build_server_app(rounds, GlobalModel(start), (1, 2), Roster(), counter, phones)
    with InProcessGrid(functools.partial(trivial_phone), phones, workers=2) as grid:
        server(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}))
    if counter.phones != [phones, phones]:
        raise RuntimeError("some phones did not count")
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return peak, min(counter.seconds)


def main() -> None:
    """Print a table."""
    print(f"{'phones':>8} {'peak MB':>9} {'round s':>9}")
    for phones in (10, 100, 1000):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            # A pool's worker is a daemon and may not have children; a thread of ours would share our memory.
            peak, seconds = pool.apply(_measure_as_parent, (phones,))
        print(f"{phones:>8} {peak:>9.0f} {seconds:>9.2f}", flush=True)


def _measure_as_parent(phones: int) -> tuple[float, float]:
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    return measure(phones)


if __name__ == "__main__":
    main()
