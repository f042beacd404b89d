"""Moving a message's objects: here from the server, and back."""

import time
from collections.abc import Callable, Mapping
from enum import Enum, auto

from pocketfed.core.errors import MalformedObject
from pocketfed.mobile_client.flower import descriptors as d
from pocketfed.mobile_client.flower.fleet import Fleet, tree_ids
from pocketfed.mobile_client.flower.journal import Entry, Journal, State
from pocketfed.mobile_client.flower.objects import EMPTY_RECORDS, MAX_CHILDREN, object_id
from pocketfed.mobile_client.flower.task import Question, read_answer

MAX_OBJECTS = MAX_CHILDREN + 1
WAITS = 30
"""How often to ask for an object that the server does not have yet; it takes about a minute."""

OFFERS = 3
"""How often an answer is offered whose objects the server does not store."""


class Delivery(Enum):
    """What became of an answer.

    DELIVERED: the server has it.
    UNCERTAIN: the server had agreed to take it and wants no more of it: it has it all, and the confirmation was lost, or
        it has given up waiting for the rest.
    REJECTED: the server does not want it: too late, or the question has been answered.
    """

    DELIVERED = auto()
    UNCERTAIN = auto()
    REJECTED = auto()


def fetch(
    fleet: Fleet, node: int, question: Question, sleep: Callable[[float], None] = time.sleep
) -> dict[str, bytes]:
    """Pull the objects of a message but the message itself, whose metadata came with it; by id.

    Raises:
        MalformedObject: an object is not what its id says, or cannot be had.
    """
    names = tree_ids(question.tree, MAX_OBJECTS + 1)
    if len(names) > MAX_OBJECTS + 1:
        raise MalformedObject(f"a pulled message has more than {MAX_OBJECTS} objects")
    run = question.metadata.run_id
    known = EMPTY_RECORDS[1]  # a question without records is all metadata
    wanted = [name for name in names if name != question.tree.object_id]
    return {name: known.get(name) or _pull(fleet, node, run, name, sleep) for name in wanted}


def _pull(fleet: Fleet, node: int, run: int, name: str, sleep: Callable[[float], None]) -> bytes:
    for attempt in range(WAITS):
        content = fleet.pull_object(node, run, name)
        if content is None:
            raise MalformedObject(f"the server does not have the object {name[:12]} any more")
        if content:
            if object_id(content) != name:
                raise MalformedObject(f"the object {name[:12]} has another content than its id says")
            return content
        sleep(min(2.5, 0.1 * 2**attempt))
    raise MalformedObject(f"the server never got the object {name[:12]} itself")


def deliver(fleet: Fleet, journal: Journal, entry: Entry) -> Delivery:
    """Push an answer; safe to repeat after a crash at any point.

    A server rejects an answer by asking for none of its objects. It does so too if it has them all; a new answer always
    has an object that no server can have, so the journal tells a rejection unless the server had begun to take it.

    Raises:
        MalformedObject: the entry is no answer, or the server asks for what is not in it, or stores nothing.
    """
    metadata = read_answer(entry.head)
    request = d.PushMessagesRequest.FromString(entry.head)
    contents = {object_id(content): content for content in entry.objects}
    for _ in range(OFFERS):
        offer = fleet.push_messages(request)
        if not offer.missing:
            return Delivery.UNCERTAIN if entry.state is State.ACCEPTED else Delivery.REJECTED
        if not contents.keys() >= set(offer.missing):
            raise MalformedObject("the server asks for objects that the answer does not have")
        entry = journal.accept(entry)
        if _push(fleet, metadata.src_node_id, metadata.run_id, contents, set(offer.missing), offer.session):
            return Delivery.DELIVERED
        # The session has expired, or an object had arrived although its confirmation was lost: ask what is missing.
    raise MalformedObject("the server does not store the answer's objects")


def _push(
    fleet: Fleet, node: int, run: int, contents: Mapping[str, bytes], missing: set[str], session: str
) -> bool:
    for name, content in contents.items():  # children first
        if name in missing and not fleet.push_object(node, run, name, content, session):
            return False
    return True
