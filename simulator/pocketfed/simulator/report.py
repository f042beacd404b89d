"""The page a run leaves behind: one HTML file with its plots inside, no script, nothing to fetch, no clock.

Python chooses numbers and positions, `report.html.j2` says how they look. The same arguments give the same bytes.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pocketfed.core.embedding_map import EmbeddingMap
from pocketfed.core.modality import Modality
from pocketfed.core.pages import render
from pocketfed.core.pages.chart import LARGEST, chart
from pocketfed.simulator.best import Best, best_so_far

Record = Mapping[str, Any]
"""One line of metrics.jsonl: what is known about one round. Round 0 is the untrained encoder."""

Group = tuple[Modality, str]
"""The captures of one modality and class; the class is "" where there is none."""

METRICS = {"knn": "k-NN", "probe": "linear probe"}

COLOURS, REST = tuple(f"--c{index}" for index in range(12)), "--rest"
"""Custom properties of the style sheet: for classes with a colour of their own, and for those that share one."""

UNITS = (("hours", 3600), ("minutes", 60), ("seconds", 1))
"""Of simulated time; the first of which a run has five."""

ROOM, MARGIN = (400.0, 320.0), 12.0
"""The viewBox of a map."""


@dataclass(frozen=True)
class Gain:
    """One line of the headline: shares in [0, 1], None where the run has none (yet)."""

    metric: str
    untrained: float | None
    trained: float | None
    round: int
    best: Best | None = None

    @property
    def points(self) -> float | None:
        """Gain over this seed's untrained encoder, in percentage points."""
        if self.untrained is None or self.trained is None:
            return None
        return 100 * (self.trained - self.untrained)


def write_report(
    folder: Path,
    *,
    title: str,
    summary: Mapping[str, str],
    records: Sequence[Record],
    before: EmbeddingMap | None,
    after: EmbeddingMap | None,
) -> Path:
    """Write `folder/report.html`, whole or not at all, and return its path.

    Args:
        folder: exists.
        title: of the page.
        summary: facts in the order in which they are shown; if "rounds" is a number, the page says whether the run
            has reached it.
        records: one per round; of several for the same round the last counts.
        before: the map of the untrained encoder.
        after: the map of the encoder of the last round.
    """
    history = [record for _, record in sorted({record["round"]: record for record in records}.items())]
    page = render(
        "pocketfed.simulator/report.html.j2",
        title=title,
        summary=summary,
        **figures(history),
        **maps(before, after),
    )
    path, draft = folder / "report.html", folder / f".report.{os.getpid()}.tmp"
    try:
        draft.write_bytes(page.encode("utf-8", "replace"))  # a folder's name, hence a class, need not be text
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def figures(history: Sequence[Record]) -> dict[str, Any]:
    """What the template shows of the records, which are in order of their rounds."""
    rounds = [record for record in history if record["round"] > 0]
    axis, places = across(history)
    last = max([places[record["round"]] for record in rounds], default=1.0)
    known = {(key, m): recorded(history, key, m) for key in ("loss", *METRICS) for m in Modality}
    read = {which: [(at, v) for at, v in values if abs(v) <= LARGEST] for which, values in known.items()}
    kept = best_so_far(history)
    best = {m: {key: kept.get(f"{m}-{key}") for key in METRICS} for m in Modality}
    drawn = {which: [(places[at], v) for at, v in values] for which, values in read.items()}
    present = [m for m in Modality if any(known[key, m] for key in ("loss", *METRICS))]
    return {
        "rounds": rounds,
        "undrawn": sum(len(known[which]) - len(read[which]) for which in known),
        "modalities": present,
        "headline": {
            m: lines for m in present if (lines := gains({k: read[k, m] for k in METRICS}, best[m]))
        },
        "axis": axis,
        "late": any(record.get("staleness", {}).get("max") for record in rounds),
        "losses": {m: chart({"Loss": drawn["loss", m]}, last) for m in present},
        "accuracies": {m: chart({METRICS[k]: drawn[k, m] for k in METRICS}, last) for m in present},
        "evaluated": [record for record in history if any(record.get(key) for key in METRICS)],
        "failed": [{"round": r["round"], **failure} for r in rounds for failure in r.get("failed", ())],
    }


