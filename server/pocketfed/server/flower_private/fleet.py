"""The phones' side of a SuperLink: messages out, answers in, nodes."""

import math
import threading
import time
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SubStatus
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_head_values_from_object_content,
    get_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.superlink.federation import NoOpFederationManager
from sqlalchemy.exc import DBAPIError
from starlette.middleware import Middleware

from pocketfed.core.errors import RunFolderError, UpdateRejected
from pocketfed.server.flower_private.calls import fleet_api
from pocketfed.server.flower_private.identity import (
    act_as_server,
    of_run,
    reusing_object_ids,
    with_id,
    without_content,
)
from pocketfed.server.flower_private.mistakes import LONGEST_REASON, DatabaseError
from pocketfed.server.flower_private.state import State
from pocketfed.server.flower_private.store import BoundedStore
from pocketfed.server.record_bounds import check_record

HEARTBEAT = 20.0
"""Seconds between signs of life of a run; Flower gives a run up after 60 without one."""

RECORD = "ConfigRecord"

KINDS = ("Message", "RecordDict", RECORD)
"""What an answer may be made of. An `Array` may name one chunk a million times, and would be as large as all of them."""

BESIDES = 1 << 16
"""Bytes of an object without its record: of the others only names, numbers and reasons are expected."""

LOOK_AT_ALL = 2.0
"""Seconds between two looks at all that was asked, for phones that have gone without an answer."""

EDGE = "edge"
"""Name of the account that edge servers belong to; a node that registers itself belongs to Flower's own."""


class GivenUp(Exception):
    """Flower has ended the run, since it showed no life for a minute by the clock: the machine slept, or its clock was
    set. No message of the run goes out any more, and no answer is taken; another run has to be begun.

    Raised by `Fleet.online`, `post` and `answers`, within `HEARTBEAT` seconds.
    """


@dataclass(frozen=True)
class Node:
    """A phone as Flower knows it.

    Attributes:
        id: Flower's, drawn at random when the key was registered.
        public_key: PEM, SubjectPublicKeyInfo.
        name: given at enrolment.
        status: `registered`, `online`, `offline` or `unregistered`.
        edge: whether it was registered as an edge server.
    """

    id: int
    public_key: bytes
    name: str
    status: str
    edge: bool = False


