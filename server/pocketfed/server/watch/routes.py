"""`/`, `/metrics` and `/healthz` as routes of any Starlette or FastAPI application."""

from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from pocketfed.core.errors import ServerError
from pocketfed.server.watch.health import health
from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.page import live_page, refused_page
from pocketfed.server.watch.scoreboard import Scoreboard
from pocketfed.server.watch.token import COOKIE, cookie_of, is_admitted, is_token

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def watch_routes(scoreboard: Scoreboard, metrics: Metrics, token: str | None = None) -> list[BaseRoute]:
    """Routes of the page and the metrics, for whoever has the token, and of `/healthz`, for everybody.

    Args:
        scoreboard: what the page and `/healthz` show.
        metrics: what `/metrics` exposes.
        token: None lets everybody in, for a server that only this machine reaches; see `needs_token`.

    Raises:
        ServerError: the token is empty.
    """
    if token is not None and not token.strip():
        raise ServerError("the token of the watch page is empty; choose one that nobody guesses")

    # Neither is a coroutine: drawing 500 rounds takes milliseconds, which phones' requests need not wait for.
    def page(request: Request) -> Response:
        given = request.query_params.get("token")
        if token is not None and given is not None and is_token(given, token):
            return _keep_token(request, token)
        if not _admitted(request, token):
            return _refuse(refused_page())
        refreshes = request.query_params.get("refresh") != "0"
        shown = live_page(scoreboard.snapshot(), datetime.now(UTC), refreshes)
        return HTMLResponse(shown.encode("utf-8", "replace"), headers=HEADERS)

    def expose(request: Request) -> Response:
        given = request.query_params.get("token")
        with_query = token is not None and given is not None and is_token(given, token)
        if not with_query and not _admitted(request, token):
            return _refuse(None)
        content, content_type = metrics.exposition(request.headers.get("accept", ""))
        return Response(content, headers={**HEADERS, "Content-Type": content_type})

    async def healthz(request: Request) -> Response:
        status, body = health(scoreboard.snapshot())
        return JSONResponse(body, status, headers=HEADERS)

    return [Route("/", page), Route("/metrics", expose), Route("/healthz", healthz)]


def _admitted(request: Request, token: str | None) -> bool:
    return token is None or is_admitted(
        token, request.headers.get("authorization", ""), request.cookies.get(COOKIE, "")
    )


def _keep_token(request: Request, token: str) -> Response:
    """To the same address without the token, which must not stay in the history or be sent on by a copied link."""
    clean = request.url.remove_query_params("token")
    where = clean.path + (f"?{clean.query}" if clean.query else "")
    response = RedirectResponse(where, 303, headers=HEADERS)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, cookie_of(token), httponly=True, samesite="strict", secure=secure)
    return response


def _refuse(page: str | None) -> Response:
    headers = {**HEADERS, "WWW-Authenticate": 'Bearer realm="pocketfed"'}
    if page is None:
        return JSONResponse({"code": 401, "detail": "Send the token: Authorization: Bearer …"}, 401, headers)
    return HTMLResponse(page, 401, headers)
