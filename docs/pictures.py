"""Takes docs/report.png and docs/server-page.png again: `make pictures`. Needs Chromium, and some minutes.

The report is that of a run folder, `runs/demo` unless another one is given. The page is that of a server in the middle of
a run, with phones that are processes of their own on this machine. The last of them has a policy that does not allow
training, so that there is a reason to show.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from pocketfed.core.captures import Split
from pocketfed.core.captures.captures import SAMPLE_RATE
from pocketfed.core.modality import Modality
from pocketfed.simulator.config_file import build_config, to_toml
from pocketfed.simulator.fleet import deal
from pocketfed.simulator.simulate import load_captures

HERE = Path(__file__).parent
POCKETFED = str(Path(sys.executable).with_name("pocketfed"))
PHONES, SHOWN = 4, 12
"""Phones, and rounds after which the picture is taken."""

SETTINGS = {
    "rounds": 40,
    "captures": {"photos_limit": 256, "sounds_limit": 256},
    "fleet": {"phones": PHONES, "alpha": 1.0, "photos_only": 0.0, "sounds_only": 0.0},
    "deployment": {"minimum": PHONES - 1},
}
WIDTH, TALLEST, MARGIN, REPORT = 1100, 4000, 40, 2330
"""Of pictures, pixels. The report is cut below its maps: tables of rounds and settings follow."""


def main(run: Path) -> None:
    """Both pictures; `run` is the folder of a simulation."""
    take(f"file://{(run / 'report.html').resolve()}", HERE / "report.png", REPORT)
    with tempfile.TemporaryDirectory(prefix="pocketfed-pictures-") as folder:
        serve(Path(folder))


def serve(folder: Path) -> None:
    """Serve phones until enough rounds are finished, and take the page."""
    config = build_config(SETTINGS)
    splits = load_captures(config)
    fleet = deal({modality: split.train for modality, split in splits.items()}, config.fleet, config.seed)
    for modality, holders in fleet.holdings.items():
        for phone, indices in holders.items():
            write_captures(folder / "captures" / str(phone), modality, splits[modality], indices)
    (folder / "config.toml").write_text(to_toml(config))
    (folder / "policy.toml").write_text('min_battery = 0.3\nstate = "state.json"\n')
    (folder / "state.json").write_text('{"battery": 0.12}')
    state, started = folder / "server", []
    try:
        started.append(
            start(folder / "server.txt", "serve", "--bundle", folder / "config.toml", "--state", state,
                  "--insecure", "--open", "--port", "0")
        )  # fmt: skip
        url = wait_for(lambda: address(folder / "server.txt"), started[0])
        for number in range(PHONES):
            policy = ["--policy", folder / "policy.toml"] if number == PHONES - 1 else []
            started.append(
                start(folder / f"phone-{number}.txt", "phone", "--server", url, "--bundle", state / "bundle",
                      "--captures", folder / "captures" / str(number), "--home", folder / "phones" / str(number),
                      "--threads", "1", *policy)
            )  # fmt: skip
        wait_for(lambda: len((state / "metrics.jsonl").read_text().splitlines()) > SHOWN, started[0])
        take(f"{url}/?refresh=0", HERE / "server-page.png")
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(60)


def write_captures(folder: Path, modality: Modality, split: Split, indices: NDArray[np.int64]) -> None:
    """A phone's captures of one modality, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in indices:
        item, name = split.train.items[index], folder / f"{modality}-{index:05d}"
        if modality is Modality.PHOTO:
            Image.fromarray(item).save(name.with_suffix(".png"))
        else:
            soundfile.write(name.with_suffix(".wav"), item, SAMPLE_RATE)


def start(log: Path, *words: Any) -> subprocess.Popen[bytes]:
    """A command of pocketfed, which says what it says to a file."""
    with log.open("w") as out:
        return subprocess.Popen([POCKETFED, *map(str, words)], stdout=out, stderr=subprocess.STDOUT)


def address(log: Path) -> str:
    """Of the server; "" as long as it has not said it."""
    lines = [line for line in log.read_text().splitlines() if line.startswith("Serving phones at ")]
    return lines[0].removeprefix("Serving phones at ").strip() if lines else ""


def wait_for(found: Any, server: subprocess.Popen[bytes]) -> Any:
    """What a function returns as soon as that is true; the server must go on meanwhile."""
    while not (value := found()):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        time.sleep(0.2)
    return value


def take(url: str, picture: Path, tallest: int = TALLEST) -> None:
    """A page as Chromium shows it, from the top to its end or to `tallest` pixels."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        raise SystemExit(f"no browser on PATH; install one of: {', '.join(names)}")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                f"--user-data-dir={profile}", f"--window-size={WIDTH},{tallest}", f"--screenshot={picture}", url,
            ],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
        filled = np.flatnonzero((pixels != pixels[-1, -1]).any(axis=(1, 2)))
        image.crop((0, 0, WIDTH, min(tallest, int(filled[-1]) + MARGIN))).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/demo"))
