"""Rounds on the grid of a stock Flower run: Flower's own `HttpGrid` and server, and phones that misuse them."""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Message

from pocketfed.core.errors import NoPhonesError
from pocketfed.mobile_client.flower.fleet import Fleet, tree_ids
from pocketfed.server.aggregators import GlobalModel
from pocketfed.server.messages import ask_status
from pocketfed.server.outcome import Kind
from pocketfed.server.roster import Roster
from pocketfed.server.rounds import run_rounds
from pocketfed.server.stock_grid import StockGrid
from tests.mobile_client.flower.superlink import SuperLink
from tests.server.loopback import caller, phones, rogue
from tests.server.scripted_grid import ScriptedGrid
from tests.server.test_fleet_grid import FAULTS, HONEST, START, Outcomes, decisions, fail_without_holding_up

POLL = 0.05


pytestmark = pytest.mark.usefixtures("quiet_flower")


@pytest.fixture
def superlink() -> Iterator[SuperLink]:
    """A server of Flower's; calls that are still under way when the test is over fail."""
    server = SuperLink()
    grid: Any = server.grid
    yield server
    grid._client._state = None
    server.stop()


STOCK = {
    "NaN": Kind.REFUSED,
    "missing keys": Kind.REFUSED,
    "declined": Kind.DECLINED,
    "dictionary that is no JSON": Kind.FAILED,
    "record in place of a dictionary": Kind.FAILED,
    "killed after pull": Kind.SILENT,
    "killed in mid-upload": Kind.SILENT,
    "hash that does not match": Kind.SILENT,
}
"""Faults of tests/server/test_fleet_grid.py, and what they come to here."""


@pytest.mark.parametrize("fault", STOCK)
def test_a_fault_costs_that_phones_update_only(tmp_path: Path, superlink: SuperLink, fault: str) -> None:
    misdeed = FAULTS[fault][0]
    outcomes = Outcomes()
    with ExitStack() as stack:
        grid = stack.enter_context(StockGrid(superlink.grid, POLL))
        stack.enter_context(phones(superlink.url, tmp_path, HONEST))
        stack.enter_context(rogue(superlink.url, 9, misdeed))
        decided = decisions(minimum=HONEST + 1, deadline=4.0, quorum=0.5)
        model = run_rounds(grid, decided, Roster(), GlobalModel(START), (1, 2), outcomes)
    assert [outcome.phones for outcome in outcomes.all] == [4, 3]
    assert [(failure.phone, failure.kind) for failure in outcomes.all[1].failures] == [(9, STOCK[fault])]
    assert outcomes.all[1].seconds < 6
    assert np.allclose(model.weights, START + 4 + 2)


def test_a_round_ends_when_enough_have_answered(tmp_path: Path, superlink: SuperLink) -> None:
    """Flower's own grid would wait for the phone that is gone."""
    outcomes = Outcomes()
    with ExitStack() as stack:
        grid = stack.enter_context(StockGrid(superlink.grid, POLL))
        stack.enter_context(phones(superlink.url, tmp_path, HONEST))
        stack.enter_context(rogue(superlink.url, 9, FAULTS["killed after pull"][0]))
        decided = decisions(minimum=4, participation=0.75, over_selection=0.3, deadline=600.0)
        run_rounds(grid, decided, Roster(), GlobalModel(START), (1, 2), outcomes)
    assert [outcome.phones for outcome in outcomes.all] == [3, 3]
    assert outcomes.all[1].seconds < 60


def test_a_round_waits_for_the_minimum_and_not_for_ever(tmp_path: Path, superlink: SuperLink) -> None:
    with (
        StockGrid(superlink.grid, POLL) as grid,
        phones(superlink.url, tmp_path, 1),
        pytest.raises(NoPhonesError, match="1 of 2 phones came within 3 seconds"),
    ):
        run_rounds(grid, decisions(minimum=2, patience=3.0), Roster(), GlobalModel(START), (1,), Outcomes())


class Meddler:
    """The run's side of a SuperLink, while phones say that they have a message as soon as they could know of it.

    Attributes:
        times: by node, how often it still does.
    """

    def __init__(self, superlink: SuperLink, times: dict[int, int]) -> None:
        grid: Any = superlink.grid
        self._inside, grid._client = grid._client, self
        self._store, self.times = superlink.state.object_store, times

    def PushMessages(self, request: Any) -> Any:
        answer = self._inside.PushMessages(request)
        for message in request.messages_list:
            if self.times.get(message.metadata.dst_node_id, 0):
                self.times[message.metadata.dst_node_id] -= 1
                self._store.delete(message.metadata.message_id)  # as Flower does on a phone's word
        return answer

    def __getattr__(self, call: str) -> Any:
        return getattr(self._inside, call)


def join(superlink: SuperLink, count: int) -> list[int]:
    """Phones that have come, and do nothing; their nodes."""
    nodes = []
    for _ in range(count):
        with caller(superlink.url) as one:
            Fleet(one).register()
            nodes.append(Fleet(one).activate(600))
    return nodes


def pulled(superlink: SuperLink, node: int) -> bool:
    """Whether a node gets a message, and all that it is made of."""
    for message in superlink.state.get_message_ins(node_id=node, limit=1):
        tree = superlink.state.object_store.get_object_tree(message.metadata.message_id)
        return all(superlink.state.object_store.get(name) for name in tree_ids(tree, 10))
    return False


def test_a_phone_that_has_its_message_before_it_is_uploaded_gets_it_all_the_same(
    superlink: SuperLink,
) -> None:
    first, second = join(superlink, 2)
    Meddler(superlink, {first: 1})
    with StockGrid(superlink.grid, POLL) as grid:
        assert all(grid.push_messages([ask_status(first), ask_status(second)]))
    assert pulled(superlink, first)
    assert pulled(superlink, second)


def test_a_phone_that_never_lets_its_message_be_uploaded_costs_nobody_else_theirs(
    superlink: SuperLink, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = join(superlink, 3)
    Meddler(superlink, {second: 1000})
    with StockGrid(superlink.grid, POLL) as grid:
        found = [bool(key) for key in grid.push_messages(ask_status(node) for node in (first, second, third))]
    assert found == [True, False, True]
    assert pulled(superlink, first)
    assert pulled(superlink, third)
    assert caplog.messages == [f"node {second}: its message could not be uploaded"]


class Stuck(ScriptedGrid):
    """A grid that does not come back when it is asked for answers."""

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        time.sleep(5)
        return super().pull_messages(message_ids)


def test_a_deadline_holds_while_the_grid_inside_is_stuck() -> None:
    began = time.monotonic()
    with StockGrid(Stuck({}), POLL) as grid:
        assert list(grid.send_and_receive([ask_status(7)], timeout=0.5)) == []
        keys = list(grid.push_messages(ask_status(node) for node in (7, 8)))
        assert list(grid.pull_messages(keys)) == []
    assert time.monotonic() - began < 4


def test_rounds_that_do_not_wait_take_the_same_care(tmp_path: Path, superlink: SuperLink) -> None:
    with StockGrid(superlink.grid, POLL) as grid:
        fail_without_holding_up(grid, superlink.url, tmp_path)
