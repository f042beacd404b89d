"""A survey of one backbone: every program is really made; only the stopwatch, which `test_bench` holds, is left out."""

from pathlib import Path

import pytest

from pocketfed.simulator.bench import survey
from pocketfed.simulator.bench.contest import Contest
from pocketfed.simulator.bench.run import Row

NETWORKS = """
from torch import nn
from pocketfed.core.backbones import register

class Tiny(nn.Module):
    def __init__(self, summed):
        super().__init__()
        self.convolution, self.summed = nn.Conv2d(3, 8, 3, 4, 1), summed

    def forward(self, x):
        x = nn.functional.silu(self.convolution(x))
        return (x.cumsum(2) if self.summed else x).mean((2, 3))

register("tiny-survey", lambda: Tiny(False), features=8)
register("summed-survey", lambda: Tiny(True), features=8)
"""


class Phases:
    """A watcher that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def expect(self, contests: int) -> None: ...

    def phase(self, text: str) -> None:
        self.said.append(text)

    def finished(self) -> None:
        self.said.append("finished")


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    (tmp_path / "survey_networks.py").write_text(NETWORKS)
    return tmp_path / "survey_networks.py"


@pytest.mark.long
def test_every_program_is_made_or_has_a_reason(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(folder: Path, contest: Contest, processes: int) -> Row:
        return {"method": contest.method, "program_bytes": (folder / contest.program).stat().st_size}

    monkeypatch.setattr(survey, "measure", measure)
    watcher = Phases()
    found = survey.survey("tiny-survey", [plugin], 4, 2, 1, watcher)
    assert list(found) == ["step", "embedding", "float32", "int8", "coreml"]
    assert all(row["program_bytes"] > 1000 for row in found.values())
    assert found["int8"]["program_bytes"] != found["float32"]["program_bytes"]
    assert watcher.said[-1] == "finished"
    refused = survey.survey("summed-survey", [plugin], 4, 2, 1, Phases())
    assert all("XNNPACK" in refused[key]["refused"] for key in ("step", "embedding", "float32"))
