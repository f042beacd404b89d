"""Trees of servers over HTTP: the weights are those of one server with all the phones, whatever happens to an edge."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketfed.core.errors import ConfigError, ServerError
from pocketfed.core.part import Part
from pocketfed.core.plan import Update
from pocketfed.core.wire import FOLD, part_items
from pocketfed.mobile_client.flower.key import load_or_create_key
from pocketfed.mobile_client.flower.objects import Records
from pocketfed.mobile_client.flower.task import Task
from pocketfed.server.aggregators import AGGREGATORS, Broadcast, FedAvg, GlobalModel
from pocketfed.server.aggregators.registry import Rule
from pocketfed.server.checkpoint import load_checkpoint, path_of
from pocketfed.server.enrolment import KeyFile, enrolled
from pocketfed.server.enrolment import register as enrol
from pocketfed.server.outcome import Kind
from pocketfed.server.watch.snapshot import Stage
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.edge import HOME
from pocketfed.simulator.server_run import open_run
from pocketfed.simulator.tree import check_tree
from tests.simulator.deployed import (
    LAYOUT,
    START,
    Phone,
    Server,
    assert_close,
    bundle,
    expected,
    fleet,
    learnt,
    page_says,
    settings,
    wait_for,
)
from tests.simulator.edges import Edge
from tests.simulator.processes import Process, free_port

ANY: dict[str, Any] = {"edges": "any"}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def test_a_tree_of_three_levels_comes_to_the_weights_of_one_server(tmp_path: Path, stack: ExitStack) -> None:
    """Phones 0 and 1 behind an edge; 2 behind another, with 3 and 4 behind an edge of that one; 5 at the root."""
    made = bundle(tmp_path / "bundle", settings(3, **ANY))
    two = settings(3, minimum=2, **ANY)
    phones = stack.enter_context(fleet(tmp_path, 6))
    root = stack.enter_context(Server(tmp_path / "root", made))
    first = stack.enter_context(Edge(tmp_path / "first", made, root.url, two))
    second = stack.enter_context(Edge(tmp_path / "second", made, root.url, two))
    third = stack.enter_context(Edge(tmp_path / "third", made, second.url, two))
    for phone, server in zip(phones, (first, first, second, third, third, root), strict=True):
        phone.start(server.url)

    assert_close(root.result(), expected(3, phones=6))
    assert [outcome.phones for outcome in root.diary.outcomes] == [6, 6, 6]
    assert all(outcome.failures == () for outcome in root.diary.outcomes)
    assert [outcome.phones for outcome in second.diary.outcomes] == [3, 3, 3]
    assert second.diary.saves == [1, 2, 3]
    statuses = {status.number: status for status in root.run.last.statuses.values()}
    assert statuses == {}  # it was begun empty
    assert (second.shown.round, second.shown.planned, len(second.shown.rounds)) == (3, None, 3)
    assert (root.fault, first.fault, second.fault, third.fault) == (None,) * 4


@dataclass
class Liar(Phone):
    """A phone that sends a fold, in which its update counts as a thousand."""

    def work(self, task: Task) -> Records:
        if task.kind == "query":
            return super().work(task)
        weights = 1000 * START.astype(np.float64)[None]
        part = Part(weights, np.full((1, 1), 1000.0), 1000, repr(FedAvg()), round=1, layout=LAYOUT.digest)
        return {FOLD: part_items(part)}


def test_only_enrolled_edges_may_fold(tmp_path: Path, stack: ExitStack) -> None:
    """One edge is enrolled as such, another as a phone, and a phone lies: only the first one's phones count."""
    made = bundle(tmp_path / "bundle", settings(1, minimum=2, quorum=0.5))
    one = settings(1, minimum=1)
    phones = stack.enter_context(fleet(tmp_path, 2))
    liar = Liar(7, tmp_path / "liar")
    stack.callback(liar.leave)
    for name, folder, edge in (
        ("north", tmp_path / "north" / HOME, True),
        ("south", tmp_path / "south" / HOME, False),
        ("liar", liar.home.folder, False),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        load_or_create_key(folder / "key")
        enrol(tmp_path / "root", [KeyFile(folder / "key.pub", name)], edge)
    root = stack.enter_context(Server(tmp_path / "root", made, enrolled_only=True))
    north = stack.enter_context(Edge(tmp_path / "north", made, root.url, one))
    south = stack.enter_context(Edge(tmp_path / "south", made, root.url, one))
    phones[1].start(south.url)
    liar.start(root.url)
    wait_for(lambda: (root.shown.phones.online or 0) >= 2, "the others are there")
    phones[0].start(north.url)

    assert_close(root.result(), learnt(START.astype(float), 1, 0))
    (outcome,) = root.diary.outcomes
    assert outcome.phones == 1
    assert [failure.kind for failure in outcome.failures] in ([], [Kind.REFUSED])  # the edge may be first
    assert south.diary.outcomes == []
    assert {phone.name: phone.edge for phone in enrolled(tmp_path / "root")} == {
        "north": True, "south": False, "liar": False,
    }  # fmt: skip


def test_an_edge_that_nobody_enrolled_is_told_what_to_do(tmp_path: Path, stack: ExitStack) -> None:
    made = bundle(tmp_path / "bundle", settings(1))
    phones = stack.enter_context(fleet(tmp_path, 1))
    root = stack.enter_context(Server(tmp_path / "root", made, enrolled_only=True))
    edge = stack.enter_context(Edge(tmp_path / "edge", made, root.url, settings(1, minimum=1)))
    wait_for(lambda: page_says(edge.url, "Waiting for phones: 0 of 1"), "the edge waits for its phones")
    phones[0].start(edge.url)
    wait_for(lambda: edge.fault is not None, "the edge gives up")
    assert isinstance(edge.fault, ServerError)
    assert "pocketfed enrol --edge" in str(edge.fault)


def test_an_edge_waits_for_a_parent_that_is_gone(tmp_path: Path, stack: ExitStack) -> None:
    made = bundle(tmp_path / "bundle", settings(2, minimum=1, **ANY))
    phones = stack.enter_context(fleet(tmp_path, 2))
    with Server(tmp_path / "root", made) as root:
        edge = stack.enter_context(Edge(tmp_path / "edge", made, root.url, settings(2, minimum=2)))
        for phone in phones:
            phone.start(edge.url)
        assert_close(root.result(), expected(2, phones=2))
    wait_for(lambda: page_says(edge.url, "Trying to reach the server above"), "the edge notices")
    assert edge.shown.trouble is None  # a restart of the edge would not help
    with Server(tmp_path / "root", made, settings(4, minimum=1, **ANY), port=root.port) as again:
        assert_close(again.result(), expected(4, phones=2))
    assert [outcome.round for outcome in edge.diary.outcomes] == [1, 2, 3, 4]
    assert edge.shown.stage is Stage.UPSTREAM
    assert edge.diary.troubles == []


@pytest.mark.long
def test_an_edge_that_is_killed_begins_its_part_anew(tmp_path: Path, stack: ExitStack) -> None:
    """Its phones' answers to the edge that was killed are refused, and not folded twice."""
    made = bundle(tmp_path / "bundle", settings(3, minimum=2, deadline=120.0, **ANY))
    phones = stack.enter_context(fleet(tmp_path, 3))
    root = stack.enter_context(Server(tmp_path / "root", made))
    port = free_port()
    command = [
        "serve",
        "--bundle",
        made,
        "--upstream",
        root.url,
        "--state",
        tmp_path / "edge",
        "--port",
        port,
    ]
    edge = Process([str(word) for word in (*command, "--insecure", "--open")], tmp_path / "output")
    stack.callback(edge.clear)
    edge.start()
    phones[0].start(root.url)
    for phone in phones[1:]:
        phone.stop_at(2)
        phone.start(f"http://127.0.0.1:{port}")
    wait_for(lambda: all(phone.stopped.is_set() for phone in phones[1:]), "both phones work on round 2")
    edge.kill()
    for phone in phones[1:]:
        phone.go_on()
    edge.start()
    assert_close(root.result(within=120), expected(3))
    assert [outcome.phones for outcome in root.diary.outcomes] == [3, 3, 3]
    assert "Traceback" not in (tmp_path / "output").read_text()


def test_an_edge_that_is_gone_costs_its_part_of_the_round(tmp_path: Path, stack: ExitStack) -> None:
    """The root goes on with its own phone, and asks the edge again when it is back, which is the same node."""
    made = bundle(tmp_path / "bundle", settings(2, minimum=2, quorum=0.5, deadline=4.0, **ANY))
    one = settings(2, minimum=1)
    phones = stack.enter_context(fleet(tmp_path, 2))
    phones[1].stop_at(1)
    root = stack.enter_context(Server(tmp_path / "root", made))
    with Edge(tmp_path / "edge", made, root.url, one) as edge:
        phones[1].start(edge.url)
        phones[0].start(root.url)
        wait_for(phones[1].stopped.is_set, "the phone behind the edge works")
    wait_for(lambda: root.diary.outcomes, "the round is over")
    phones[1].go_on()
    again = stack.enter_context(Edge(tmp_path / "edge", made, root.url, one, port=edge.port))
    wait_for(lambda: root.shown.stage is Stage.FINISHED, "the next round is over")
    first, last = root.diary.outcomes
    assert (first.phones, [failure.kind for failure in first.failures]) == (1, [Kind.SILENT])
    assert_close(first.weights, learnt(START.astype(float), 1, 0))
    assert last.phones in (1, 2)  # both, unless this machine is very busy
    assert len(load_checkpoint(path_of(tmp_path / "root" / "checkpoints", 2)).statuses) == 2
    assert again.fault is None


@dataclass(frozen=True)
class NoSum:
    """A rule that keeps every update."""

    def start(self, begun: Broadcast) -> list[Any]:
        return [begun.weights]

    def add(self, state: list[Any], update: Update) -> list[Any]:
        return [*state, update.weights]

    def merge(self, first: list[Any], second: list[Any]) -> list[Any]:
        return first + second[1:]

    def finish(self, state: list[Any]) -> GlobalModel:
        return GlobalModel(state[0])


PRIVACY = {"noise_multiplier": 8.0, "clip": 1.0, "updates": 3, "epsilon": 9.0, "delta": 1e-5}


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"aggregator": "median"}, "aggregator: median is no sum"),
        (
            {"privacy": PRIVACY},
            "privacy: in an edge server's sums nobody can see that each phone was clipped",
        ),
        ({"asynchronous": {"enabled": True}}, "asynchronous.enabled: .* cannot be brought up to date"),
    ],
)
def test_what_does_not_work_in_parts_is_refused(tmp_path: Path, values: dict[str, Any], problem: str) -> None:
    made = bundle(tmp_path / "bundle", settings(1))
    run = open_run(tmp_path / "state", made, build_config(values), None, lambda text: None)
    with pytest.raises(ConfigError, match=problem):
        check_tree(run.config, run.rounds())
    rounded = build_config({"exchange": {"download_format": "float16", "update_format": "int8"}})
    run = open_run(tmp_path / "other", made, rounded, None, lambda text: None)
    check_tree(run.config, run.rounds())


def test_a_rule_that_is_no_sum_is_refused_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AGGREGATORS, "no-sum", Rule(NoSum, {}))
    config = settings(1, **ANY).model_copy(update={"aggregator": "no-sum"})
    made = bundle(tmp_path / "bundle", settings(1))
    with (
        pytest.raises(ConfigError, match="no-sum is no sum"),
        Edge(tmp_path / "edge", made, "http://127.0.0.1:9", config),
    ):
        pass
    with pytest.raises(ConfigError, match="no-sum is no sum"), Server(tmp_path / "root", made, config):
        pass
