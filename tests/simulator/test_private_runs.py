"""Whole runs with privacy: they end when the budget is spent, go on with a larger one, and never forget."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketfed.core.errors import ConfigError, RunFolderError
from pocketfed.core.hyper import Hyper
from pocketfed.core.plan import Plan
from pocketfed.server.aggregators import FedAvg, GlobalModel, build_aggregator
from pocketfed.server.buffered import run_buffered
from pocketfed.server.checkpoint import load_checkpoint, path_of
from pocketfed.server.privacy.accountant import Release, epsilon_of
from pocketfed.server.privacy.ledger import FILE, Ledger
from pocketfed.server.privacy.private_mean import CLIP
from pocketfed.server.privacy.spent import Spent
from pocketfed.server.roster import Roster
from pocketfed.server.rounds import run_rounds
from pocketfed.server.terms import Rounds, Terms
from pocketfed.server.watch.records import read_record
from pocketfed.server.watch.watcher import Everyone
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, to_toml
from pocketfed.simulator.plans import buffered_of
from pocketfed.simulator.private import protect, spent_up
from pocketfed.simulator.server_run import open_run
from pocketfed.simulator.simulate import simulate
from tests.conftest import Shown, Silent
from tests.server.scripted_grid import LAYOUT, SIZE, adds, fleet
from tests.server.test_rounds import Diary
from tests.simulator import deployed

PRIVACY: dict[str, Any] = {
    "noise_multiplier": 2.0, "clip": 0.5, "updates": 3, "epsilon": 3.2, "delta": 1e-5,
}  # fmt: skip
"""Two rounds cost 2.94, three cost 3.71."""


def private(rounds: int = 4, participation: float = 1.0, **changes: Any) -> Config:
    return build_config(
        {
            "rounds": rounds, "runtime": "torch", "workers": 1, "evaluate_every": 0,
            "captures": {"side": 16, "seconds": 0.25, "photos_limit": 60, "sounds_limit": 60},
            "fleet": {"phones": 3, "alpha": 1.0, "participation": participation},
            "learning": {"batch": 8, "learning_rate": 0.01},
            "privacy": PRIVACY | changes,
        }
    )  # fmt: skip


def records_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_simulation_stops_when_the_budget_is_spent_and_goes_on_with_a_larger_one(
    tmp_path: Path, pocketfed: Callable[..., Shown]
) -> None:
    folder = tmp_path / "run"
    rng = np.random.default_rng(0)
    photos, labels = rng.integers(0, 256, (80, 16, 16, 3), dtype=np.uint8), np.arange(80) % 2
    np.savez(
        tmp_path / "p.npz", x_train=photos[:60], y_train=labels[:60], x_test=photos[60:], y_test=labels[60:]
    )
    wanted = private(adaptive=True, count_noise=2.0).model_dump(mode="json", exclude_none=True)
    few = {**wanted, "captures": {"side": 16, "photos": str(tmp_path / "p.npz")}}
    (tmp_path / "c.toml").write_text(to_toml(build_config(few)))
    shown = pocketfed("simulate", "--config", tmp_path / "c.toml", "--out", folder)
    assert shown.code == 0
    assert "the privacy budget is spent: epsilon is 2.943" in " ".join(shown.out.split())
    assert "epsilon 2.94 of 3.2" in shown.out
    records = records_of(folder)
    assert [record["round"] for record in records] == [0, 1, 2]
    assert "privacy" not in records[0]
    assert records[1]["privacy"]["epsilon"] == epsilon_of([Release(2.0)], 1e-5)
    assert records[2]["privacy"]["epsilon"] == epsilon_of([Release(2.0)] * 2, 1e-5)
    assert "knn" in records[2], "the last round that the budget allows is judged"
    last = load_checkpoint(path_of(folder / "checkpoints", 2))
    assert records[2]["privacy"]["clip"] == last.memory[CLIP][0]
    page = (folder / "report.html").read_text()
    assert "epsilon 2.94" in page
    assert '<th scope="col">Epsilon</th>' in page

    # The last checkpoint is lost, what was spent is not: a larger budget buys one round less.
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace("epsilon = 3.2", "epsilon = 4.0"))
    path_of(folder / "checkpoints", 2).unlink()
    assert pocketfed("simulate", "--resume", folder).code == 0
    assert [number for number, _ in Ledger(folder).releases] == [1, 2, 2]
    assert [record["round"] for record in records_of(folder)] == [0, 1, 2]
    assert records_of(folder)[2]["privacy"]["epsilon"] == epsilon_of([Release(2.0)] * 3, 1e-5)
    (folder / FILE).unlink()
    shown = pocketfed("simulate", "--resume", folder)
    assert shown.code == 2
    assert "has lost privacy.jsonl" in " ".join(shown.err.split())


def small_rounds(config: Config) -> Rounds:
    terms = Terms(participation=config.fleet.participation)
    return Rounds(LAYOUT, FedAvg(), lambda number: Plan(number, 0, {}, False, Hyper()), 0, terms)


def test_noise_does_not_follow_from_the_seed_nor_does_the_cohort(tmp_path: Path) -> None:
    wanted, models, seeds = private(epsilon=50.0), [], set()
    begun = GlobalModel(np.full(SIZE, 10, np.float32))
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        rounds, numbers, watcher = protect(
            wanted, tmp_path / name, small_rounds(wanted), range(1, 3), Everyone(), print
        )
        grid = fleet(dict.fromkeys(range(3), adds(0.1)))
        models.append(run_rounds(grid, rounds, Roster(), begun, numbers, watcher))
        seeds.add(rounds.seed)
    assert not np.isclose(models[0].weights, models[1].weights).any()
    assert len(seeds) == 2


def test_a_configuration_may_have_a_server_optimiser_over_the_private_mean(tmp_path: Path) -> None:
    wanted = private(epsilon=50.0)
    values = wanted.model_dump(mode="json", exclude_none=True) | {"aggregator": "fedadam"}
    config = build_config(values)
    rule = build_aggregator(config.aggregator, config.aggregation)
    rounds = replace(small_rounds(config), aggregator=rule)
    rounds, numbers, watcher = protect(config, tmp_path, rounds, range(1, 2), Everyone(), print)
    grid, begun = fleet(dict.fromkeys(range(3), adds(0.1))), np.full(SIZE, 10, np.float32)
    model = run_rounds(grid, rounds, Roster(), GlobalModel(begun), numbers, watcher)
    assert set(model.memory) == {"FedAdam.momentum", "FedAdam.second"}
    assert 0 < np.abs(model.weights - begun).max() < 0.011 * 1.01, "Adam's first step, whatever the noise"
    with pytest.raises(ConfigError, match="privacy: LDawa looks at each update"):
        build_config(values | {"aggregation": {"over": "ldawa"}})


def test_late_answers_cannot_count(tmp_path: Path) -> None:
    """The answer to the round that is running would be left out for one: two changes in place of one."""
    values = {"privacy": PRIVACY, "deployment": {"late": "count"}}
    with pytest.raises(ConfigError, match=r"deployment\.late: .*set it to refuse"):
        build_config(values)
    assert build_config({"deployment": {"late": "count"}}).deployment.late == "count"


def test_unusable_answers_take_the_place_of_an_update(tmp_path: Path) -> None:
    wanted = private()
    rounds, _, _ = protect(wanted, tmp_path, small_rounds(wanted), range(1, 2), Everyone(), print)
    assert rounds.terms.count_refused
    assert not small_rounds(wanted).terms.count_refused


def test_a_population_counts_on_sampling_and_must_be_the_fleet(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"privacy.population: the fleet has 3 phones \(got 30\)"):
        simulate(private(population=30), tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()
    wanted = private(participation=0.5, population=3, epsilon=50.0)
    rounds, numbers, watcher = protect(wanted, tmp_path, small_rounds(wanted), range(1, 2), Everyone(), print)
    assert rounds.terms.minimum == 3, "of no fewer is the cohort a sample"
    grid = fleet(dict.fromkeys(range(3), adds(0.1)))
    run_rounds(grid, rounds, Roster(), GlobalModel(np.ones(SIZE, np.float32)), numbers, watcher)
    assert Ledger(tmp_path).releases == [(1, Release(2.0, 3, 2))]


def test_rounds_that_do_not_wait_are_charged_one_by_one_and_count_on_no_sample(tmp_path: Path) -> None:
    values = private().model_dump(mode="json", exclude_none=True)
    values["asynchronous"] = {"enabled": True, "buffer": 2, "concurrency": 3}
    wanted = build_config(values)
    rounds = replace(small_rounds(wanted), buffered=buffered_of(wanted))
    diary, told = Diary(), list[str]()
    rounds, numbers, watcher = protect(wanted, tmp_path, rounds, range(1, 9), diary, told.append)
    assert rounds.terms.count_refused
    grid = fleet(dict.fromkeys(range(5), adds(0.1)))
    run_buffered(grid, rounds, Roster(), GlobalModel(np.ones(SIZE, np.float32)), numbers, watcher)
    assert Ledger(tmp_path).releases == [(1, Release(2.0)), (2, Release(2.0))]
    assert [outcome.phones for outcome in diary.outcomes] == [2, 2]
    assert "the privacy budget is spent: epsilon is 2.943" in told[0]
    values["privacy"]["population"] = 3
    with pytest.raises(
        ConfigError, match=r"privacy\.population: rounds that do not wait ask whoever is idle.*got 3"
    ):
        build_config(values)


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(
            {
                "aggregator": "ldawa",
                "privacy": {
                    "noise_multiplier": 0, "clip": -1, "updates": 0, "delta": 0.01, "population": 1000, "noise": 3,
                },
            }
        )  # fmt: skip
    text = str(caught.value)
    for expected in (
        "privacy.noise_multiplier", "privacy.clip", "privacy.updates", "privacy.epsilon: field required",
        "privacy.population: delta must be less than 1 / population", "privacy.noise: there is no such key",
        "privacy: LDawa looks at each update in a way that clipping does not bound", "(got 'ldawa')",
    ):  # fmt: skip
        assert expected in text
    assert len(caught.value.problems) == 7
    with pytest.raises(
        ConfigError, match=r"privacy.count_noise: must be more than half the noise multiplier, 1"
    ):
        private(adaptive=True)
    with pytest.raises(
        ConfigError, match=r"privacy.epsilon: one round costs 1\.993.*raise privacy.noise_multiplier"
    ):
        simulate(private(epsilon=0.1), Path("/nowhere"), Silent())


def served(rounds: int, **changes: Any) -> Config:
    wanted = deployed.settings(rounds)
    values = {**wanted.model_dump(mode="json", exclude_none=True), "privacy": {**PRIVACY, **changes}}
    return build_config(values)


def test_a_server_stops_when_the_budget_is_spent(tmp_path: Path) -> None:
    made, state = deployed.bundle(tmp_path / "bundle", served(9)), tmp_path / "state"
    with deployed.fleet(tmp_path) as phones, deployed.Server(state, made) as server:
        for phone in phones:
            phone.start(server.url)
        weights = server.result()
        shown = server.shown
    assert [outcome.round for outcome in server.diary.outcomes] == [1, 2]
    assert server.diary.saves == [1, 2]
    assert not np.allclose(weights, deployed.expected(2), rtol=0.01)
    spent = shown.rounds[-1].privacy
    assert spent is not None
    assert spent.epsilon == epsilon_of([Release(2.0)] * 2, 1e-5)
    reason = spent_up(server.run.config, state)
    assert reason is not None
    assert reason.startswith("the privacy budget is spent: epsilon is 2.94")

    with pytest.raises(RunFolderError, match="was begun with privacy, which rounds without it would undo"):
        open_run(state, made, deployed.settings(9), None, print)
    assert open_run(state, made, served(9, epsilon=9.0), None, print).config.privacy is not None
    shutil.rmtree(state)
    with pytest.raises(ConfigError, match=r"privacy\.population: phones come and go"):
        open_run(state, made, served(9, population=10), None, print)


def test_privacy_begins_with_a_run_or_not_at_all(tmp_path: Path) -> None:
    made, state = deployed.bundle(tmp_path / "bundle", deployed.settings(1)), tmp_path / "state"
    with deployed.fleet(tmp_path) as phones, deployed.Server(state, made) as server:
        for phone in phones:
            phone.start(server.url)
        server.result()
    with pytest.raises(RunFolderError, match="has 1 rounds without privacy"):
        open_run(state, made, served(2), None, print)


def test_what_the_page_reads_of_old_records_is_checked() -> None:
    whole = {"epsilon": 1.0, "delta": 1e-5, "budget": 2.0, "clip": 0.5}
    for found, wanted in ((whole, Spent(1.0, 1e-5, 2.0, 0.5)), ({**whole, "clip": None}, None), (None, None)):
        read = read_record({"round": 1, "privacy": found})
        assert read is not None
        assert read[0].privacy == wanted
