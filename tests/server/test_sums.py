"""Sums of real networks: groups of updates that wait, and blocks of weights, each also with some left over."""

import math
from typing import Any

import numpy as np
import pytest

from pocketfed.core.modality import Modality
from pocketfed.core.plan import Update
from pocketfed.server.aggregators import Broadcast, FedAvg, FedVssl
from pocketfed.server.aggregators.aggregator import BLOCK
from pocketfed.server.aggregators.sums import GROUP
from tests.server.rule_cases import Oracle, backbone, fold


@pytest.mark.parametrize("size", [BLOCK, 2 * BLOCK + 3])
@pytest.mark.parametrize("phones", [GROUP, GROUP + 1, 2 * GROUP + 8])
@pytest.mark.parametrize(("name", "rule"), [("fedavg", FedAvg()), ("fedvssl", FedVssl())])
def test_whole_groups_and_blocks_and_what_is_left_over_equal_the_formula(
    name: str, rule: Any, phones: int, size: int
) -> None:
    rng = np.random.default_rng(phones)
    begun = Broadcast(rng.standard_normal(size, np.float32), backbone(BLOCK - 5, size - BLOCK + 5), 2)
    updates = []
    for k in range(phones):
        examples, loss = int(rng.integers(1, 500)), float(rng.uniform(0, 4))
        weights = begun.weights + rng.standard_normal(size, np.float32)
        told = {Modality.PHOTO: examples}, {Modality.PHOTO: loss}
        updates.append(Update(weights, examples, *told, discount=math.sqrt(1 / (1 + k % 3))))
    largest = max(float(np.abs(update.weights).max()) for update in updates)
    expected = Oracle(name)(begun, updates)
    np.testing.assert_allclose(fold(rule, begun, updates).weights, expected, rtol=0, atol=1e-6 * largest)
