"""The page a run leaves behind: one HTML file with its plots inside, no script, nothing to fetch, no clock.

Python chooses numbers and positions, `report.html.j2` says how they look. The same arguments give the same bytes.
"""

import math
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined

from pocketfed.core.embedding_map import EmbeddingMap
from pocketfed.core.modality import Modality

Record = Mapping[str, Any]
"""One line of metrics.jsonl: what is known about one round. Round 0 is the untrained encoder."""

METRICS = {"knn": "k-NN", "probe": "linear probe"}

COLOURS = 12
"""Classes with a colour of their own, --c0 to --c11 in the style sheet; the others share --rest."""

FRAME = (44.0, 388.0, 12.0, 188.0)
"""Left, right, top and bottom of the plotting area, in a viewBox of 400 x 230."""

WIDTH, HEIGHT, MARGIN = 400.0, 320.0, 12.0
"""Of the viewBox of a map."""

PAGES = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True)
class Gain:
    """One line of the headline: shares in [0, 1], None where the run has none (yet)."""

    metric: str
    untrained: float | None
    trained: float | None
    round: int

    @property
    def points(self) -> float | None:
        """Gain over this seed's untrained encoder, in percentage points."""
        return (
            None if self.untrained is None or self.trained is None else 100 * (self.trained - self.untrained)
        )


@dataclass(frozen=True)
class Chart:
    """Curves of (round, value) in one frame, rounds from 0 to `last`, values between the outer ticks."""

    curves: Mapping[str, Sequence[tuple[int, float]]]
    last: int
    across: tuple[float, ...]
    upwards: tuple[float, ...]

    def x(self, at: float) -> float:
        """Where a round lies."""
        return FRAME[0] + (FRAME[1] - FRAME[0]) * at / self.last

    def y(self, value: float) -> float:
        """Where a value lies."""
        low, high = self.upwards[0], self.upwards[-1]
        return FRAME[3] - (FRAME[3] - FRAME[2]) * (value - low) / (high - low)

    def digits(self, factor: float) -> int:
        """Decimals that tell the ticks apart once they are multiplied by `factor`."""
        return max(0, -math.floor(math.log10(factor * (self.upwards[1] - self.upwards[0])) + 1e-9))