def across(history: Sequence[Record]) -> tuple[str, dict[int, float]]:
    """What curves are drawn against, and where each round lies: simulated time if every record has one."""
    rounds = [record["round"] for record in history]
    seconds = [record.get("simulated_seconds") for record in history]
    known = [at for at in seconds if isinstance(at, int | float)]
    longest = max(known, default=0.0)
    if len(known) < len(rounds) or longest <= 0:
        return "round", dict(zip(rounds, rounds, strict=True))
    unit, one = next((unit, one) for unit, one in UNITS if longest >= 5 * one or one == 1)
    return f"simulated {unit}", {number: round(at / one, 1) for number, at in zip(rounds, known, strict=True)}


def recorded(history: Sequence[Record], key: str, modality: Modality) -> list[tuple[int, float]]:
    """(round, value) wherever a record has one, finite or not."""
    values = ((record["round"], record.get(key, {}).get(modality)) for record in history)
    return [(at, value) for at, value in values if value is not None]


def gains(curves: Mapping[str, Sequence[tuple[int, float]]], best: Mapping[str, Best | None]) -> list[Gain]:
    """Round 0 against the last evaluated round, which need not be the best, for each metric that has values."""
    lines = []
    for key, values in curves.items():
        if values:
            (first, untrained), (last, trained) = values[0], values[-1]
            before, after = None if first else untrained, trained if last else None
            lines.append(Gain(METRICS[key], before, after, last, best[key]))
    return lines


def maps(before: EmbeddingMap | None, after: EmbeddingMap | None) -> dict[str, Any]:
    """Both maps, group by group, in the same colours; groups that share a colour come first, and so lie below."""
    named = (("Untrained encoder", before), ("Trained encoder", after))
    found = {name: groups(shown) for name, shown in named if shown and shown.label}
    colours = assign_colours({group for places in found.values() for group in places})
    drawn = {name: sorted(p.items(), key=lambda item: colours[item[0]] != REST) for name, p in found.items()}
    return {"colours": colours, "maps": drawn}


def groups(found: EmbeddingMap) -> dict[Group, list[tuple[float, float]]]:
    """Where the points of each class and modality fall, with one scale for both axes."""
    low, high = found.points.min(axis=0), found.points.max(axis=0)
    scale = ((np.array(ROOM) - 2 * MARGIN) / np.maximum(high - low, 1e-9)).min()
    centred = (found.points - (low + high) / 2) * scale + np.array(ROOM) / 2  # float64 [n, 2]
    places: dict[Group, list[tuple[float, float]]] = {}
    for (x, y), modality, label in zip(centred.tolist(), found.modality, found.label, strict=True):
        places.setdefault((modality, label), []).append((x, y))
    return places


def assign_colours(groups: Collection[Group]) -> dict[Group, str]:
    """A colour for each class: its own while they last, then one that its modalities do not use yet, then REST.

    A class that is both photographed and heard has one colour; captures without a class have one per modality.
    """
    owners: dict[str, set[Modality]] = {}
    for modality, label in sorted(groups, key=lambda group: group[::-1]):
        owners.setdefault(label or f"/{modality}", set()).add(modality)  # no folder's name holds a slash
    chosen: dict[str, str] = {}
    for name, members in owners.items():
        unused = [colour for colour in COLOURS if colour not in chosen.values()]
        near = {colour for other, colour in chosen.items() if owners[other] & members}
        chosen[name] = next(iter(unused or [colour for colour in COLOURS if colour not in near]), REST)
    return {(modality, label): chosen[label or f"/{modality}"] for modality, label in sorted(groups)}