class Fleet:
    """The phones' side of a SuperLink: Flower's own state in SQLite, and its Fleet API as an application.

    Nodes and messages are on disk. Objects, which are weights on their way, are in memory: a checkpoint has what
    would be worth keeping, and messages of a run do not outlive its process. Flower's Control and Runtime API are not
    served: nobody outside starts runs here.

    Attributes:
        objects: what is held of messages and answers, by id.
    """

    def __init__(self, database: Path, largest_answer: int) -> None:
        """Open or make the state.

        Args:
            database: SQLite file.
            largest_answer: bytes of all objects in one answer of a phone.

        Raises:
            RunFolderError: the file cannot be read or written, or is damaged.
        """
        objects = ObjectStoreFactory()
        objects.store_instance = self.objects = BoundedStore(largest_answer)
        federations = NoOpFederationManager()
        self._factory = LinkStateFactory(str(database), federations, objects)
        self._state = State(str(database), federations, self.objects)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Flower's migrations use what Alembic deprecates
            try:
                self._state.initialize()
            except DBAPIError as error:
                raise RunFolderError(
                    f"{database} cannot be used ({error.orig}); make room, or move it away and enrol all phones anew"
                ) from error
        self._factory.state_instance = self._state
        self._looked_at_all = -math.inf
        self._run: Run | None = None
        self._ended = threading.Event()
        self._fault: DatabaseError | GivenUp | None = None

    def app(self, enrolled_only: bool, bounds: Sequence[Middleware] = ()) -> FastAPI:
        """Flower's Fleet API; see `fleet_api`."""
        return fleet_api(self._factory, self._state, enrolled_only, bounds)

    def begin_run(self) -> Run:
        """Begin a run, and end those before it: their messages must not reach anybody.

        Raises:
            DatabaseError: the disk is full. So do all methods that write; the run is over then.
        """
        self._ended.set()
        self._ended, self._fault = threading.Event(), None
        self.objects.clear()
        for run in self._state.get_run_info(flwr_aids=[NOOP_FLWR_AID]):
            if run.primary_task_id is not None:
                self._state.finish_task(run.primary_task_id, SubStatus.STOPPED, "the server was restarted")
            self._state.delete_messages(self._state.get_message_ids_from_run_id(run.run_id))
            self._state.delete_sessions_in_run(run.run_id)
        run_id = self._state.create_run(
            "pocketfed/serve", "1", "0" * 64, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        (self._run,) = self._state.get_run_info(run_ids=[run_id])
        task = self._run.primary_task_id
        assert task is not None
        self._state.claim_task(task)
        self._state.activate_task(task)
        act_as_server(run_id, task)
        threading.Thread(
            target=self._show_life, args=(task, self._ended), name="run heartbeat", daemon=True
        ).start()
        return self._run

    def end_run(self) -> None:
        """End the run: phones that still work for it are told so when they answer."""
        self._ended.set()
        if self._run is not None and self._run.primary_task_id is not None:
            self._state.finish_task(self._run.primary_task_id, SubStatus.COMPLETED, "")

    def _show_life(self, task: int, ended: threading.Event) -> None:
        while not ended.wait(HEARTBEAT):
            try:
                known = self._state.acknowledge_task_heartbeat(task)
            except DatabaseError as error:
                self._fault = error
            else:
                if not known and not ended.is_set():
                    self._fault = GivenUp("the run showed no life for a minute, as when a machine sleeps")

    def _check_alive(self) -> None:
        if self._fault is not None:
            raise self._fault

    def online(self) -> list[int]:
        """Ids of the nodes that showed life recently enough, by what they promised.

        Raises:
            DatabaseError: the run could not show its own life, and may have been given up.
            GivenUp: it has been.
        """
        self._check_alive()
        return [node.node_id for node in self._state.get_node_info(statuses=[NodeStatus.ONLINE])]

    def nodes(self) -> Sequence[Node]:
        """Every node that was ever registered."""
        return [
            Node(info.node_id, bytes(info.public_key), info.name, info.status, info.owner_name == EDGE)
            for info in self._state.get_node_info()
        ]

    def is_edge(self, node: int) -> bool:
        """Whether a node was registered as an edge server."""
        return any(info.owner_name == EDGE for info in self._state.get_node_info(node_ids=[node]))

    def register(self, public_key: bytes, name: str, edge: bool = False) -> int:
        """Let the holder of a key take part, as a phone or as an edge server.

        Raises:
            ValueError: the key is or was registered.
        """
        account = EDGE if edge else NOOP_ACCOUNT_NAME
        return self._state.create_node(NOOP_FLWR_AID, account, public_key, 0, name=name)

    def revoke(self, node: int) -> None:
        """Let a node never take part again.

        Raises:
            ValueError: there is no such node, or not any more.
        """
        self._state.delete_node(NOOP_FLWR_AID, node)

    def post(self, messages: Iterable[Message]) -> Iterator[str]:
        """Leave instructions for phones to fetch; their ids, "" for a phone that is gone.

        Content that messages share is stored once. Raises what `online` does.
        """
        self._check_alive()
        assert self._run is not None
        self._state.forget_stale_sessions()
        store = self._state.object_store
        with reusing_object_ids():
            for message in messages:
                of_run(message, self._run)
                with_id(message, message.object_id)
                self.objects.admission.expect(message.metadata.message_id)
                # Objects first: a phone may fetch the message the moment it is there.
                missing = set(store.preregister(self._run.run_id, get_object_tree(message)))
                for object_id, item in get_all_nested_objects(message).items():
                    if object_id in missing:
                        store.put(object_id, item.deflate())
                stored = self._state.store_message_ins(without_content(message))
                if stored is None:
                    self.objects.free(message.metadata.message_id)
                yield stored or ""

    def answers(self, instructions: Collection[str]) -> list[tuple[Message, tuple[str, ...]]]:
        """What has come for these instructions since last asked: envelopes, and the ids of their objects.

        An envelope has no content. Instructions that expired, and phones that went, are answered with Flower's errors,
        within `LOOK_AT_ALL` seconds; for answers, only what phones have offered is looked up. Raises what `online` does.
        """
        assert self._run is not None
        self._check_alive()
        asked = set(instructions)
        if time.monotonic() < self._looked_at_all + LOOK_AT_ALL:
            asked = self.objects.admission.offered(asked)
        else:
            self._looked_at_all = time.monotonic()
        found = self._state.get_message_res(asked, self._run.run_id) if asked else ()
        return [(envelope, self._objects_of(envelope)) for envelope in found]

    def _objects_of(self, envelope: Message) -> tuple[str, ...]:
        return self.objects.below(envelope.metadata.message_id)

    def has_arrived(self, objects: Sequence[str]) -> bool:
        """Whether all objects of an answer have been uploaded."""
        return all(self._state.object_store.get(object_id) for object_id in objects)

    def open(self, envelope: Message, objects: Sequence[str]) -> RecordDict | Error:
        """What is in an answer that has arrived. What it says of its sender is not looked at.

        Raises:
            UpdateRejected: it cannot be decoded.
        """
        contents = {object_id: self._state.object_store.get(object_id) or b"" for object_id in objects}
        try:
            for content in contents.values():
                _check_object(content)
            inside = inflate_object_from_contents(envelope.metadata.message_id, contents)
            if not isinstance(inside, Message):
                raise TypeError(f"it is no message but {type(inside).__name__}")
            return inside.error if inside.has_error() else inside.content
        # Anything may be in an object from outside, and Flower's decoding raises whatever its parts raise.
        except Exception as error:
            what = f"{type(error).__name__}: {error}"[:LONGEST_REASON]  # it may quote the whole object
            raise UpdateRejected(f"the reply cannot be decoded ({what})") from error

    def discard(self, instructions: Iterable[str]) -> None:
        """Forget instructions and what was answered; a phone that still works on one is refused when it answers."""
        ids = set(instructions)
        for envelope in self._state.get_message_res(set(ids), self._run.run_id) if self._run and ids else ():
            self.objects.delete(envelope.metadata.message_id)
        self._state.delete_messages(ids)
        for instruction in ids:
            self.objects.free(instruction)

    def forget(self, envelope: Message) -> None:
        """Free what an answer holds."""
        instruction = envelope.metadata.reply_to_message_id
        self._state.delete_messages({instruction})
        self.objects.delete(envelope.metadata.message_id)
        self.objects.free(instruction)


def _check_object(content: bytes) -> None:
    """Whether an object may be decoded: decoding takes what there is, whatever it comes to."""
    body = content.find(b"\0", 0, BESIDES) + 1
    kind, _, _ = get_object_head_values_from_object_content(content[:body])
    if kind not in KINDS:
        raise TypeError(f"an answer is not made of {kind}")
    if kind == RECORD:
        check_record(memoryview(content)[body:])
    elif len(content) > BESIDES:
        raise ValueError(f"a {kind} of {len(content)} bytes; the most is {BESIDES}")
