"""All that pocketfed uses of Flower beyond its public interface; `flwr` is pinned exactly for this file's sake.

tests/server/test_flower_private.py says what has changed when a new Flower breaks it.
"""

import logging
import math
import threading
import time
import warnings
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import Response
from flwr.app import Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID, SubStatus
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest, RegisterNodeFleetRequest
from flwr.proto.message_pb2 import ObjectTree
from flwr.server.superlink.linkstate import LinkStateFactory, SqlLinkState
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    NOOP_FEDERATION_ID,
    NodeStatus,
    TaskType,
)
from flwr.supercore.date import now
from flwr.supercore.error import ApiErrorCode, FlowerError, http_error_translator
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_head_values_from_object_content,
    get_object_tree,
    is_valid_sha256_hash,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStoreFactory
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.protobuf.translation import (
    PROTOBUF_REQUEST_TYPES,
    ProtobufTranslationMiddleware,
    get_protobuf_request,
)
from flwr.supercore.run import Run
from flwr.supercore.state.schema.corestate_models import ObjectPushSession
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.routers.fleet.router import get_enable_supernode_auth
from flwr.superlink.routers.fleet.router import router as fleet_router
from sqlalchemy import delete
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import OperationalError as DatabaseError
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from pocketfed.core.errors import RunFolderError, UpdateRejected
from pocketfed.server.admission import Admission
from pocketfed.server.record_bounds import check_record

__all__ = [
    "DatabaseError",
    "Fleet",
    "GivenUp",
    "Node",
    "Run",
    "act_as_server",
    "empty_run",
    "reusing_object_ids",
    "with_id",
    "without_content",
]

log = logging.getLogger(__name__)

HEARTBEAT = 20.0
"""Seconds between signs of life of a run; Flower gives a run up after 60 without one."""

MOST_OBJECTS = 64
"""Objects in one answer. Ours have three."""

RECORD = "ConfigRecord"
KINDS = ("Message", "RecordDict", RECORD)
"""What an answer may be made of. An `Array` may name one chunk a million times, and would be as large as all of them."""

BESIDES = 1 << 16
"""Bytes of an object without its record: of the others only names, numbers and reasons are expected."""

LONGEST_REASON = 300
"""Characters."""

LOOK_AT_ALL = 2.0
"""Seconds between two looks at all that was asked, for phones that have gone without an answer."""

SWEEP = 1.0
"""Seconds between two looks for runs that show no life. Flower looks with every call of a phone."""

MISTAKES = (KeyError, ValueError, OverflowError, NoObjectInStoreError, IntegrityError)
"""What Flower raises on calls that make no sense: an unknown run, an object that is not what its id says."""

API = "/v1/"
"""How the paths of all of Flower's calls begin. Bodies are read at those of other interfaces, too, which are not here."""

LOST = {ord(character): None for character in "\t\r\n"}
"""What a path loses when Starlette makes an address of it, by which Flower decides whose body is read."""

REGISTER, ACTIVATE = "/v1/fleet/register-node", "/v1/fleet/activate-node"
"""Calls that a key may make of which no node is known yet."""

WENT_AWAY = 499
"""Status of a call whose caller hung up before all of it was here, as nginx has it; nobody gets to see it."""

EDGE = "edge"
"""Name of the account that edge servers belong to; a node that registers itself belongs to Flower's own."""


def act_as_server(run_id: int, task_id: int = 1) -> None:
    """Let this process make instruction messages: Flower reads their sender from a process-wide identity."""
    TaskIdentity.run_id = run_id
    TaskIdentity.task_id = task_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID


def empty_run(run_id: int) -> Run:
    """Run information with nothing in it but the id."""
    return Run.create_empty(run_id=run_id)


def with_id(message: Message, message_id: str) -> Message:
    """Give a message its id, which a SuperLink would do; replies refer to it."""
    message.metadata.__dict__["_message_id"] = message_id
    return message


def without_content(message: Message) -> Message:
    """The envelope of a message, which can still be replied to; its weights are free to go."""
    return remove_content_from_message(message)


