"""The server as a Flower `ServerApp`; every engine runs this same one."""

import logging
from collections.abc import Callable

import numpy as np
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from pocketfed.server.messages import pack_weights
from pocketfed.server.roster import call_roll
from pocketfed.server.strategy import FoldStrategy, Outcome, Rounds


def build_server_app(
    rounds: Rounds,
    weights: NDArray[np.float32],
    behind: int,
    ahead: int,
    phones: int,
    answered: Callable[[int, int, int], None],
    finished: Callable[[Outcome], None],
    patience: float = 3600.0,
) -> ServerApp:
    """A server that runs `ahead` rounds, from `weights` (float32 [p]), after `behind` finished ones.

    Args:
        rounds: what the server decides.
        weights: to begin with.
        behind: rounds already finished.
        ahead: rounds to run.
        phones: how many to wait for.
        answered: called with (round, answers so far, cohort) after each answer.
        finished: called with each finished round.
        patience: seconds that a round waits for its phones.
    """
    app = ServerApp()
    logging.getLogger("flwr").setLevel(logging.WARNING)  # Flower logs every round; the caller shows progress

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        roster = call_roll(grid, phones)
        strategy = FoldStrategy(rounds, roster, behind, answered, finished)
        strategy.start(grid, pack_weights(weights), num_rounds=ahead, timeout=patience)

    return app
