"""Flower's Fleet API: who calls, what is answered to mistakes, and what is asked before Flower's own handlers are."""

import logging
import math
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import Response
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PushMessagesRequest, RegisterNodeFleetRequest
from flwr.server.superlink.linkstate import LinkStateFactory, SqlLinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.supercore.error import ApiErrorCode, FlowerError, http_error_translator
from flwr.supercore.error.http import INTERNAL_SERVER_ERROR_MESSAGE
from flwr.supercore.protobuf.translation import (
    PROTOBUF_REQUEST_TYPES,
    ProtobufTranslationMiddleware,
    get_protobuf_request,
)
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.routers.fleet.router import get_enable_supernode_auth
from flwr.superlink.routers.fleet.router import router as fleet_router
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from pocketfed.server.flower_private.mistakes import LONGEST_REASON, MISTAKES, DatabaseError, refused
from pocketfed.server.flower_private.store import BoundedStore

log = logging.getLogger(__name__)

API = "/v1/"
"""How the paths of all of Flower's calls begin. Bodies are read at those of other interfaces, too, which are not here."""

LOST = {ord(character): None for character in "\t\r\n"}
"""What a path loses when Starlette makes an address of it, by which Flower decides whose body is read."""

REGISTER, ACTIVATE = "/v1/fleet/register-node", "/v1/fleet/activate-node"
"""Calls that a key may make of which no node is known yet."""

WENT_AWAY = 499
"""Status of a call whose caller hung up before all of it was here, as nginx has it; nobody gets to see it."""


def fleet_api(
    factory: LinkStateFactory, state: SqlLinkState, enrolled_only: bool, bounds: Sequence[Middleware] = ()
) -> FastAPI:
    """Flower's Fleet API as an application.

    Args:
        factory: gives the state to Flower's handlers.
        state: that very one.
        enrolled_only: whether a phone can only take part with a key that was registered here before.
        bounds: ASGI middleware between the question who calls, which takes the headers, and the body.
    """
    app = FastAPI(
        title="pocketfed",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        middleware=[
            Middleware(_Callers, state=state, enrolled_only=enrolled_only),
            *bounds,
            Middleware(_Errors),
            Middleware(_Translation),
        ],
    )
    app.state.linkstate_factory = factory
    app.state.enable_supernode_auth = enrolled_only
    for cheap in (get_linkstate, get_protobuf_request, get_enable_supernode_auth):
        app.dependency_overrides[cheap] = _without_a_thread(cheap)
    app.include_router(fleet_router, dependencies=[Depends(_check_caller), Depends(_check_answer)])
    return app


def _is_call(scope: Scope) -> bool:
    """Whether a request is a call of Flower's; others are for the page, the metrics and the bundle."""
    return bool(scope["path"].translate(LOST).startswith(API))


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
        if scope["type"] != "http" or not _is_call(scope):
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
            if not events:
                raise RuntimeError(f"nothing answered {scope['path']}")
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

    Only calls of Flower's have mistakes: at the page, the metrics and the bundle the same errors are the server's own, and
    those are logged with their traceback. A caller who is gone before all of a call is here is nobody's mistake: phones lose the network all the time.
    """

    async def sorted_out(request: Request) -> Response:
        try:
            return await call_next(request)
        except (FlowerError, HTTPException):
            raise
        except ClientDisconnect:
            log.debug("%s: the caller went away", request.url.path)
            return Response(status_code=WENT_AWAY)
        except DatabaseError as error:
            raise HTTPException(503, "The server's database cannot be used now.") from error
        except Exception as error:
            if _is_call(request.scope) and isinstance(error, MISTAKES):
                # Whoever may call can make as many as they like: the log must not fill with them.
                log.debug("%s makes no sense", request.url.path, exc_info=True)
                raise refused(f"{type(error).__name__}: {error}"[:LONGEST_REASON]) from error
            log.exception("a request failed", extra={"path": request.url.path})
            raise HTTPException(500, INTERNAL_SERVER_ERROR_MESSAGE) from error

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


async def _check_answer(request: Request) -> AsyncIterator[None]:
    """An answer is one message, from the node that brings it, with the tree of its own objects. It waits for others."""
    asked = getattr(request.state, "protobuf_request", None)
    if not isinstance(asked, PushMessagesRequest):
        yield
        return
    if len(asked.messages_list) != 1 or len(asked.message_object_trees) != 1:
        raise refused("a call brings one answer")
    metadata, tree = asked.messages_list[0].metadata, asked.message_object_trees[0]
    if metadata.src_node_id != asked.node.node_id or metadata.message_id != tree.object_id:
        raise refused("an answer of another node, or with another's objects")
    if not (math.isfinite(metadata.created_at) and math.isfinite(metadata.ttl)):
        raise refused("an answer from no time")  # the database would keep NULL
    objects = get_linkstate(request).object_store
    assert isinstance(objects, BoundedStore)
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
