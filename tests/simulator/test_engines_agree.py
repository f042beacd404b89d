"""One seed and one plan give the same global weights in every engine and in a deployment over loopback.

tests/simulator/test_flower_app.py has the deployment that is a stock Flower app.
"""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketfed.core.formats import Format
from pocketfed.server.checkpoint import load_checkpoint, path_of
from pocketfed.server.terms import Rounds
from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.scoreboard import Scoreboard
from pocketfed.server.watch.watcher import Everyone
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, to_toml
from pocketfed.simulator.deployment import Place, serve
from pocketfed.simulator.server_run import Run, open_run
from pocketfed.simulator.simulate import simulate
from tests.conftest import Silent
from tests.simulator.capture_folders import make_captures, write_captures
from tests.simulator.live_phone import live_phone

ROUNDS = 3

KINDS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "mixed, L-DAWA": {
        "aggregator": "ldawa",
        "learning": {"batch": 8, "learning_rate": 0.01, "mode": "mixed"},
    },
    "int8, backbone only, FedEMA": {
        "exchange": {"travels": ["backbone"], "update_format": "int8", "download_format": "float16"},
        "learning": {"batch": 8, "learning_rate": 0.01, "blend": "fedema"},
    },
}


def small(captures: dict[str, str], **changes: Any) -> Config:
    """Three phones: one holds photos, one sounds, one both."""
    return build_config(
        {
            "rounds": ROUNDS,
            "seed": 7,
            "evaluate_every": 0,
            "captures": {"side": 16, "seconds": 0.25, **captures},
            "fleet": {"phones": 3, "alpha": 1.0, "photos_only": 0.34, "sounds_only": 0.33},
            "learning": {"batch": 8, "learning_rate": 0.01},
            "deployment": {
                "minimum": 3,
                "over_selection": 0.0,
                "deadline": 60.0,
                "attempts": 1,
                "quorum": 1.0,
                "patience": 60.0,
            },
            **changes,
        }
    )


def weights_of(folder: Path) -> list[NDArray[np.float32]]:
    """After each round, from 0."""
    return [load_checkpoint(path_of(folder / "checkpoints", number)).weights for number in range(ROUNDS + 1)]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(kind, marks=[pytest.mark.long] if kind.startswith("mixed") else []) for kind in KINDS
    ],
)
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """What every engine runs."""
    return small(make_captures(tmp_path_factory.mktemp("captures")), **KINDS[request.param])


@pytest.fixture(scope="module")
def simulated(config: Config, tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[np.float32]]:
    """Weights after each round of the default engine."""
    folder = tmp_path_factory.mktemp("runs") / "inprocess"
    simulate(config, folder, Silent())
    return weights_of(folder)


def deployed(config: Config, folder: Path) -> list[NDArray[np.float32]]:
    """Weights after each round of a server and phones that speak over loopback."""
    captures = write_captures(config, folder / "captures")
    (folder / "config.toml").write_text(to_toml(config))
    run = open_run(folder / "server", folder / "config.toml", None, None, lambda text: None)
    with ExitStack() as stack:

        def begin(url: str) -> None:
            for number, held in enumerate(captures):
                home = folder / f"phone-{number}"
                stack.enter_context(live_phone(url, number, run.bundle, held, home, ROUNDS))

        here = Place("127.0.0.1", 0, None, enrolled_only=False)
        serve(run, here, Everyone(), Metrics(), Scoreboard(), begin, stopping=lambda: False)
    return weights_of(folder / "server")


def check_the_same(ours: list[NDArray[np.float32]], theirs: list[NDArray[np.float32]]) -> None:
    """After every round; and each round has changed them, or this would say nothing."""
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        apart = np.linalg.norm(mine.astype(np.float64) - other)
        assert apart <= 1e-6 * np.linalg.norm(other), f"round {number}"
        if number:
            assert np.abs(mine - ours[number - 1]).max() > 1e-4 * np.abs(mine).max()


as_decided = Run.rounds


def in_order(run: Run) -> Rounds:
    """As a server decides, but folding in the order of phone numbers, so that sums are the same to the last bit."""
    decided = as_decided(run)
    return dataclasses.replace(decided, terms=dataclasses.replace(decided.terms, in_order=True))


def test_a_deployment_gives_the_weights_of_a_simulation(
    config: Config,
    simulated: list[NDArray[np.float32]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the last bit where updates are rounded, which turns the smallest difference into one of a level."""
    rounded = config.exchange.update_format is Format.INT8
    if rounded:
        monkeypatch.setattr(Run, "rounds", in_order)
    there = deployed(config, tmp_path)
    check_the_same(there, simulated)
    for mine, other in zip(there, simulated, strict=True):
        assert not rounded or np.array_equal(mine, other)


@pytest.mark.long
def test_ray_gives_the_weights_of_the_inprocess_engine(
    config: Config, simulated: list[NDArray[np.float32]], tmp_path: Path
) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    if config != small({}).model_copy(update={"captures": config.captures}):
        pytest.skip("one kind is enough: this engine differs in transport only")
    simulate(config.model_copy(update={"engine": "ray"}), tmp_path / "ray", Silent())
    check_the_same(weights_of(tmp_path / "ray"), simulated)
