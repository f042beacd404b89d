"""The live page: a pure function of a snapshot. `page.html.j2` says how it looks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pocketfed.core.modality import Modality
from pocketfed.core.pages import render
from pocketfed.core.pages.chart import LARGEST, Chart, chart
from pocketfed.server.outcome import Kind
from pocketfed.server.watch.bars import stack
from pocketfed.server.watch.expiry import warning_of
from pocketfed.server.watch.records import bundle_counts
from pocketfed.server.watch.snapshot import RoundLine, Snapshot, Stage

EVERY = 5
"""Seconds between two refreshes."""

TABLE = 50
"""Rounds in the table; the plots show more."""

WHY = {
    Kind.DECLINED: "the phone's policy said no",
    Kind.FAILED: "the phone reported an error",
    Kind.REFUSED: "the guard refused what it sent",
    Kind.SILENT: "no answer by the deadline",
    Kind.LATE: "it answered a round that was over",
}


@dataclass(frozen=True)
class StateLine:
    """What the server is doing, in one line.

    Attributes:
        text: for a person.
        tone: `busy`, `idle`, `good` or `bad`; the colour.
        share: of the phones that are awaited, in [0, 1]; None where nobody is.
    """

    text: str
    tone: str
    share: float | None = None


def live_page(shown: Snapshot, now: datetime, refreshes: bool = True) -> str:
    """The page as HTML at this time, with a time zone; it asks the browser to come again unless `refreshes` is false."""
    first = shown.rounds[0].round - 1 if shown.rounds else 0
    last = shown.rounds[-1].round if shown.rounds else 1
    return render(
        "pocketfed.server.watch/page.html.j2",
        shown=shown,
        now=now.strftime("%Y-%m-%d %H:%M:%S UTC"),
        every=EVERY if refreshes else None,
        state=state_line(shown),
        certificate=warning_of(shown.certificate_until, now),
        modalities=[m for m in Modality if any(m in line.loss for line in shown.rounds)],
        losses=loss_charts(shown.rounds, first, last),
        bars=stack(shown.rounds),
        recent=list(reversed(shown.rounds[-TABLE:])),
        sorts=phone_sorts(shown),
        bundles=bundle_counts,
        kinds=[(kind, count, WHY[kind]) for kind in Kind if (count := shown.totals.failures.get(kind, 0))],
    )


def refused_page() -> str:
    """What somebody without the token sees."""
    return render("pocketfed.server.watch/refused.html.j2")


def state_line(shown: Snapshot) -> StateLine:
    """What the server is doing."""
    of = f" of {shown.planned}" if shown.planned else ""
    again = f", attempt {shown.attempt + 1}" if shown.attempt else ""
    match shown.stage:
        case Stage.STARTING:
            return StateLine("Starting", "idle")
        case Stage.WAITING:
            share = min(1.0, shown.present / shown.needed) if shown.needed else None
            return StateLine(f"Waiting for phones: {shown.present} of {shown.needed}", "idle", share)
        case Stage.COLLECTING:
            left = "" if shown.left is None else f"; waits {spoken(shown.left)} more at most"
            return StateLine(
                f"Round {shown.round}{of}{again}: {shown.done} of {shown.cohort} answered{left}",
                "busy",
                shown.done / shown.cohort if shown.cohort else None,
            )
        case Stage.SAVING:
            return StateLine(f"Round {shown.round}{of}: saving", "busy")
        case Stage.CHOOSING:
            return StateLine(f"Choosing phones; the last round was {shown.round}{of}", "busy")
        case Stage.UPSTREAM if shown.upstream:
            return StateLine(f"Trying to reach the server above: {shown.upstream}", "idle")
        case Stage.UPSTREAM:
            last = f"; the last was {shown.round}" if shown.round else ""
            return StateLine(f"Waiting for a round of the server above{last}", "idle")
        case Stage.FINISHED:
            return StateLine(f"Finished: {shown.round} rounds", "good")


def spoken(seconds: float) -> str:
    """A duration as a person says it, to the second below two minutes."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"


def loss_charts(rounds: Sequence[RoundLine], first: int, last: int) -> dict[Modality, Chart]:
    """One chart for each modality that was heard of, over the rounds that are remembered."""
    found = {}
    for modality in Modality:
        values = [(line.round, line.loss[modality]) for line in rounds if modality in line.loss]
        drawn = chart({"Loss": [(at, v) for at, v in values if abs(v) <= LARGEST]}, last, first)
        if drawn is not None:
            found[modality] = drawn
    return found


def phone_sorts(shown: Snapshot) -> list[dict[str, Any]]:
    """How many phones there are of each sort, with their share of the largest sort for a bar."""
    phones = shown.phones
    sorts = (
        ("seen", phones.seen, "have ever come"),
        ("online", phones.online, "are there now"),
        ("eligible", phones.eligible, "may be asked"),
        ("chosen", phones.chosen, "were asked in this round"),
        ("benched", phones.benched, "are left out for what they did"),
    )
    most = max((count for _, count, _ in sorts if count), default=0)
    return [
        {"name": name, "count": count, "what": what, "share": (count or 0) / most if most else 0.0}
        for name, count, what in sorts
        if count is not None
    ]
