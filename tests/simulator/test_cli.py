"""The command line as a person meets it: help, errors, exit codes, and the run that scripts rely on."""

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from tests.conftest import Shown


def album(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_help_teaches(pocketfed: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = pocketfed("simulate", "--help")
    assert shown.code == 0
    for flag in (
        "--config", "--photos", "--sounds", "--phones", "--rounds", "--alpha", "--aggregator", "--backbone",
        "--mode", "--runtime", "--engine", "--seed", "--out", "--resume",
    ):  # fmt: skip
        assert flag in shown.out
    assert "pocketfed simulate --resume" in shown.out


def test_help_keeps_what_stands_in_brackets(
    pocketfed: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rich would take `[default: 10]` for markup and leave it out."""
    monkeypatch.setenv("COLUMNS", "200")
    assert "[default: 10]" in pocketfed("simulate", "--help").out
    assert "[default: the configuration's]" in pocketfed("serve", "--help").out
    assert "[deployment]" in pocketfed("serve", "--help").out


def test_every_argument_is_explained(
    pocketfed: Callable[..., Shown], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert "File of the private key" in pocketfed("keys", "--help").out
    assert "FOLDER" in pocketfed("verify", "--help").out.upper()


def test_version(pocketfed: Callable[..., Shown]) -> None:
    shown = pocketfed("--version")
    assert (shown.code, shown.out.split()) == (0, ["pocketfed", metadata.version("pocketfed")])


def test_all_mistakes_are_listed_with_the_nearest_key(
    tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    (tmp_path / "c.toml").write_text(
        "colour = 1\n[fleet]\nalpah = 2\nphones = 0\n[deployment]\ndeadlin = 1\n"
    )
    shown = pocketfed("simulate", "--config", tmp_path / "c.toml")
    assert shown.code == 2
    assert shown.err.startswith("Error: 4 mistakes:\n  - ")
    assert "fleet.alpah: there is no such key; did you mean 'alpha'?" in shown.err
    assert "colour: there is no such key; there are format, rounds, seed," in shown.err
    assert "deployment.deadlin: there is no such key; did you mean 'deadline'?" in shown.err


def unreadable(folder: Path) -> list[object]:
    (album(folder / "album", 3) / "broken.png").write_bytes(b"\x89PNG no more")
    return ["--photos", folder / "album"]


def empty_sound(folder: Path) -> list[object]:
    (folder / "sounds").mkdir()
    for name, samples in (("nothing", 0), ("a", 16_000), ("b", 16_000)):
        soundfile.write(folder / "sounds" / f"{name}.wav", np.full(samples, 0.1), 16_000)
    return ["--sounds", folder / "sounds"]


def empty_folder(folder: Path) -> list[object]:
    (folder / "none").mkdir()
    return ["--photos", folder / "none"]


def foreign_run(folder: Path) -> list[object]:
    (folder / "run").mkdir()
    (folder / "run" / "config.toml").write_text("format = 99\n")
    return ["--resume", folder / "run"]


def unknown_keys(folder: Path) -> list[object]:
    (folder / "c.toml").write_text("colour = 1\n[fleet]\nphone = 2\nalpha = -1\n")
    return ["--config", folder / "c.toml"]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: ["--photos", folder / "absent"], ["absent"]),
        (empty_folder, ["none"]),
        (unreadable, ["broken.png"]),
        (empty_sound, ["nothing.wav"]),
        (lambda folder: ["--photos", album(folder / "few", 20)], ["fewer than a batch of 32"]),
        (unknown_keys, ["colour: there is no such key", "fleet.phone: there is no such key", "fleet.alpha"]),
        (lambda folder: ["--alpha", "0", "--aggregator", "mode"], ["fleet.alpha", "no such aggregator"]),
        (foreign_run, ["another version of pocketfed"]),
        (lambda folder: ["--ray-address", "10.0.0.1:6379"], ["ray_address", "--engine ray"]),
        (lambda folder: ["--resume", folder], ["no run folder"]),
        (lambda folder: ["--resume", folder, "--rounds", 3], ["leave the other options out"]),
    ],
)
def test_bad_input_is_one_clear_message_and_exit_code_2(
    make: Callable[[Path], list[object]], expected: list[str], tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    flags = make(tmp_path)
    where = [] if "--resume" in flags else ["--out", tmp_path / "run"]
    shown = pocketfed("simulate", *where, *flags)
    assert shown.code == 2
    assert "Traceback" not in shown.err
    for text in expected:
        assert text in shown.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("option", ["--look-every", "--heartbeat"])
def test_what_is_no_number_is_refused_before_a_phone_waits_for_it(
    option: str, tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    words = ["--server", "http://127.0.0.1:1", "--captures", tmp_path, "--bundle", tmp_path]
    shown = pocketfed("phone", *words, option, "nan")
    assert (shown.code, option in shown.err, "nan is no number" in shown.err) == (2, True, True)


def test_other_rates_and_stereo_are_converted_and_a_run_is_what_scripts_rely_on(
    tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    rng = np.random.default_rng(0)
    for i, (rate, channels) in enumerate([(44_100, 2), (16_000, 1), (8_000, 1), (48_000, 2)] * 8):
        folder = tmp_path / "sounds" / ("low" if i % 2 else "high")
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{i}.wav", 0.1 * rng.standard_normal((rate // 3, channels)), rate)
    (tmp_path / "c.toml").write_text(
        "[captures]\nseconds = 0.25\n[learning]\nbatch = 8\n[fleet]\nphones = 2\n"
    )
    shown = pocketfed(
        "simulate", "--config", tmp_path / "c.toml", "--sounds", tmp_path / "sounds", "--runtime", "torch",
        "--rounds", 1, "--out", tmp_path / "run",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    assert "linear probe" in shown.out
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["round"] for record in records] == [0, 1]
    assert set(records[1]["loss"]) == {"sound"}
