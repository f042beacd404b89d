"""What a server shows to the network: Flower's Fleet API for phones and edges, the bundle, the page, metrics and health."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from pocketfed.core.bundle import Bundle
from pocketfed.core.layout import Layout
from pocketfed.core.wire import ENVELOPE
from pocketfed.server.aggregators import Aggregator, fold_bytes
from pocketfed.server.flower_private import Fleet
from pocketfed.server.offering import FILES, bundle_routes
from pocketfed.server.turns import Turns
from pocketfed.server.watch.bounded_body import BoundedBody
from pocketfed.server.watch.metrics import Metrics
from pocketfed.server.watch.request_times import RequestTimes
from pocketfed.server.watch.routes import watch_routes
from pocketfed.server.watch.scoreboard import Scoreboard

UPLOAD = "/v1/fleet/push-object"
"""The call whose body carries weights; those of all others are small."""

LARGE = ("/v1/fleet/pull-object", UPLOAD)
"""Calls that carry weights, one way or the other."""


def largest_answer(rule: Aggregator[Any], layout: Layout) -> int:
    """Bytes of the largest honest answer: a phone's float32 weights, or an edge's float64 sums where the rule has any."""
    return ENVELOPE + max(4 * layout.size, fold_bytes(rule, layout))


def application(
    fleet: Fleet,
    largest: int,
    enrolled_only: bool,
    page_token: str | None,
    metrics: Metrics,
    scoreboard: Scoreboard,
    bundle: Bundle,
) -> FastAPI:
    """All of it as one application.

    Args:
        fleet: the phones' side.
        largest: see `largest_answer`.
        enrolled_only: whether phones need a key that was registered before.
        page_token: opens the page and the metrics; None leaves them open.
        metrics, scoreboard: what they show.
        bundle: that phones may fetch, whoever they are.
    """
    # Turns and room are for those who may take part; what has no turn yet is not read.
    bounds = [
        Middleware(Turns, paths=LARGE),
        Middleware(BoundedBody, most=ENVELOPE, large={UPLOAD: 2 * largest}),
    ]
    app = fleet.app(enrolled_only, bounds)
    app.router.routes.extend(watch_routes(scoreboard, metrics, page_token))
    app.router.routes.extend(bundle_routes(bundle))
    # Of their own: a new release must not hold up rounds. Files are for everybody, and read piece by piece.
    app.add_middleware(Turns, paths=(FILES,), longest=1.0)
    app.add_middleware(RequestTimes, metrics=metrics)
    return app
