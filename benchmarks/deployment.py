"""A whole deployment on this machine: python benchmarks/deployment.py --photos P.npz --sounds S.npz

Deals captures to the folders of phones as PNG and WAV files, makes certificates, enrols every phone's key, and starts
`pocketfed serve` and one `pocketfed phone` process a phone, TLS and enrolment on. When the rounds are over it judges
the encoder before and after as `pocketfed simulate` does. With --keep everything stays in a folder to look at.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import soundfile
import typer
from PIL import Image

from pocketfed.core.captures import Split
from pocketfed.core.captures.captures import SAMPLE_RATE
from pocketfed.core.evaluation import evaluate
from pocketfed.core.modality import Modality
from pocketfed.server.checkpoint import load_checkpoint, newest, path_of
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, overlay, read_toml, to_toml
from pocketfed.simulator.fleet import Fleet, deal
from pocketfed.simulator.program import task_of
from pocketfed.simulator.simulate import load_captures

POCKETFED = str(Path(sys.executable).with_name("pocketfed"))


def main(
    photos: Annotated[Path, typer.Option(help="Folder or .npz of photos.")],
    sounds: Annotated[Path, typer.Option(help="Folder or .npz of sounds.")],
    config: Annotated[Path, typer.Option(help="How to learn.")] = Path("configs/cifar10-arabic.toml"),
    phones: Annotated[int, typer.Option(help="Phone processes.")] = 20,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 10,
    keep: Annotated[Path | None, typer.Option(help="New folder to leave everything in.")] = None,
) -> None:
    """Print a table of rounds, and k-NN and linear probe before and after."""
    folder = keep or Path(tempfile.mkdtemp(prefix="pocketfed-deployment-"))
    folder.mkdir(exist_ok=True)
    flags = {
        "captures.photos": str(photos.resolve()),
        "captures.sounds": str(sounds.resolve()),
        "fleet.phones": phones,
        "rounds": rounds,
        "deployment.minimum": phones,
        "deployment.over_selection": 0.0,
        "deployment.most_examples": 20_000,
    }
    settings = build_config(overlay(read_toml(config), flags))
    splits = deploy(folder, settings)
    judge(folder, settings, splits)


def deploy(folder: Path, settings: Config) -> dict[Modality, Split]:
    """Run a whole deployment in a folder, one phone process for each phone of the fleet; the captures that were dealt."""
    (folder / "config.toml").write_text(to_toml(settings))
    splits = load_captures(settings)
    train = {modality: split.train for modality, split in splits.items()}
    write_captures(folder, deal(train, settings.fleet, settings.seed), splits)
    run(folder, settings.fleet.phones)
    return splits


def write_captures(folder: Path, fleet: Fleet, splits: dict[Modality, Split]) -> None:
    """Each phone's captures as files, `captures/PHONE/…`; sounds as 32-bit floats, so that nothing is lost."""
    for modality, holders in fleet.holdings.items():
        for phone, indices in holders.items():
            home = folder / "captures" / str(phone)
            home.mkdir(parents=True, exist_ok=True)
            for position, index in enumerate(indices):
                item, name = splits[modality].train.items[index], home / f"{modality}-{position:05d}"
                if modality is Modality.PHOTO:
                    Image.fromarray(item).save(name.with_suffix(".png"))
                else:
                    soundfile.write(name.with_suffix(".wav"), item, SAMPLE_RATE, subtype="FLOAT")


def run(folder: Path, phones: int) -> None:
    """Three commands, the last once a phone."""
    state, certs = folder / "server", folder / "certs"
    homes = [folder / "phones" / str(phone) for phone in range(phones)]
    command([POCKETFED, "certs", str(certs)])
    command(
        [
            POCKETFED,
            "enrol",
            "--state",
            str(state),
            *(word for home in homes for word in ("--new", str(home))),
        ]
    )
    serve = [
        POCKETFED, "serve", "--bundle", str(folder / "config.toml"), "--state", str(state), "--port", "0",
        "--cert", str(certs / "server.pem"), "--key", str(certs / "server-key.pem"),
    ]  # fmt: skip
    with (folder / "server.txt").open("w") as out:
        server = subprocess.Popen(serve, stdout=out, stderr=subprocess.STDOUT)
    started: list[subprocess.Popen[bytes]] = []
    try:
        url = wait_for_address(folder / "server.txt", server)
        for number, home in enumerate(homes):
            with (folder / f"phone-{number}.txt").open("w") as out:
                words = [
                    POCKETFED, "phone", "--server", url, "--ca", str(certs / "ca.pem"), "--number", str(number),
                    "--bundle", str(state / "bundle"), "--captures", str(folder / "captures" / str(number)),
                    "--home", str(home), "--threads", "1",
                ]  # fmt: skip
                started.append(subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT))
        shown = 0
        while server.poll() is None:
            shown = show_rounds(state / "metrics.jsonl", shown)
            time.sleep(1)
        show_rounds(state / "metrics.jsonl", shown)
        if server.returncode:
            raise RuntimeError((folder / "server.txt").read_text()[-2000:])
    finally:
        for process in [*started, server]:
            process.send_signal(signal.SIGTERM)
        for process in [*started, server]:
            process.wait(60)


def wait_for_address(log: Path, server: subprocess.Popen[bytes]) -> str:
    """The server says it when phones can come."""
    while server.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("Serving phones at "):
                return line.removeprefix("Serving phones at ").strip()
        time.sleep(0.2)
    raise RuntimeError(log.read_text()[-2000:])


def show_rounds(metrics: Path, shown: int) -> int:
    """Print the rounds that are new; how many there are."""
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    for line in lines[shown:]:
        record = json.loads(line)
        losses = "  ".join(f"{name} {loss:.3f}" for name, loss in record["loss"].items())
        print(
            f"round {record['round']:>3}  {record['phones']:>3} updates  {record['seconds']:>6.1f} s  {losses}",
            flush=True,
        )
    return len(lines)


def judge(folder: Path, config: Config, splits: dict[Modality, Split]) -> None:
    """k-NN and linear probe of round 0 and of the last one."""
    task, checkpoints = task_of(config, list(splits)), folder / "server" / "checkpoints"
    last = newest(checkpoints)
    assert last is not None
    for modality, split in splits.items():
        before = evaluate(task, load_checkpoint(path_of(checkpoints, 0)).weights, split)
        after = evaluate(task, load_checkpoint(last).weights, split)
        if before and after:
            print(
                f"{modality}: k-NN {before.knn:.1%} -> {after.knn:.1%}, probe {before.probe:.1%} -> {after.probe:.1%}"
            )


def command(words: list[str]) -> None:
    """Run a command that must succeed."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    typer.run(main)
