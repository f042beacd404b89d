"""`pocketfed scales`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from pocketfed.simulator.terminal import Terminal


def scales(
    backbone: Annotated[
        str | None, typer.Option(help="Network whose constants are searched: repvgg, ghost, ...")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="File for the constants.", dir_okay=False)] = Path(
        "scales.safetensors"
    ),
    config: Annotated[
        Path | None, typer.Option(help="TOML file; its fleet does not count, the other options go over it.")
    ] = None,
    photos: Annotated[Path | None, typer.Option(help="Folder or .npz to search on.")] = None,
    sounds: Annotated[Path | None, typer.Option(help="Folder or .npz to search on.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Passes over the captures. \\[default: 10]")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, augmentation and order. \\[default: 0]")
    ] = None,
    plugin: Annotated[
        list[Path] | None, typer.Option(help="Python file that registers backbones; may be given again.")
    ] = None,
    runtime: Annotated[str, typer.Option(help="torch, or executorch as a phone has it.")] = "torch",
    run: Annotated[
        Path | None, typer.Option(help="New folder of the search. \\[default: runs/<time>]")
    ] = None,
    finished: Annotated[
        Path | None, typer.Option("--from", help="Take the constants of this search, and train nothing.")
    ] = None,
) -> None:
    """Search the constants of FedRepOpt's branches on a proxy set, in one place, and keep them in a small file.

    The form of the network with trained scales (NAME-hs) learns from the captures, or from those that the package makes
    itself; the scales that it ends with are the constants with which NAME and NAME-csla learn in a federation.

    Examples:

        pocketfed scales --backbone repvgg -o repvgg.safetensors

        pocketfed scales --backbone ghost --photos album/ --rounds 30 --run runs/ghost-search -o ghost.safetensors

        pocketfed scales --from runs/ghost-search -o ghost.safetensors
    """
    console = Terminal()
    with console.status("starting"):
        from pocketfed.core.backbones.scales_file import write_scales
        from pocketfed.core.errors import ConfigError
        from pocketfed.simulator import run_folder
        from pocketfed.simulator.config_file import read_toml
        from pocketfed.simulator.display import Display
        from pocketfed.simulator.outputs import make_room
        from pocketfed.simulator.scales import found_scales, search_config
        from pocketfed.simulator.simulate import simulate

    if (backbone is None) == (finished is None):
        raise ConfigError(["give --backbone NAME to search, or --from RUN to take what a search has found"])
    make_room(out, "--out")
    path = finished or run or run_folder.default_path()
    if backbone is not None:
        flags = {
            "captures.photos": photos and str(photos.resolve()),
            "captures.sounds": sounds and str(sounds.resolve()),
            "rounds": rounds,
            "seed": seed,
            "plugins": [str(file.resolve()) for file in plugin] if plugin else None,
            "runtime": runtime,
        }
        settings = search_config({} if config is None else read_toml(config), backbone, flags)
        with Display(console) as display:
            display.expect(settings.rounds)
            simulate(settings, path, display)
    found, about = found_scales(path)
    write_scales(out, found, about)
    table = Table(title=", ".join(f"{key} {value}" for key, value in about.items() if value))
    for heading in ("block", "channels", "kernels: mean (least to most)", "identity"):
        table.add_column(heading)
    for number, own in enumerate(found):
        kernels = "; ".join(
            f"{part.mean():.3f} ({part.min():.3f} to {part.max():.3f})" for part in own.kernels
        )
        identity = f"{own.identity.mean():.3f} ({own.identity.min():.3f} to {own.identity.max():.3f})"
        table.add_row(str(number), str(len(own.identity)), kernels, identity)
    console.print(table)
    console.print(f"Constants: {out}", soft_wrap=True)
