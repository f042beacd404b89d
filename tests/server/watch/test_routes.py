"""Who is let in, what is answered, and with which headers."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from pocketfed.core.errors import ServerError
from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.routes import HEADERS, watch_routes
from pocketfed.server.watch.scoreboard import Scoreboard
from pocketfed.server.watch.token import COOKIE, cookie_of, is_admitted, needs_token
from pocketfed.server.watch.watcher import Everyone
from tests.server.watch.asking import ask
from tests.server.watch.example import busy

TOKEN = "a long; token, ü"


def app(token: str | None = None, board: Scoreboard | None = None) -> Starlette:
    board, metrics = board or Scoreboard(), Metrics()
    busy(Everyone(board, metrics), 3)
    return Starlette(routes=watch_routes(board, metrics, token))


def test_on_loopback_everybody_is_let_in() -> None:
    answer = ask(app(), "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "Round 4" in answer.text
    assert 'http-equiv="refresh"' in answer.text
    assert "http-equiv" not in ask(app(), "/?refresh=0").text


def test_metrics_are_metrics() -> None:
    answer = ask(app(), "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "pocketfed_rounds" in {family.name for family in text_string_to_metric_families(answer.text)}


@pytest.mark.parametrize("path", ["/", "/metrics"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic " + TOKEN.replace("ü", "u")},
        {"Cookie": f"{COOKIE}=wrong"},
        {"Cookie": f"{COOKIE}="},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_without_the_token_nobody_is(path: str, headers: dict[str, str]) -> None:
    answer = ask(app(TOKEN), path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert "answered" not in answer.text
    assert "Authorization: Bearer" in answer.text


@pytest.mark.parametrize("path", ["/", "/metrics"])
def test_programs_send_a_header(path: str) -> None:
    assert ask(app("secret"), path, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert ask(app("secret"), path, headers={"Authorization": "bearer secret"}).status_code == 200


@pytest.mark.parametrize(("base", "secure"), [("http://here", False), ("https://here", True)])
def test_a_browser_opens_the_page_with_the_token_and_keeps_a_cookie(base: str, secure: bool) -> None:
    served = app(TOKEN)
    answer = ask(served, "/", base=base, params={"token": TOKEN, "refresh": "0"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?refresh=0")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert ("Secure" in cookie) is secure
    assert TOKEN not in cookie
    kept = {"Cookie": cookie.partition(";")[0]}
    assert ask(served, "/", headers=kept).status_code == 200
    assert ask(served, "/metrics", headers=kept).status_code == 200
    assert ask(app("another"), "/", headers=kept).status_code == 401


def test_a_wrong_token_in_the_address_is_refused() -> None:
    answer = ask(app(TOKEN), "/?token=wrong")
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


def test_a_scraper_may_put_the_token_into_the_address() -> None:
    assert ask(app(TOKEN), "/metrics", params={"token": TOKEN}).status_code == 200


def test_health_is_for_everybody_and_says_little() -> None:
    board = Scoreboard()
    served = app(TOKEN, board)
    assert ask(served, "/healthz").json() == {"status": "ok"}
    board.trouble("/var/lib/pocketfed: No space left on device")
    answer = ask(served, "/healthz")
    assert (answer.status_code, answer.json()) == (503, {"status": "degraded"})
    page = ask(served, "/", headers={"Authorization": "Bearer x"})
    assert "No space" not in page.text
    board.saved(4, 0.1)
    assert ask(served, "/healthz").status_code == 200


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/", 401), ("/metrics", 200), ("/metrics", 401), ("/healthz", 200)]
)
def test_headers_forbid_everything_that_the_page_does_not_need(path: str, status: int) -> None:
    answer = ask(app("secret" if status == 401 else None), path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert HEADERS["Content-Security-Policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(method: str) -> None:
    assert ask(app(), "/", method).status_code == 405


def test_an_empty_token_is_refused() -> None:
    with pytest.raises(ServerError, match="empty"):
        watch_routes(Scoreboard(), Metrics(), " ")


@given(st.text(min_size=1), st.text(max_size=20))
def test_only_the_token_admits(token: str, given_: str) -> None:
    token = token.encode("utf-8", "replace").decode()
    assert is_admitted(token, "", cookie_of(token))
    admitted = is_admitted(token, f"Bearer {given_}", given_)
    assert not admitted or given_.strip() == token


@pytest.mark.parametrize(
    ("host", "needed"),
    [
        ("127.0.0.1", False), ("127.8.8.8", False), ("::1", False), ("[::1]", False), ("localhost", False),
        ("0.0.0.0", True), ("::", True), ("192.168.1.20", True), ("fed.example.org", True), ("", True),
        ("localhost.example.org", True),
    ],
)  # fmt: skip
def test_who_needs_a_token(host: str, needed: bool) -> None:
    assert needs_token(host) is needed


def test_the_answer_to_head_has_no_body() -> None:
    answer: httpx.Response = ask(app(), "/healthz", "HEAD")
    assert (answer.status_code, answer.content) == (200, b"")
