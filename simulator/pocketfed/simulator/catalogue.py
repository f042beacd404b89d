"""Tables of backbones, for a terminal and as Markdown."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import rich.table
import torch
from torch.utils.flop_counter import FlopCounterMode

from pocketfed.core.backbones import build_backbone
from pocketfed.core.backbones.linear_branches import Form
from pocketfed.core.backbones.scales_file import SHIPPED, about_scales
from pocketfed.core.backbones.timm_network import PREFIX
from pocketfed.core.errors import ConfigError
from pocketfed.export.training_rewrites import training_rewrites
from pocketfed.simulator.bench.survey import Survey


@dataclass(frozen=True)
class Counts:
    """Of a backbone: its parameters, its features, and the multiply-adds of embedding one photo."""

    parameters: int
    features: int
    products: int


@dataclass(frozen=True)
class Table:
    """Cells of text under headings; the first column is names. `notes` are lines below it."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default=())

    def rich(self) -> rich.table.Table:
        """For a terminal."""
        table = rich.table.Table(caption="\n".join(self.notes) or None)
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if i else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page."""
        rows = [[f"`{name}`", *cells] for name, *cells in self.rows]
        lines = [self.headings, ["---"] * len(self.headings), *rows]
        return "\n".join(
            ["| " + " | ".join(line) + " |" for line in lines] + [f"\n{note}" for note in self.notes]
        )


def counts(name: str, side: int) -> Counts:
    """What can be counted without computing anything; convolutions and matrix products have multiply-adds.

    Raises:
        ConfigError: no backbone has this name, or it takes no photos of this side.
    """
    counter = FlopCounterMode(display=False)
    nowhere = torch.device("meta")
    # timm's builder runs the network once, which a device without numbers cannot.
    with nullcontext() if name.startswith(PREFIX) else nowhere:
        backbone, features = build_backbone(name)
    backbone.to(nowhere).eval()
    try:
        with torch.no_grad(), nowhere, counter:
            backbone(torch.empty(1, 3, side, side))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            [
                f"{name} takes no photos of {side} x {side} ({error}); choose another --side, or other backbones"
            ]
        ) from error
    parameters = sum(part.numel() for part in backbone.parameters())
    return Counts(parameters, features, counter.get_total_flops() // 2)


def rewrites(name: str) -> list[str]:
    """What becomes of a network's layers in its learning step, a line for each kind."""
    network, _ = build_backbone(name)
    return [f"{rewrite.layers}: {rewrite.becomes}" for rewrite in training_rewrites(network)]


def constants(name: str) -> list[str]:
    """How the constants of FedRepOpt's branches were found, in a line, if a network has those of the package."""
    family, _, form = name.partition("-")
    path = SHIPPED / f"{family}.safetensors"
    if form not in ("", Form.CSLA) or not path.is_file():
        return []
    about = ", ".join(f"{key} {value}" for key, value in about_scales(path).items() if key != "backbone")
    return [f"constants of a search, as pocketfed scales makes it: {about}"]


def counts_table(counted: Mapping[str, Counts], side: int) -> Table:
    """Without measurements."""
    return Table(
        ("backbone", "parameters", "features", f"M products, {side} x {side}"),
        [
            (name, f"{c.parameters:,}", str(c.features), f"{c.products / 1e6:.1f}")
            for name, c in counted.items()
        ],
    )


def survey_table(counted: Mapping[str, Counts], surveys: Mapping[str, Survey], side: int) -> Table:
    """With measurements; times are medians in milliseconds, and as a multiple of eager PyTorch's."""
    headings = (
        "backbone", "parameters", f"M products, {side} x {side}", "step ms (of eager)", "embedding ms (of eager)",
        "one photo ms (of eager)", "int8 ms (of eager)", "arena MB", "step .pte MB", "one photo .pte MB",
        "int8 .pte MB", ".mlpackage MB",
    )  # fmt: skip
    rows, notes = [], list[str]()
    for name, count in counted.items():
        found = surveys[name]
        times = (_time(found[key]) for key in ("step", "embedding", "float32", "int8"))
        sizes = (_megabytes(found[key], "program_bytes") for key in ("step", "float32", "int8", "coreml"))
        rows.append(
            (
                name, f"{count.parameters:,}", f"{count.products / 1e6:.1f}", *times,
                _megabytes(found["step"], "arena_bytes"), *sizes,
            )
        )  # fmt: skip
        reasons = {key: row["refused"] for key, row in found.items() if "refused" in row}
        notes += [f"{name} has no {key} program: {reason}" for key, reason in reasons.items()]
    return Table(headings, rows, notes)


def _time(row: Survey) -> str:
    if "refused" in row:
        return "none"
    return f"{row['executorch']['median_ms']:.3g} ({row['ratio_to_eager']:.2f})"


def _megabytes(row: Survey, key: str) -> str:
    return "none" if "refused" in row else f"{row[key] / 1e6:.2f}"
