"""Every command in the docs is run, shrunk to a size that a test can bear; every make target exists."""

import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from pocketfed.simulator.bench.run import Figures
from pocketfed.simulator.cli import main
from pocketfed.simulator.config import Config, build_config
from tests.conftest import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]


def commands() -> list[str]:
    """Lines of the fenced `sh` blocks, with continuations joined and comments dropped."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), flags=re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.strip()]
    return sorted(set(found))


def calls(name: str) -> list[str]:
    return [command for command in commands() if command.startswith(f"pocketfed {name}")]


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small folders of photos and sounds in two classes each."""
    folder = tmp_path_factory.mktemp("captures")
    rng = np.random.default_rng(0)
    for i in range(60):
        for kind in ("photos", "sounds"):
            (folder / kind / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(
            folder / "photos" / f"class{i % 2}" / f"{i}.png"
        )
        pcm = 0.1 * rng.standard_normal(16_000)
        soundfile.write(folder / "sounds" / f"class{i % 2}" / f"{i}.wav", pcm, 16_000)
    return folder


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["pocketfed", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", calls("simulate"))
def test_simulations(command: str, captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own captures in place of the reader's, one round, two phones, the eager twin."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    words = shlex.split(command)[1:]
    small = ["--rounds", "1", "--phones", "2", "--runtime", "torch", "--alpha", "1"]
    if "--resume" in words:
        begun = ["simulate", "--photos", str(captures / "photos"), *small, "--out", words[-1]]
        assert run(begun, monkeypatch) == 0
        assert run(words, monkeypatch) == 0
        return
    if "mine.py" in words:
        page = (REPOSITORY / "docs" / "simulate.md").read_text()
        (tmp_path / "mine.py").write_text(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0])
    for flag in ("photos", "sounds"):
        if f"--{flag}" in words:
            words[words.index(f"--{flag}") + 1] = str(captures / flag)
    if "--photos" not in words:
        words += ["--photos", str(captures / "photos")]
    if "ray" in words:
        pytest.importorskip("ray", reason="the extra `ray` is not installed")
    if "--ray-address" in words:  # there is no cluster here, and the command says so
        words[words.index("--ray-address") + 1] = "127.0.0.1:9"
        assert run([*words[:-2], "--out", str(tmp_path / "run")], monkeypatch) == 2
        return
    assert run([*words, *small, "--out", str(tmp_path / "run")], monkeypatch) == 0
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("command", calls("bench"))
def test_benches(command: str, captures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the stopwatch, which tests/simulator/bench holds."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(REPOSITORY / "benchmarks", tmp_path / "benchmarks")
    words = shlex.split(command)[1:]
    if "--bundle" in words:
        small = ["--rounds", "1", "--phones", "2", "--runtime", "torch", "--alpha", "1"]
        out = words[words.index("--bundle") + 1]
        assert run(["simulate", "--photos", str(captures / "photos"), *small, "--out", out], monkeypatch) == 0
    times = {"median_ms": 1.0, "p95_ms": 1.0, "resident_bytes": None}
    row = {
        "label": "step", "threads": 1, "batch": 4, "executorch": times, "eager": times, "ratio_to_eager": 1.0,
        "load_ms": 1.0, "program_bytes": 1, "arena_bytes": 1,
    }  # fmt: skip
    monkeypatch.setattr("pocketfed.simulator.bench.run.benchmark", lambda *arguments: Figures([row], []))
    assert run(words, monkeypatch) == 0
    for flag in {"--json", "--plot"} & set(words):
        assert Path(words[words.index(flag) + 1]).stat().st_size > 0


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    used = {word for command in commands() if command.startswith("make ") for word in command.split()[1:]}
    assert used
    assert used <= targets


def test_every_other_command_names_a_file_or_package_that_exists() -> None:
    for command in commands():
        if command.startswith(("pocketfed simulate", "pocketfed bench", "make ")):
            continue
        words = shlex.split(re.sub(r"^(\w+=\S+ )+", "", command))  # without settings of the environment
        known = {".venv/bin/uv", "pip", "git", ".", "python", ".venv/bin/python"}
        assert words[0] in known, command
        if words[0].endswith("python"):
            assert (REPOSITORY / words[1]).exists(), command


def test_the_defaults_in_the_docs_are_the_defaults() -> None:
    page = (REPOSITORY / "docs" / "simulate.md").read_text()
    block = re.search(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    assert block is not None
    assert build_config(tomllib.loads(block[1])) == Config()


def test_local_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", page.read_text()):
            link = target[0] or target[1]
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page.name}: {link}"
