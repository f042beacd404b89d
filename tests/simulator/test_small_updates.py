"""Simulations in which a part of the model travels, in few bytes, blended: bytes, heads, and resuming to the last bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file

from pocketfed.core.formats import Format, packed_size
from pocketfed.core.layout import Layout, Role
from pocketfed.core.modality import Modality
from pocketfed.server.checkpoint import load_checkpoint, path_of
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.program import task_of
from pocketfed.simulator.run_folder import Record
from pocketfed.simulator.simulate import simulate
from tests.conftest import Silent

ROUNDS = 3
BACKBONE = (Role.BACKBONE,)


def small(**changes: Any) -> Config:
    return build_config(
        {
            "rounds": ROUNDS,
            "runtime": "torch",
            "evaluate_every": 0,
            "workers": 2,
            "captures": {"side": 16, "seconds": 0.25, "photos_limit": 40, "sounds_limit": 40},
            "fleet": {"phones": 4, "alpha": 1.0, "participation": 0.75},
            "learning": {"batch": 8, "learning_rate": 0.01, "blend": "fedema"},
            "exchange": {"travels": ["backbone"], "update_format": "int8", "download_format": "float16"},
            **changes,
        }
    )


def weights_of(folder: Path, number: int) -> NDArray[np.float32]:
    return load_checkpoint(path_of(folder / "checkpoints", number)).weights


@pytest.fixture(scope="module")
def layout() -> Layout:
    return task_of(small(), list(Modality)).layout


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in which each round asks some phones and not all."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    simulate(small(), folder, Silent())
    return folder


def test_bytes_fall_as_promised_and_the_servers_head_stays(finished: Path, layout: Layout) -> None:
    part = layout.part(BACKBONE)
    records = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for record in records[1:]:
        phones = record["phones"]
        assert (record["failures"], phones) == (0, 3)
        assert record["bytes_up"] == phones * packed_size(part, Format.INT8)
        assert record["bytes_down"] == phones * 2 * part.size
        assert record["bytes_up"] < phones * 4 * layout.size / 4
    first, last = (weights_of(finished, number) for number in (0, ROUNDS))
    assert np.array_equal(layout.gather(first, [Role.PROJECTOR]), layout.gather(last, [Role.PROJECTOR]))
    assert not np.array_equal(layout.gather(first, BACKBONE), layout.gather(last, BACKBONE))


def test_each_phone_has_a_head_of_its_own_and_at_most_two_files(finished: Path, layout: Layout) -> None:
    heads = []
    for folder in sorted((finished / "phones").iterdir()):
        files = sorted(folder.iterdir())
        assert 1 <= len(files) <= 2
        with safe_open(files[-1], framework="numpy") as file:
            assert file.metadata()["run"].endswith((finished / "run-id").read_text().strip())
        kept = load_file(files[-1])
        assert set(kept) == {"stayed", "own", "distance", "rate", "residual"}
        assert kept["stayed"].shape == (layout.part([Role.PROJECTOR]).size,)
        heads.append(kept["stayed"])
    assert len(heads) >= 2
    for i, head in enumerate(heads):
        assert not np.array_equal(head, layout.gather(weights_of(finished, 0), [Role.PROJECTOR]))
        for other in heads[:i]:
            assert not np.array_equal(head, other)


class Stop(Exception):
    """The run ends here."""


class Stopped(Silent):
    """Ends a run when round 2 is over."""

    def finished(self, record: Record) -> None:
        if record["round"] == 2:
            raise Stop


@pytest.mark.long
def test_a_run_that_was_stopped_when_phones_had_answered_ends_the_same(
    finished: Path, tmp_path: Path
) -> None:
    """What they remember is ahead of the server's last checkpoint: the round is repeated."""
    run = tmp_path / "run"
    with pytest.raises(Stop):
        simulate(small(), run, Stopped())
    path_of(run / "checkpoints", 2).unlink()
    simulate(small(), run, Silent(), resume=True)
    for number in range(ROUNDS + 1):
        assert np.array_equal(weights_of(run, number), weights_of(finished, number))
