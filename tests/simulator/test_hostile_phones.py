"""Phones that send anything at all to a deployed server: it says no, and the next honest round is as if nothing was."""

import dataclasses
import itertools
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.superlink.routers.fleet.router import router

from pocketfed.core.errors import CallRefused
from pocketfed.core.hyper import Hyper
from pocketfed.core.plan import Plan
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.calls import MEDIA_TYPE, Caller
from pocketfed.mobile_client.flower.fleet import Fleet
from pocketfed.mobile_client.flower.key import PhoneKey
from pocketfed.mobile_client.flower.objects import Records
from pocketfed.mobile_client.flower.task import Answer, Question
from pocketfed.server.aggregators import FedAvg, GlobalModel
from pocketfed.server.fleet_grid import FleetGrid
from pocketfed.server.outcome import Kind
from pocketfed.server.roster import Roster
from pocketfed.server.rounds import run_rounds
from pocketfed.server.terms import Rounds, Terms
from pocketfed.simulator.door import largest_answer
from tests.server.loopback import rogue, send, serving
from tests.simulator.deployed import (
    FEW,
    LAYOUT,
    START,
    Diary,
    Server,
    assert_close,
    bundle,
    expected,
    fleet,
    settings,
    wait_for,
)

ROUTES = [route.path for route in router.routes]  # type: ignore[attr-defined]


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, verify=False, timeout=20) as made:
        yield made


def post(client: httpx.Client, url: str, key: PhoneKey, body: bytes) -> int:
    """A call that is signed as it should be, with any body; the status of its answer."""
    headers = key.headers(time.time()) | {"content-type": MEDIA_TYPE}
    return client.post(url, content=body, headers=headers).status_code


def test_any_bytes_on_any_route_leave_the_server_as_it_was(tmp_path: Path, client: httpx.Client) -> None:
    made = bundle(tmp_path / "bundle", settings(3))
    with fleet(tmp_path) as phones, Server(tmp_path / "state", made) as server:
        phones[0].stop_at(2)
        for phone in phones:
            phone.start(server.url)
        assert phones[0].stopped.wait(30)
        key = PhoneKey(ec.generate_private_key(ec.SECP256R1()))
        with Caller(server.url, key) as caller:
            stranger = Fleet(caller)
            stranger.register()
            node = stranger.activate(60)
        # Every call but two has the node in its first field, or its id: beyond that, a body is what it is.
        mine = [b"", d.PullMessagesRequest(node=d.Node(node_id=node)).SerializeToString()]

        # Not hypothesis, which wants no other thread to draw random numbers.
        rng = np.random.default_rng(0)
        rests = [b"\x0b" * 5000, b"\xff" * 5000, b"\x12\xff\xff\xff\x7f", b""]
        rests += [rng.bytes(int(rng.integers(1, 400))) for _ in range(2)]
        for route, start, rest in itertools.product(ROUTES, mine, rests):
            assert post(client, server.url + route, key, start + rest) in (
                200,
                400,
                401,
                403,
                404,
                409,
                412,
            )
        most = 2 * largest_answer(FedAvg(), LAYOUT)
        for route in ROUTES:
            assert post(client, server.url + route, key, bytes(most + 1)) == 413
        phones[0].go_on()
        assert_close(server.result(), expected(3))
    assert [outcome.phones for outcome in server.diary.outcomes] == [FEW] * 3


def with_tree(change: Callable[[Any], Any]) -> Callable[[Answer], Answer]:
    """An answer whose offer is changed."""

    def tamper(answer: Answer) -> Answer:
        request = d.PushMessagesRequest.FromString(answer.request)
        change(request)
        return dataclasses.replace(answer, request=request.SerializeToString())

    return tamper


def many_objects(request: Any) -> None:
    leaves = [d.ObjectTree(object_id=f"{i:064x}") for i in range(70)]
    request.message_object_trees[0].children.extend(leaves)


def deep_tree(request: Any) -> None:
    below = d.ObjectTree(object_id="0" * 64)
    for i in range(90):
        below = d.ObjectTree(object_id=f"{i:064x}", children=[below])
    request.message_object_trees[0].children.append(below)


def no_message(request: Any) -> None:
    del request.messages_list[:]


def two_messages(request: Any) -> None:
    request.messages_list.append(request.messages_list[0])


def of_another_node(request: Any) -> None:
    request.messages_list[0].metadata.src_node_id += 1


def anothers_objects(request: Any) -> None:
    request.message_object_trees[0].object_id = "ab" * 32


def no_hash(request: Any) -> None:
    request.message_object_trees[0].children[0].object_id = "../../etc/passwd"


def from_no_time(request: Any) -> None:
    """SQLite keeps no NaN; it would be NULL when the server adds it to something."""
    request.messages_list[0].metadata.ttl = math.nan


