"""The page as a browser sees it: a headless Chromium that is given the page and nothing else."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.routes import watch_routes
from pocketfed.server.watch.scoreboard import Scoreboard
from tests.server.serving import serving
from tests.server.watch.example import busy

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


class Noting:
    """ASGI middleware that remembers what was asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.asked: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["path"] + "?" + scope["query_string"].decode())
        await self._app(scope, receive, send)


def browse(profile: Path, *flags: str) -> str:
    """What Chromium prints; it may reach no host but this one."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-background-networking",
            "--disable-component-update", "--no-first-run", f"--user-data-dir={profile}", *flags,
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def served() -> Noting:
    board = Scoreboard(planned=100, deadline=120.0)
    busy(board)
    return Noting(Starlette(routes=watch_routes(board, Metrics(), "secret")))


def colours(path: Path) -> tuple[tuple[int, int], float, int]:
    """Size, mean brightness, and how many colours there are."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    return image.size, float(pixels.mean()), len(np.unique(pixels.reshape(-1, 3), axis=0))


def test_it_draws_the_page_and_asks_for_nothing_else(served: Noting, tmp_path: Path) -> None:
    with serving(served) as port:
        address = f"http://127.0.0.1:{port}/?token=secret&refresh=0"
        light = tmp_path / "light.png"
        browse(tmp_path / "profile", "--window-size=1280,1900", f"--screenshot={light}", address)
        document = browse(tmp_path / "profile", "--dump-dom", address)
    size, brightness, shades = colours(light)
    assert size == (1280, 1900)
    assert brightness > 200
    assert shades > 200
    for expected in ("Round 37 of 100, attempt 2: 12 of 20 answered", "Training loss", "&lt;script&gt;alert"):
        assert expected in document
    # The first address sets the cookie and sends the browser on to the clean one, each of the two times.
    assert served.asked == ["/?token=secret&refresh=0", "/?refresh=0"] * 2


def test_it_is_dark_where_the_reader_likes_it_dark(served: Noting, tmp_path: Path) -> None:
    with serving(served) as port:
        dark = tmp_path / "dark.png"
        browse(
            tmp_path / "profile", "--window-size=500,900", "--blink-settings=preferredColorScheme=0",
            f"--screenshot={dark}", f"http://127.0.0.1:{port}/?token=secret&refresh=0",
        )  # fmt: skip
    size, brightness, shades = colours(dark)
    assert size == (500, 900)
    assert brightness < 60
    assert shades > 200
