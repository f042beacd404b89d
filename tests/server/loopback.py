"""A deployed server and phones of the wire, in this process, over loopback."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from pocketfed.core.errors import CallRefused, PocketfedError
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.plan import PhoneStatus, Update
from pocketfed.core.wire import INSTRUCTION, STATUS, UPDATE, read_instruction, status_items, update_items
from pocketfed.mobile_client.connection import Retry
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.agent import Agent, Pace
from pocketfed.mobile_client.flower.calls import Caller
from pocketfed.mobile_client.flower.fleet import Fleet as Server
from pocketfed.mobile_client.flower.journal import Journal
from pocketfed.mobile_client.flower.key import PhoneKey
from pocketfed.mobile_client.flower.membership import Membership
from pocketfed.mobile_client.flower.objects import Object, Records, object_id, write_object
from pocketfed.mobile_client.flower.task import Answer, Failure, Question, Task, build_answer
from pocketfed.mobile_client.flower.transfer import fetch
from pocketfed.server.flower_private import Fleet
from pocketfed.server.serving import Serving

SIZE = 1000
LAYOUT = Layout((Slice("backbone.w", (SIZE,), Role.BACKBONE, 0),))


@contextmanager
def serving(folder: Path, enrolled_only: bool = False, port: int = 0) -> Iterator[tuple[Fleet, str]]:
    """The Fleet API on a state folder; the fleet and its address."""
    fleet = Fleet(folder / "fleet.db", 4 * SIZE + 2**16)
    with Serving(fleet.app(enrolled_only), "127.0.0.1", port, None) as server:
        try:
            yield fleet, server.url
        finally:
            fleet.end_run()


@dataclass(frozen=True)
class Adder:
    """A phone's work: adds its number and one to every weight."""

    number: int

    def __call__(self, task: Task) -> Records:
        if task.kind == "query":
            return {STATUS: status_items(PhoneStatus(self.number, layout=LAYOUT.digest))}
        asked = read_instruction(task.records[INSTRUCTION])
        weights = asked.weights + np.float32(self.number + 1)
        return {UPDATE: update_items(Update(weights, 1, {}, {}, asked.plan.round, asked.layout))}


def caller(url: str) -> Caller:
    """A phone with a new key."""
    key = PhoneKey(ec.generate_private_key(ec.SECP256R1()))
    return Caller(url, key, retry=Retry(tries=6, first=0.2))


@contextmanager
def phones(url: str, folder: Path, count: int) -> Iterator[list[Caller]]:
    """Honest phones 0 to count - 1, each in a thread that ends with the server; their callers."""
    callers = [caller(url) for _ in range(count)]

    def run(number: int) -> None:
        home = folder / f"phone-{number}"
        home.mkdir()
        server = Server(callers[number])
        membership = Membership(server, home / "node.json", 60)
        agent = Agent(server, membership, Journal(home / "journal"), Adder(number), Pace(0.1, 0.5))
        with suppress(PocketfedError, RuntimeError):
            agent.run()

    for number in range(count):
        threading.Thread(target=run, args=(number,), daemon=True).start()
    yield callers
    for one in callers:
        one.__exit__(None, None, None)


Misdeed = Callable[[Server, int, Question, Records], None]
"""What a bad phone does with a question in the round in which it is bad, in place of an answer."""


@contextmanager
def rogue(url: str, number: int, misdeed: Misdeed, bad_round: int = 2) -> Iterator[None]:
    """A phone that is honest but in one round; it keeps no journal."""
    server = Server(caller(url))
    stop = threading.Event()

    node = 0

    def run() -> None:
        nonlocal node
        node = node or _join(server)
        while not stop.is_set():
            question = Question.read(server.pull_messages(node).SerializeToString())
            if question is None:
                stop.wait(0.5)
                continue
            objects = fetch(server, node, question)
            server.confirm(node, question.metadata.run_id, question.metadata.message_id)
            records = question.records(objects)
            task = Task(question.metadata.message_type, records, question.deadline)
            if task.kind == "train" and read_instruction(records[INSTRUCTION]).plan.round == bad_round:
                misdeed(server, node, question, Adder(number)(task))
            else:
                send(server, node, question, Adder(number)(task))

    def quietly() -> None:
        with suppress(Gone, RuntimeError):  # the client is closed when the test is over
            while not stop.is_set():
                with suppress(PocketfedError):  # a busy server, which an agent would ask again
                    run()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    yield
    stop.set()
    thread.join(10)
    server.caller.__exit__(None, None, None)


class Gone(Exception):
    """A phone that is never heard of again."""


def _join(server: Server) -> int:
    with suppress(CallRefused):  # registered already
        server.register()
    return server.activate(600)


def send(
    server: Server,
    node: int,
    question: Question,
    content: Records | Failure,
    tamper: Callable[[Answer], Answer] = lambda answer: answer,
    objects: int | None = None,
) -> list[bool]:
    """Answer a question, perhaps with another content or the first few objects only; what the server stored."""
    answer = tamper(build_answer(question, node, time.time(), 0.0, content))
    offer = server.push_messages(d.PushMessagesRequest.FromString(answer.request))
    run = question.metadata.run_id
    return [
        server.push_object(node, run, object_id(body), body, offer.session)
        for body in answer.objects[:objects]
        if object_id(body) in offer.missing
    ]


def with_objects(
    question: Question, node: int, bodies: Sequence[tuple[str, tuple[int, ...], bytes]]
) -> Answer:
    """An answer of any objects whatever: (class, positions of its children among those before it, body)."""
    contents: list[bytes] = []
    for kind, children, body in bodies:
        ids = tuple(object_id(contents[child]) for child in children)
        contents.append(write_object(Object(kind, ids, body)))
    request = d.PushMessagesRequest.FromString(
        build_answer(question, node, time.time(), 0.0, {"any": {"thing": 1}}).request
    )
    request.messages_list[0].metadata.message_id = ""
    head = d.Message(metadata=request.messages_list[0].metadata).SerializeToString(deterministic=True)
    root = write_object(Object("Message", (object_id(contents[-1]),), head))
    request.messages_list[0].metadata.message_id = object_id(root)
    leaves = [d.ObjectTree(object_id=object_id(content)) for content in contents[:-1]]
    trees = [d.ObjectTree(object_id=object_id(contents[-1]), children=leaves)]
    del request.message_object_trees[:]
    request.message_object_trees.append(d.ObjectTree(object_id=object_id(root), children=trees))
    return Answer(request.SerializeToString(), (*contents, root))