SENSELESS: tuple[Callable[[Any], None], ...] = (
    many_objects, deep_tree, no_message, two_messages, of_another_node, anothers_objects, no_hash,
    from_no_time,
)  # fmt: skip


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All refusals in one run: phone 9 tries each way in round 1, and then answers as it should."""
    folder = tmp_path_factory.mktemp("refusals")
    found: dict[str, Any] = {}

    def misdeed(server: Fleet, node: int, question: Question, records: Records) -> None:
        for change in SENSELESS:
            try:
                send(server, node, question, records, with_tree(change))
            except CallRefused as refused:
                found[change.__name__] = refused.status
        send(server, node, question, records)

    diary = Diary()
    terms = Terms(minimum=1, deadline=20.0, in_order=False)
    rounds = Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), seed=0, terms=terms)
    with serving(folder) as (server, url), rogue(url, 9, misdeed, bad_round=1):
        model = run_rounds(FleetGrid(server), rounds, Roster(), GlobalModel(START), (1, 2), diary)
    found["weights"] = model.weights
    found["objects"] = len(server.objects)
    found["phones"] = [outcome.phones for outcome in diary.outcomes]
    return found


@pytest.mark.parametrize("change", SENSELESS)
def test_an_offer_that_makes_no_sense_is_refused_at_the_door(
    refusals: dict[str, Any], change: Callable[[Any], None]
) -> None:
    assert refusals[change.__name__] == 400


def test_after_refusals_the_same_phone_can_answer_and_nothing_is_left(refusals: dict[str, Any]) -> None:
    assert refusals["phones"] == [1, 1]
    assert_close(refusals["weights"], START + 20)
    assert refusals["objects"] == 0


def nested(field: int, inside: bytes) -> bytes:
    """A message in a field of another, as protobuf writes it."""
    size, length = len(inside), b""
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return bytes([field << 3 | 2]) + length + bytes([size]) + inside


def test_a_tree_deeper_than_protobuf_reads_is_no_protobuf(tmp_path: Path, client: httpx.Client) -> None:
    children = d.ObjectTree.DESCRIPTOR.fields_by_name["children"].number
    trees = d.PushMessagesRequest.DESCRIPTOR.fields_by_name["message_object_trees"].number
    tree = b""
    for _ in range(2000):
        tree = nested(children, tree)
    with serving(tmp_path) as (server, url):
        key = PhoneKey(ec.generate_private_key(ec.SECP256R1()))
        server.register(key.public_pem, "")
        assert post(client, f"{url}/v1/fleet/push-messages", key, nested(trees, tree)) == 400


def test_an_upload_that_is_under_way_when_its_round_ends_is_freed(tmp_path: Path) -> None:
    """Three of four are enough; the fourth has sent its offer and one object when they come."""
    offered = threading.Event()

    def stops(server: Fleet, node: int, question: Question, records: Records) -> None:
        send(server, node, question, records, objects=1)
        offered.set()

    diary = Diary()
    terms = Terms(participation=0.75, over_selection=0.3, minimum=4, deadline=20.0, in_order=False)
    rounds = Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), seed=0, terms=terms)
    with fleet(tmp_path) as phones, serving(tmp_path) as (server, url), rogue(url, 9, stops, bad_round=1):
        grid = FleetGrid(server)
        for phone in phones:
            phone.stop_at(1)
            phone.start(url)

        def let_go() -> None:
            offered.wait(20)
            wait_for(lambda: grid._uploads, "the server has seen the offer")
            for phone in phones:
                phone.go_on()

        threading.Thread(target=let_go, daemon=True).start()
        run_rounds(grid, rounds, Roster(), GlobalModel(START), (1,), diary)
        assert [outcome.phones for outcome in diary.outcomes] == [3]
        assert not any(failure.kind is Kind.SILENT for failure in diary.outcomes[0].failures)
        wait_for(lambda: len(server.objects) == 0, "everything is freed", 5)


def test_an_answer_that_expires_before_the_server_looks_is_freed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower puts an error in its place, and forgets which answer that was."""
    looking = threading.Lock()

    def is_late(server: Fleet, node: int, question: Question, records: Records) -> None:
        def change(request: Any) -> None:
            request.messages_list[0].metadata.ttl = 0.4

        with looking:
            assert all(send(server, node, question, records, with_tree(change)))
            time.sleep(0.5)

    diary = Diary()
    terms = Terms(deadline=20.0, in_order=False)
    rounds = Rounds(LAYOUT, FedAvg(), lambda r: Plan(r, 0, {}, False, Hyper()), seed=0, terms=terms)
    with serving(tmp_path) as (server, url), rogue(url, 9, is_late, bad_round=1):
        answers = server.answers

        def not_before_it_expired(instructions: Collection[str]) -> list[tuple[Message, tuple[str, ...]]]:
            with looking:
                return answers(instructions)

        monkeypatch.setattr(server, "answers", not_before_it_expired)
        run_rounds(FleetGrid(server), rounds, Roster(), GlobalModel(START), (1,), diary)
        assert [failure.kind for failure in diary.outcomes[0].failures] == [Kind.SILENT]
        assert len(server.objects) == 0


def test_a_number_that_numpy_cannot_draw_costs_that_phone_its_place_only(tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", settings(2))
    with fleet(tmp_path, FEW + 1) as phones, Server(tmp_path / "state", made) as server:
        phones[FEW].number = 2**63 + 1
        phones[FEW].start(server.url)
        wait_for(phones[FEW].home.node.exists, "the odd one is there")
        for phone in phones[:FEW]:
            phone.start(server.url)
        assert_close(server.result(), expected(2))