def reusing_object_ids() -> AbstractContextManager[None]:
    """While this lasts, content that many messages share is serialised and hashed once."""
    return no_object_id_recompute()


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
        objects.store_instance = self.objects = _BoundedStore(largest_answer)
        federations = NoOpFederationManager()
        self._factory = LinkStateFactory(str(database), federations, objects)
        self._state = _State(str(database), federations, self.objects)
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
        """Flower's Fleet API.

        Args:
            enrolled_only: whether a phone can only take part with a key that was registered here before.
            bounds: ASGI middleware between the question who calls, which takes the headers, and the body.
        """
        app = FastAPI(
            title="pocketfed",
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            middleware=[
                Middleware(_Callers, state=self._state, enrolled_only=enrolled_only),
                *bounds,
                Middleware(_Errors),
                Middleware(_Translation),
            ],
        )
        app.state.linkstate_factory = self._factory
        app.state.enable_supernode_auth = enrolled_only
        for cheap in (get_linkstate, get_protobuf_request, get_enable_supernode_auth):
            app.dependency_overrides[cheap] = _without_a_thread(cheap)
        app.include_router(fleet_router, dependencies=[Depends(_check_caller), Depends(_check_answer)])
        return app

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
                _of_run(message, self._run)
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


class _State(SqlLinkState):
    """Flower's state for a crowd: one transaction at a time, and none that is of no use here.

    SQLite has one writer. Flower's threads would wait for it inside SQLite, asleep between two looks; those that are
    unlucky for five seconds fail with "database is locked", and their phones are answered HTTP 500.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._turn = threading.RLock()  # transactions nest
        self._swept = -math.inf

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self._turn, super().session() as session:
            yield session

    def _cleanup_expired_task_tokens(self) -> None:
        with self._turn:
            if time.monotonic() < self._swept + SWEEP:
                return
            self._swept = time.monotonic()
            super()._cleanup_expired_task_tokens()

    def store_traffic(self, run_id: int, *, bytes_sent: int, bytes_recv: int) -> None:
        """Nobody reads it here; `/metrics` has its own."""

    def add_clientapp_runtime(self, run_id: int, runtime: float) -> None:
        """Nobody reads it here."""

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """As Flower does, and forget the session of an answer of which nothing is to be pushed."""
        stored, missing = False, list[str]()
        try:
            stored, missing = super().store_message_and_object_tree(message, object_tree, session_id)
        finally:
            if not missing:
                self._cleanup_push_session(session_id, cleanup_messages=False)
        return stored, missing

    def forget_stale_sessions(self) -> None:
        """Of phones that stopped half-way. What they had pushed goes with their instruction."""
        with self.session() as session:
            session.execute(delete(ObjectPushSession).where(ObjectPushSession.expires_at < now()))


class _BoundedStore(InMemoryObjectStore):
    """Objects in memory; what a phone can make it hold for one answer is bounded."""

    def __init__(self, largest: int) -> None:
        """Begin empty; an answer may have `largest` bytes in all."""
        super().__init__()
        self.admission = Admission(largest)

    def preregister(self, run_id: int, object_tree: ObjectTree) -> list[str]:
        nodes = list(islice(iterate_object_tree(object_tree), MOST_OBJECTS + 1))
        if len(nodes) > MOST_OBJECTS:
            raise _refused(f"an answer has more than {MOST_OBJECTS} objects")
        if not all(is_valid_sha256_hash(node.object_id) for node in nodes):
            raise _refused("an answer has an object whose id is no hash")
        with self.lock_store:
            new = {node.object_id for node in nodes} - self.store.keys()
            if new and object_tree.object_id in self.store:
                raise _refused("an answer that was offered before has other objects now")
            self._check_children(nodes)
            missing = super().preregister(run_id, object_tree)
            self.admission.claim(object_tree.object_id, new)
            return missing

    def _check_children(self, nodes: Sequence[ObjectTree]) -> None:
        """An object that is named again has the same children, or none are named; others would belong to nobody."""
        known: dict[str, list[str]] = {}
        for node in nodes:
            children = [child.object_id for child in node.children]
            entry = self.store.get(node.object_id)
            before = known.setdefault(node.object_id, children if entry is None else entry.child_object_ids)
            if children and children != before:
                raise _refused("an object of an answer has other children elsewhere")

    def put(self, object_id: str, object_content: bytes) -> None:
        size = len(object_content)
        with self.lock_store:
            self.admission.check_size(object_id, size)
            super().put(object_id, object_content)
            self.admission.pushed(object_id, size, self._is_whole)

    def _is_whole(self, answer: str) -> bool:
        return all(self.store[name].content for name in self.below(answer))

    def delete(self, object_id: str) -> None:
        with self.lock_store:
            super().delete(object_id)
            if object_id not in self.store:
                self.admission.gone(object_id)

    def clear(self) -> None:
        with self.lock_store:
            super().clear()
            self.admission.clear()

    def free(self, instruction: str) -> None:
        """Delete an instruction and all answers that were offered to it."""
        with self.lock_store:
            for answer in self.admission.end(instruction):
                self.delete(answer)
            self.delete(instruction)

    def below(self, root: str) -> tuple[str, ...]:
        """The ids of an object and all that it is made of, each once.

        Flower's own `get_object_tree` repeats an object wherever it is named: a tree of 64 may have 2^31 branches.
        """
        found: dict[str, None] = {}
        waiting = [root]
        with self.lock_store:
            while waiting:
                name = waiting.pop()
                if name not in found:
                    found[name] = None
                    entry = self.store.get(name)
                    waiting += entry.child_object_ids if entry is not None else ()
        return tuple(found)


@dataclass(frozen=True)
class _Caller:
    """Who signed a call: a key, and the node that was registered with it, if any."""

    public_key: bytes
    node: int | None


class _Callers:
    """ASGI middleware: a call says in its headers who makes it, or goes no further; nothing of its body is read before.

    Flower asks when it has read the body. By then a call has taken memory, a turn and time, and anybody can make calls.
    """

    def __init__(self, app: ASGIApp, state: SqlLinkState, enrolled_only: bool) -> None:
        self._app, self._state, self._enrolled_only = app, state, enrolled_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].translate(LOST).startswith(API):
            await self._app(scope, receive, send)
            return
        welcome = Response()

        async def ask(request: Request) -> Response:
            # A thread: signatures take time, and others may be writing to the database.
            request.state.caller = await run_in_threadpool(self._ask, request)
            return welcome

        answer = await _answer_errors(Request(scope, receive), ask)
        await (self._app if answer is welcome else answer)(scope, receive, send)

    def _ask(self, request: Request) -> _Caller:
        try:
            key = b64decode(request.headers.get(FLEET_HTTP_PUBLIC_KEY_HEADER, ""), validate=True)
        except ValueError:
            key = b""  # Flower refuses the header
        # Of an activation, Flower asks for the signature, and whether the body names the same key.
        request.state.protobuf_request = ActivateNodeRequest(public_key=key)
        authenticate_node(request)
        node = self._state.get_node_id_by_public_key(key)
        if node is None:
            self._check_newcomer(request.url.path)
        return _Caller(key, node)

    def _check_newcomer(self, path: str) -> None:
        """Raises what Flower would: phones go by the codes."""
        if path == REGISTER and self._enrolled_only:
            raise FlowerError(ApiErrorCode.FLEET_SUPERNODE_REGISTRATION_DISABLED, "the key is not enrolled")
        if path == ACTIVATE and self._enrolled_only:
            raise FlowerError(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED, "the key is not enrolled")
        if path not in (REGISTER, ACTIVATE):
            raise _unauthenticated()


class _Errors:
    """ASGI middleware: what goes wrong is an answer, if none has begun.

    Not Starlette's `BaseHTTPMiddleware`, which begins a task for each piece of a body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, fine = False, Response()

        async def sending(event: Event) -> None:
            nonlocal begun
            begun = True
            await send(event)

        async def call(request: Request) -> Response:
            await self._app(scope, receive, sending)
            return fine

        answer = await _answer_errors(Request(scope, receive), call)
        if answer is not fine and not begun:
            await answer(scope, receive, send)


