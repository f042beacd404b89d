"""`pocketfed backbones`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def backbones(
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file that registers backbones; may be given again.")
    ] = None,
    side: Annotated[int, typer.Option(min=8, max=1024, help="Of the photo whose products are counted.")] = 32,
) -> None:
    """List the backbones: parameters, features, and the products (multiply-adds) that embedding one photo costs.

    Networks of timm (timm:NAME) are not in the list.

    Examples:

        pocketfed backbones

        pocketfed backbones --plugin mine.py --side 96
    """
    from pocketfed.core.backbones import BACKBONES
    from pocketfed.core.plugins import load_plugins

    load_plugins(plugin or [])
    table = Table()
    table.add_column("backbone")
    for column in ("parameters", "features", f"M products, {side} x {side}"):
        table.add_column(column, justify="right")
    for name in BACKBONES:
        parameters, features, products = _figures(name, side)
        table.add_row(name, f"{parameters:,}", str(features), f"{products / 1e6:.1f}")
    Console().print(table)


def _figures(name: str, side: int) -> tuple[int, int, int]:
    """Parameters, features, and multiply-adds of convolutions and matrix products; nothing is computed."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pocketfed.core.backbones import build_backbone

    with torch.device("meta"), torch.no_grad():
        backbone, features = build_backbone(name)
        counter = FlopCounterMode(display=False)
        with counter:
            backbone.eval()(torch.empty(1, 3, side, side))
    parameters = sum(part.numel() for part in backbone.parameters())
    return parameters, features, counter.get_total_flops() // 2
