"""The rounds of a deployed server, as its configuration asks for them."""

from pocketfed.core.layout import Layout
from pocketfed.server.aggregators import build_aggregator
from pocketfed.server.guard import Guard
from pocketfed.server.terms import Rounds, Terms
from pocketfed.simulator.config import Config
from pocketfed.simulator.plans import buffered_of, plan_of, travel_of


def rounds_of(config: Config, layout: Layout, run: str) -> Rounds:
    """What a deployed server decides.

    Args:
        config: of the run.
        layout: of the weights.
        run: its id, which phones are sent.

    Raises:
        ConfigError: the rule cannot take such rounds.
    """
    wanted = config.deployment
    return Rounds(
        layout=layout,
        aggregator=build_aggregator(config.aggregator, config.aggregation),
        plan=lambda number: plan_of(config, number, run),
        seed=config.seed,
        terms=Terms(
            participation=config.fleet.participation,
            minimum=wanted.minimum,
            over_selection=wanted.over_selection,
            deadline=wanted.deadline,
            quorum=wanted.quorum,
            attempts=wanted.attempts,
            patience=wanted.patience,
            late=wanted.late,
            in_order=False,
        ),
        guard=Guard(wanted.most_examples, wanted.furthest, most_phones=wanted.most_phones),
        buffered=buffered_of(config),
        travel=travel_of(config),
    ).fitted()