@dataclass(frozen=True)
class Group:
    """The points of one class and modality as one SVG path; `colour` is the name of a custom property."""

    modality: Modality
    label: str
    colour: str
    count: int
    path: str


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
    found = {int(record["round"]): record for record in records}
    history = [found[at] for at in sorted(found)]
    template = files(__package__).joinpath("report.html.j2").read_text("utf-8")
    page = PAGES.from_string(template).render(
        title=title, summary=summary, **figures(history), **maps(before, after)
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
    last = max((record["round"] for record in rounds), default=1)
    read = {(key, m): curve(history, key, m) for key in ("loss", *METRICS) for m in Modality}
    present = [m for m in Modality if any(read[key, m] for key in ("loss", *METRICS))]
    return {
        "rounds": rounds,
        "modalities": present,
        "headline": {m: lines for m in present if (lines := gains({k: read[k, m] for k in METRICS}))},
        "losses": {m: chart({"Loss": read["loss", m]}, last) for m in present},
        "accuracies": {m: chart({METRICS[k]: read[k, m] for k in METRICS}, last) for m in present},
        "evaluated": [record for record in history if any(record.get(key) for key in METRICS)],
        "failed": [{"round": r["round"], **failure} for r in rounds for failure in r.get("failed", ())],
    }


def curve(history: Sequence[Record], key: str, modality: Modality) -> list[tuple[int, float]]:
    """(round, value) wherever a record has a finite one."""
    values = ((record["round"], record.get(key, {}).get(modality)) for record in history)
    return [(at, value) for at, value in values if value is not None and math.isfinite(value)]


def gains(curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[Gain]:
    """Round 0 against the last evaluated round, which need not be the best, for each metric that has values."""
    lines = []
    for key, values in curves.items():
        if values:
            (first, untrained), (last, trained) = values[0], values[-1]
            lines.append(Gain(METRICS[key], None if first else untrained, trained if last else None, last))
    return lines


def chart(curves: Mapping[str, Sequence[tuple[int, float]]], last: int) -> Chart | None:
    """The curves that have values, in a frame around all of them; None if there are none."""
    present = {name: values for name, values in curves.items() if values}
    values = [value for points in present.values() for _, value in points]
    if not values:
        return None
    across = tuple(at for at in ticks(0, last, least=1) if at <= last)
    return Chart(present, last, across, ticks(min(values), max(values)))


def ticks(low: float, high: float, least: float = 0.005) -> tuple[float, ...]:
    """Two to seven multiples of 1, 2 or 5 times a power of ten, at least `least` apart, from <= low to >= high."""
    gap = max((high - low) / 4, least, abs(high) * 1e-3)
    power = 10.0 ** math.floor(math.log10(gap) + 1e-9)
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= gap * (1 - 1e-9))
    first, final = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(index * step for index in range(first, max(final, first + 1) + 1))


def maps(before: EmbeddingMap | None, after: EmbeddingMap | None) -> dict[str, Any]:
    """Both maps in the same colours, and the legend they share."""
    present = {n: m for n, m in (("Untrained encoder", before), ("Trained encoder", after)) if m and m.label}
    colours = assign_colours(
        {pair for m in present.values() for pair in zip(m.label, m.modality, strict=True)}
    )
    drawn = {name: groups(found, colours) for name, found in present.items()}
    legend = {(group.modality, group.label): group for found in drawn.values() for group in found}
    return {"maps": drawn, "legend": [legend[key] for key in sorted(legend)]}


def assign_colours(pairs: Collection[tuple[str, Modality]]) -> dict[tuple[str, Modality], str]:
    """A colour for each class: its own while they last, then one that its modalities do not use yet, then --rest.

    A class that exists as a photo and as a sound has one colour; captures without a class get one per modality.
    """
    members: dict[str, set[Modality]] = {}
    for label, modality in sorted(pairs):
        members.setdefault(label or f"/{modality}", set()).add(modality)  # no folder's name holds a slash
    chosen: dict[str, str] = {}
    palette = [f"--c{index}" for index in range(COLOURS)]
    for name, owners in members.items():
        taken = {colour for other, colour in chosen.items() if members[other] & owners}
        unused = [colour for colour in palette if colour not in chosen.values()]
        chosen[name] = next(iter(unused or [colour for colour in palette if colour not in taken]), "--rest")
    return {(label, modality): chosen[label or f"/{modality}"] for label, modality in pairs}


def groups(found: EmbeddingMap, colours: Mapping[tuple[str, Modality], str]) -> list[Group]:
    """One path per class and modality, those without a colour of their own first: photos as dots, sounds as triangles."""
    low, high = found.points.min(axis=0), found.points.max(axis=0)
    box = np.array([WIDTH, HEIGHT]) - 2 * MARGIN
    scale = (box / np.maximum(high - low, 1e-9)).min()  # one for both axes
    places = (found.points - (low + high) / 2) * scale + box / 2 + MARGIN  # float64 [n, 2]
    paths: dict[tuple[str, Modality], list[str]] = {}
    for (x, y), label, modality in zip(places.tolist(), found.label, found.modality, strict=True):
        mark = (
            f"M{x:.1f} {y:.1f}h.01" if modality is Modality.PHOTO else f"M{x:.1f} {y - 4:.1f}l3.6 6.2h-7.2z"
        )
        paths.setdefault((label, modality), []).append(mark)
    drawn = [
        Group(key[1], key[0], colours[key], len(marks), "".join(marks))
        for key, marks in sorted(paths.items())
    ]
    return sorted(drawn, key=lambda group: group.colour != "--rest")
