"""A new rule is one file and one line that registers it, from outside the package."""

from pathlib import Path

import numpy as np
import pytest

from pocketfed.core.errors import ConfigError
from pocketfed.core.layout import Role
from pocketfed.server.aggregators import FedAvg, build_aggregator
from pocketfed.server.checkpoint import load_checkpoint, path_of
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.simulate import simulate
from tests.conftest import REPOSITORY, Silent
from tests.server.rule_cases import fold, random_case
from tests.simulator.test_simulate import SMALL


def plugin(folder: Path) -> Path:
    """The one that docs/aggregation.md shows."""
    page = (REPOSITORY / "docs" / "aggregation.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    path = folder / "slow.py"
    path.write_text(code)
    return path


def test_a_rule_of_ones_own(tmp_path: Path) -> None:
    """With a pace of 0 it keeps the weights to the last bit, which no other rule does."""
    values = {**SMALL, "rounds": 1, "workers": 1, "evaluate_every": 0}
    values |= {"aggregator": "slow", "plugins": [str(plugin(tmp_path))]}
    simulate(build_config({**values, "aggregation": {"pace": 0.0}}), tmp_path / "run", Silent())
    with pytest.raises(ConfigError, match=r"aggregation.pace: .* \(got 2.0\)"):
        build_config({**values, "aggregation": {"pace": 2.0}})
    rule = build_aggregator("slow")
    before, after = (load_checkpoint(path_of(tmp_path / "run" / "checkpoints", n)).weights for n in (0, 1))
    assert np.array_equal(before, after)
    begun, updates = random_case(0, [(Role.BACKBONE, 5)], 3, 1)
    mean = fold(FedAvg(), begun, updates).weights
    assert np.allclose(fold(rule, begun, updates).weights, (begun.weights + mean) / 2, atol=1e-6)


def test_too_many_updates_for_the_memory_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = build_config({**SMALL, "aggregator": "median", "aggregation": {"memory_mb": 1}})
    with pytest.raises(ConfigError, match="memory_mb: this rule keeps all updates of a round, and 3 of"):
        simulate(config, tmp_path / "run", Silent())
    assert not (tmp_path / "run").exists()
