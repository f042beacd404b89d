"""The guard before folds of edge servers: nothing that an edge sends may stop a run, or move it further than phones could.

Let an honest edge have K phones whose updates w_k passed the guard, |w_k - g| <= d |g|, and a rule whose factors f_k
lie between a and b, for each sum its own. A sum is T = sum_k f_k w_k, with weights W between K a and K b, and

    |T - W g| <= (d + 1) M |g|        M = W where no factor is negative, else K max(|a|, |b|)

for the whole vector where all slices have the same M, else slice by slice. (The rules whose weights are sums of the
factors keep this with d; L-DAWA as published, whose weights are counts, moves a layer by sqrt(d^2 + 1) |g| at most.)
An edge that says anything else is refused. What is left to it is what its phones together could have done.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketfed.core.bundle_id import is_bundle_id
from pocketfed.core.errors import UpdateRejected
from pocketfed.core.part import Part
from pocketfed.server.aggregators import Aggregator, Broadcast, Sums, factors_of, identity
from pocketfed.server.guard import Guard
from pocketfed.server.outcome import Kind

SLACK = 1 + 1e-9
"""For the rounding of sums in float64."""


def check_part(part: Part, begun: Broadcast, rule: Aggregator[Any], guard: Guard) -> Sums:
    """What an edge server folded, as a state of the rule.

    Args:
        part: what it sent.
        begun: what the round that is running began with.
        rule: of this server.
        guard: bounds on updates, and on how many a part may have.

    Raises:
        UpdateRejected: rule, round, layout, shape, a number that is not finite, or a bound; the message says which.
    """
    empty = rule.start(begun)
    if not isinstance(empty, Sums):
        raise UpdateRejected("this server's rule is no sum, to which a fold could be added")
    if part.rule != identity(rule):
        raise UpdateRejected(
            f"the edge folds by {part.rule[:100]!r}, this server by {identity(rule)[:100]!r}; give both one --config"
        )
    if part.round != begun.round:
        raise UpdateRejected(f"the fold belongs to round {part.round}, this is round {begun.round}")
    if part.layout != begun.layout.digest:
        raise UpdateRejected(f"sums have the layout {part.layout[:12]!r}, not this run's")
    _check_counts(part, guard)
    for name, got, expected in (
        ("total", part.total, empty.total),
        ("weight", part.weight, empty.weight),
    ):
        if got.dtype != np.float64 or got.shape != expected.shape:
            raise UpdateRejected(
                f"{name} is {got.dtype} {list(got.shape)}, expected float64 {list(expected.shape)}"
            )
        if not np.isfinite(got).all():
            raise UpdateRejected(f"{name} is not finite")
    bounds = factors_of(rule, begun, guard.most_examples)
    for total, weight, (least, most) in zip(part.total, part.weight, bounds, strict=True):
        low, high = least * part.updates, most * part.updates
        if not _within(weight, low, high):
            raise UpdateRejected(
                f"weights from {weight.min():g} to {weight.max():g}, expected {low:g} to {high:g} for {part.updates} "
                "updates"
            )
        mass = np.full_like(weight, max(-low, high)) if least < 0 else weight
        _check_distance(total, weight, mass, begun, guard.furthest + 1)
    return Sums(begun, part.total, part.weight, part.updates)


def _check_counts(part: Part, guard: Guard) -> None:
    if not 1 <= part.updates <= guard.most_phones:
        raise UpdateRejected(f"a fold of {part.updates} updates, expected 1 to {guard.most_phones}")
    guard.check_losses(part.loss)
    for modality, seen in part.seen.items():
        if not 0 <= seen <= part.updates * guard.most_examples:
            raise UpdateRejected(f"{seen} {modality}s in {part.updates} updates")
    for kind, count in part.failures.items():
        if kind not in list(Kind) or not 0 <= count <= guard.most_phones:
            raise UpdateRejected(f"{count} failures of the kind {kind[:40]!r}")
    for bundle, count in part.bundles.items():
        if not is_bundle_id(bundle) or not 0 <= count <= part.updates:
            raise UpdateRejected(f"{count} of {part.updates} updates with the bundle {bundle[:64]!r}")


def _within(values: NDArray[np.float64], low: float, high: float) -> bool:
    room = (SLACK - 1) * max(abs(low), abs(high))
    return bool(((values >= low - room) & (values <= high + room)).all())


def _check_distance(
    total: NDArray[np.float64],
    weight: NDArray[np.float64],
    mass: NDArray[np.float64],
    begun: Broadcast,
    furthest: float,
) -> None:
    """See the module's docstring; `total` is [p], `weight` and `mass` are [slices]."""
    squares = np.zeros(len(weight))
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is too far
        for i, part in enumerate(begun.layout.slices):
            span = slice(part.offset, part.offset + part.size)
            far = total[span] - weight[i] * begun.weights[span].astype(np.float64)
            squares[i] = far @ far
        whole = bool((mass == mass[0]).all())
        moved = np.sqrt(squares.sum(keepdims=True) if whole else squares)
        allowed = SLACK * furthest * begun.norm * (mass[:1] if whole else mass)
    if not (moved <= allowed).all():  # also where it is no number
        raise UpdateRejected(
            f"sums are {moved.max():.3g} from the weights that the round began with, whose norm is {begun.norm:.3g}: "
            f"more than {furthest:g} times that for each update"
        )
