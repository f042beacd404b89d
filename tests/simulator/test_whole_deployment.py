"""What docs/results.md and docs/benchmarks.md measure, with few phones: every process, TLS and enrolment as there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.deployment import deploy
from pocketfed.server.enrolment import enrolled
from pocketfed.simulator.config_file import build_config, overlay, read_toml
from pocketfed.simulator.run_folder import RunFolder, read_metrics
from tests.conftest import REPOSITORY


@pytest.mark.long
def test_phones_with_real_captures_learn_over_tls(real_data: Path, tmp_path: Path) -> None:
    """Four processes of `pocketfed phone`, one of `pocketfed serve`, three rounds."""
    flags = {
        "captures.photos": str(real_data / "cifar10_subset.npz"),
        "captures.sounds": str(real_data / "arabic_speech_commands10_16k.npz"),
        "captures.photos_limit": 400,
        "captures.sounds_limit": 200,
        "fleet.phones": 4,
        "rounds": 3,
        "deployment.minimum": 4,
        "deployment.over_selection": 0.0,
    }
    deploy(tmp_path, build_config(overlay(read_toml(REPOSITORY / "configs" / "cifar10-arabic.toml"), flags)))
    state = RunFolder(tmp_path / "server")
    _, *records = read_metrics(state, 3)
    assert [record["phones"] for record in records] == [4, 4, 4]
    assert [record["failures"] for record in records] == [0, 0, 0]
    for modality, loss in records[-1]["loss"].items():
        assert loss < records[0]["loss"][modality], modality
    assert len(records[-1]["loss"]) == 2
    assert [phone.edge for phone in enrolled(state.path)] == [False] * 4
    assert "Traceback" not in "".join(path.read_text() for path in tmp_path.glob("*.txt"))


@pytest.mark.long
def test_a_phone_takes_eight_requests_a_message() -> None:
    """Eight phones that answer at once, four rounds, two of which are measured; the report has its figures."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "load.py"), "--phones", "8", "--rounds", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    headline, _, *table = done.stdout.splitlines()
    found = re.match(
        r"8 phones: (?P<rounds>[\d.]+) rounds a minute, (?P<requests>[\d.]+) requests per phone and message \([^)]*\), "
        r"(?P<all>[\d.]+) per phone and round \([^)]*\); server (?P<cpu>\d+) ms CPU per phone and round, "
        r"(?P<before>\d+) MB before phones came and (?P<most>\d+) MB at most; not answered with 200: ",
        headline,
    )
    assert found is not None, headline
    assert 6 <= float(found["requests"]) <= 8
    assert 8 <= float(found["all"]) <= 12  # four rounds, a status query, registering and activation
    assert float(found["rounds"]) > 0
    assert 0 < int(found["before"]) <= int(found["most"])
    requests = {row.split("|")[1].strip() for row in table[2:]}
    assert {"pull-messages", "push-messages", "pull-object", "push-object"} <= requests
