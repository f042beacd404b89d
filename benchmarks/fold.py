"""How fast, and in how much memory, updates become a model: our fold against Flower's own FedAvg, on one core.

    python benchmarks/fold.py --json fold.json

Both begin with the messages that phones sent. Flower's `FedAvg.aggregate_train` gets them as its `ArrayRecord`s, once
with the model as one array and once as 60, the number of tensors of a small network; ours are read and folded, once by
the rule alone, and once as a server does it, behind the guard, which Flower's strategy has no counterpart of. Each contestant takes its turn, again
and again, in one process; times are of the process, since other programs make the clock's longer. The peak is that of
a fresh process that makes each message when it is its turn, as a server gets them.
"""

import functools
import itertools
import json
import logging
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import threadpoolctl
import typer
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg as FlowerFedAvg
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import Broadcast, FedAvg
from pocketfed.server.flower_private import act_as_server
from pocketfed.server.fold import Fold
from pocketfed.server.guard import Guard
from pocketfed.server.history import History
from pocketfed.server.messages import pack_update, unpack_update
from pocketfed.server.staleness import Staleness

TENSORS = 60
CASES = ((500_000, 1000), (12_500_000, 100))
"""(weights, updates): 2 MB and 50 MB each."""

Weights = NDArray[np.float32]


def main(
    turns: Annotated[int, typer.Option(help="Of each contestant.")] = 5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures here.")] = None,
) -> None:
    """Measure both sizes, and print a table."""
    # Memory first: a process begins with the peak of the one that started it.
    kinds = [(size, updates, name) for size, updates in CASES for name in CONTESTANTS]
    peaks = {
        (size, name): _in_a_fresh_process(name, size, updates) - _in_a_fresh_process(name, size, 0)
        for size, updates, name in track(kinds, description="memory")
    }
    times = {size: seconds(size, updates, turns) for size, updates in CASES}
    rows = [
        {
            "contestant": name,
            "update_mb": 4 * size / 1e6,
            "updates": updates,
            "seconds": times[size][name],
            "peak_mb": peaks[size, name],
        }
        for size, updates, name in kinds
    ]
    console = Console()
    console.print(_table(rows))
    if json_file:
        machine = f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}"
        json_file.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


def seconds(size: int, updates: int, turns: int) -> dict[str, float]:
    """Of the process, for all updates, by contestant: the median of all turns. A few messages come again and again."""
    act_as_server(1)
    one_core()
    few = max(8, min(32, 64_000_000 // (4 * size)))
    models = [weights_of(size, k) for k in range(8)]
    prepared = {name: [make(models[k % 8], k) for k in range(few)] for name, (make, _) in CONTESTANTS.items()}
    begun_with(size)
    found: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in track(range(turns), description=f"updates of {4 * size / 1e6:.0f} MB"):
        for name, (_, run) in CONTESTANTS.items():
            begun = time.process_time()
            run(itertools.islice(itertools.cycle(prepared[name]), updates), size)
            found[name].append(time.process_time() - begun)
    return {name: float(np.median(values)) for name, values in found.items()}


def one_core() -> None:
    """Stay on one core, where the system can be told to."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    threadpoolctl.threadpool_limits(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)


def weights_of(size: int, number: int) -> Weights:
    """float32 [size]."""
    return np.random.default_rng(number).standard_normal(size, np.float32)


def layout_of(size: int) -> Layout:
    """Tensors as equal as can be."""
    cuts = np.linspace(0, size, TENSORS + 1).astype(int)
    slices = [
        Slice(f"backbone.{i}", (int(b - a),), Role.BACKBONE, int(a))
        for i, (a, b) in enumerate(itertools.pairwise(cuts))
    ]
    return Layout(tuple(slices))


def ours_message(weights: Weights, number: int) -> Message:
    """As a phone of ours answers."""
    update = Update(weights, 10 + number, round=1, layout=layout_of(len(weights)).digest)
    return Message(pack_update(update), dst_node_id=1, message_type=MessageType.TRAIN)


def flowers_message(weights: Weights, number: int, tensors: int) -> Message:
    """As a phone of Flower's answers."""
    arrays = {f"{i}": Array(part) for i, part in enumerate(np.array_split(weights, tensors))}
    content = RecordDict(
        {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 10 + number})}
    )
    return Message(content, dst_node_id=1, message_type=MessageType.TRAIN)


@functools.cache
def begun_with(size: int) -> Broadcast:
    """What the round began with, which is there before it."""
    return Broadcast(weights_of(size, 99), layout_of(size), 1)


def fold(messages: Iterator[Message], size: int) -> None:
    """Read each message, and add it by the rule alone."""
    rule = FedAvg()
    state = rule.start(begun_with(size))
    for message in messages:
        state = rule.add(state, unpack_update(message))
    rule.finish(state)


def guarded(messages: Iterator[Message], size: int) -> None:
    """As a server does."""
    begun = begun_with(size)
    fold = Fold(FedAvg(), Guard(), begun, History(1).begin(begun), Staleness())
    count = 0
    for count, message in enumerate(messages, 1):
        fold.take(count, message, begun.round)
    assert fold.outcome(count, 0.0, {}, 0).phones == count


def flowers(messages: Iterator[Message], size: int) -> None:
    """All messages at once, which is how Flower's strategy takes them."""
    FlowerFedAvg().aggregate_train(1, list(messages))


CONTESTANTS: dict[str, tuple[Callable[[Weights, int], Message], Callable[[Iterator[Message], int], Any]]] = {
    "fold": (ours_message, fold),
    "fold behind the guard": (ours_message, guarded),
    "Flower, one array": (lambda w, k: flowers_message(w, k, 1), flowers),
    f"Flower, {TENSORS} arrays": (lambda w, k: flowers_message(w, k, TENSORS), flowers),
}


def peak_mb(name: str, size: int, updates: int) -> float:
    """Largest resident memory of this process with so many updates; 0 is a process that only begins."""
    act_as_server(1)
    one_core()
    make, run = CONTESTANTS[name]
    if updates:
        # Every phone sends bytes of its own; that they are equal does not matter.
        run((make(weights_of(size, 0), k) for k in range(updates)), size)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _in_a_fresh_process(name: str, size: int, updates: int) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_mb, (name, size, updates))


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    for heading in ("updates", "", "seconds", "times the fold's", "memory beyond imports, MB"):
        table.add_column(heading)
    for row in rows:
        reference = next(r for r in rows if r["update_mb"] == row["update_mb"] and r["contestant"] == "fold")
        table.add_row(
            f"{row['updates']} of {row['update_mb']:.0f} MB",
            row["contestant"],
            f"{row['seconds']:.2f}",
            f"{row['seconds'] / reference['seconds']:.1f}",
            f"{row['peak_mb']:.0f}",
        )
    return table


if __name__ == "__main__":
    typer.run(main)
