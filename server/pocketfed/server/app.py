"""The server as a Flower `ServerApp`; every engine and every deployment runs this same one."""

import logging
from collections.abc import Callable, Iterable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from pocketfed.server.aggregators import GlobalModel
from pocketfed.server.buffered import run_buffered
from pocketfed.server.outcome import RoundWatcher
from pocketfed.server.roster import Roster, call_roll
from pocketfed.server.rounds import run_rounds
from pocketfed.server.terms import Rounds


def build_server_app(
    rounds: Rounds,
    model: GlobalModel,
    numbers: Iterable[int],
    roster: Roster,
    watcher: RoundWatcher,
    phones: int = 0,
    stopping: Callable[[], bool] = lambda: False,
    through: Callable[[Grid], Grid] = lambda grid: grid,
) -> ServerApp:
    """A server that runs the rounds of these numbers from `model`.

    Args:
        rounds: what the server decides.
        model: to begin with.
        numbers: of the rounds to run.
        roster: who is there.
        watcher: is told of everything; persists finished rounds.
        phones: of a fleet whose size is known: how many to wait for before the first round.
        stopping: asked between rounds and while waiting.
        through: what messages go through before the engine's grid carries them.
    """
    app = ServerApp()
    logging.getLogger("flwr").setLevel(
        logging.WARNING
    )  # Flower logs every message; the watcher says what matters

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        carrier = through(grid)
        if phones:
            call_roll(carrier, roster, phones)
        run = run_rounds if rounds.buffered is None else run_buffered
        run(carrier, rounds, roster, model, numbers, watcher, stopping)

    return app
