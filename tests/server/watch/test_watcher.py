"""Several watchers as one."""

from typing import Any

import pytest
from fastapi import FastAPI

from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.round_log import RoundLog
from pocketfed.server.watch.routes import watch_routes
from pocketfed.server.watch.scoreboard import Scoreboard
from pocketfed.server.watch.watcher import Everyone
from tests.server.watch.asking import ask
from tests.server.watch.example import busy


class Tape:
    """Remembers every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def test_everyone_hears_everything_in_order() -> None:
    alone, one, other = Tape(), Tape(), Tape()
    for watcher in (alone, Everyone(one, other)):
        busy(watcher, 2)
        watcher.trouble("disk full")
    calls = [[name for name, _, _ in tape.calls] for tape in (alone, one, other)]
    assert calls[0] == calls[1] == calls[2]
    assert set(calls[0]) == {
        "waiting",
        "begun",
        "answered",
        "abandoned",
        "finished",
        "saved",
        "trouble",
        "fleet",
    }
    assert [call[1:] for call in one.calls if call[0] != "finished"] == [
        call[1:] for call in alone.calls if call[0] != "finished"
    ]


def test_one_that_persists_rounds_can_stop_the_server() -> None:
    class Full(Tape):
        def finished(self, outcome: object) -> None:
            raise OSError("disk full")

    after = Tape()
    with pytest.raises(OSError, match="disk full"):
        busy(Everyone(Tape(), Full(), after), 1)
    assert "finished" not in [name for name, _, _ in after.calls]


def test_the_routes_join_an_application_of_fastapi() -> None:
    """As Flower's server is."""
    board, metrics = Scoreboard(), Metrics()
    busy(Everyone(board, metrics, RoundLog()), 2)
    app = FastAPI(openapi_url=None)
    app.router.routes.extend(watch_routes(board, metrics))
    assert "Round 3" in ask(app, "/").text
    assert ask(app, "/metrics").status_code == ask(app, "/healthz").status_code == 200