class _Translation:
    """ASGI middleware: Flower's own translation between protobuf and what its handlers take and give.

    Flower's is a `BaseHTTPMiddleware`, whose requests are cycles with a generator of theirs: each keeps its body until
    the garbage collector comes, which was 60 MB with many phones at once.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._flowers = app, ProtobufTranslationMiddleware(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) not in PROTOBUF_REQUEST_TYPES:
            await self._app(scope, receive, send)
            return

        async def call(request: Request) -> Response:
            events: list[Event] = []

            async def keep(event: Event) -> None:
                events.append(event)

            await self._app(scope, receive, keep)
            response = Response(
                b"".join(event.get("body", b"") for event in events), status_code=events[0]["status"]
            )
            response.raw_headers = events[0]["headers"]
            return response

        answer = await self._flowers.dispatch(Request(scope, receive), call)
        await answer(scope, receive, send)


async def _check_caller(request: Request) -> None:
    """A call is about the key and the node of whoever signed it, as in Flower's `authenticate_node`."""
    caller: _Caller | None = getattr(request.state, "caller", None)
    asked = getattr(request.state, "protobuf_request", None)
    if caller is None or asked is None:
        raise _unauthenticated()
    if isinstance(asked, RegisterNodeFleetRequest | ActivateNodeRequest):
        is_own = asked.public_key == caller.public_key
    else:
        named = asked.node.node_id if hasattr(asked, "node") else asked.node_id
        is_own = caller.node is not None and named == caller.node
    if not is_own:
        raise _unauthenticated()


def _unauthenticated() -> HTTPException:
    return HTTPException(401, "Invalid SuperNode authentication")


async def _answer_errors(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """As Flower does; but a caller's mistake is 400, and what the disk does is 503, after which phones try again.

    A caller who is gone before all of a call is here is nobody's mistake: phones lose the network all the time.
    """

    async def sorted_out(request: Request) -> Response:
        try:
            return await call_next(request)
        except ClientDisconnect:
            log.debug("%s: the caller went away", request.url.path)
            return Response(status_code=WENT_AWAY)
        except MISTAKES as error:
            raise _refused(f"{type(error).__name__}: {error}"[:LONGEST_REASON]) from error
        except DatabaseError as error:
            raise HTTPException(503, "The server's database cannot be used now.") from error

    try:
        return await http_error_translator(request, sorted_out)
    finally:
        # A connection keeps the state of its last request, which would be an update for each phone.
        if hasattr(request.state, "protobuf_request"):
            del request.state.protobuf_request


def _without_a_thread(dependency: Callable[[Request], Any]) -> Callable[[Request], Awaitable[Any]]:
    """A dependency that only looks something up; FastAPI would go to a thread and back for each."""

    async def looked_up(request: Request) -> Any:
        return dependency(request)

    return looked_up


def _of_run(message: Message, run: Run) -> None:
    """A message belongs to the run of the fleet that posts it: this process may serve another fleet besides."""
    message.metadata.__dict__["_run_id"] = run.run_id
    message.metadata.__dict__["_src_task_id"] = run.primary_task_id


async def _check_answer(request: Request) -> AsyncIterator[None]:
    """An answer is one message, from the node that brings it, with the tree of its own objects. It waits for others."""
    asked = getattr(request.state, "protobuf_request", None)
    if not isinstance(asked, PushMessagesRequest):
        yield
        return
    if len(asked.messages_list) != 1 or len(asked.message_object_trees) != 1:
        raise _refused("a call brings one answer")
    metadata, tree = asked.messages_list[0].metadata, asked.message_object_trees[0]
    if metadata.src_node_id != asked.node.node_id or metadata.message_id != tree.object_id:
        raise _refused("an answer of another node, or with another's objects")
    if not (math.isfinite(metadata.created_at) and math.isfinite(metadata.ttl)):
        raise _refused("an answer from no time")  # the database would keep NULL
    objects = get_linkstate(request).object_store
    assert isinstance(objects, _BoundedStore)
    answer = str(metadata.message_id)
    if not await objects.admission.wait_for_place(metadata.src_node_id, answer):
        raise HTTPException(503, "Other answers are under way.")
    try:
        # If it expires, Flower puts an error in its place and forgets its id.
        objects.admission.offer(metadata.reply_to_message_id, answer)
        yield
    finally:
        if answer not in objects:  # it was not taken, and has nothing to push
            objects.admission.leave(answer)


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


def _refused(why: str) -> FlowerError:
    return FlowerError(ApiErrorCode.INVALID_PROTOBUF_PAYLOAD, why)
