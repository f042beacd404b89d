"""`pocketfed probe`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pocketfed.simulator.terminal import Terminal, telling


def probe(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="Run folder (its newest weights), a checkpoint in it, a bundle, or a configuration (untrained).",
        ),
    ],
    photos: Annotated[
        Path | None,
        typer.Option(help="Labelled photos: a folder with a sub-folder for each class, or an .npz."),
    ] = None,
    sounds: Annotated[
        Path | None,
        typer.Option(help="Labelled sounds: a folder with a sub-folder for each class, or an .npz."),
    ] = None,
    modality: Annotated[
        str | None,
        typer.Option(help="photo or sound: the captures of MODEL's own configuration, if they have labels."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="File of the head.")] = Path("head.safetensors"),
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Of what is held out. \\[default: MODEL's]")
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Python file that registers MODEL's backbone; may be given again."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a head that is there.")] = False,
) -> None:
    """Train a classifier on the frozen encoder from labelled captures, and say how good it is on held-out ones.

    MODEL is a run folder (its newest weights), a checkpoint in it, a bundle, or a configuration (untrained weights).

    What is trained is a linear map from features to class scores, the linear probe of reports; the encoder stays as it
    is. A fifth of each class is held out, unless the captures come in train/ and test/. A head is of one modality and
    belongs to the very weights that it was trained on; pocketfed bundle --head puts it behind them.

    Examples:

        pocketfed probe runs/demo --photos album/ -o photos.head

        pocketfed bundle --from runs/demo --head photos.head -o bundle
    """
    console = Terminal()
    with console.status("starting") as status:
        # Torch takes seconds to import; --help must not wait for it.
        from pocketfed.core.errors import ConfigError
        from pocketfed.core.head import save_head
        from pocketfed.core.modality import Modality
        from pocketfed.core.plugins import load_plugins
        from pocketfed.simulator.bundles import read_model
        from pocketfed.simulator.outputs import make_room
        from pocketfed.simulator.probing import Labelled, classes_table, probe_model

        problems = []
        if sum(given is not None for given in (photos, sounds, modality)) != 1:
            problems.append("give the labelled captures: one of --photos, --sounds and --modality")
        if modality is not None and modality not in list(Modality):
            problems.append(f"--modality: {modality!r} is neither photo nor sound")
        if os.path.isdir(out):
            problems.append(f"{out} is a folder; name a file with --out")
        elif os.path.exists(out) and not force:
            problems.append(f"{out} exists; add --force to replace it, or choose another --out")
        try:
            load_plugins(plugin or [])
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(problems)
        make_room(out, "--out")
        kind = Modality(modality) if modality else Modality.PHOTO if photos else Modality.SOUND
        labelled = Labelled(kind, photos or sounds, seed)
        head = probe_model(read_model(model), labelled, telling(status))
        save_head(out, head)
    trial = head.trial
    console.print(classes_table(head))
    console.print(
        f"{trial.accuracy:.1%} of {sum(trial.held_out)} held-out clips are named rightly; always naming the commonest "
        f"class: {trial.chance:.1%}", soft_wrap=True,
    )  # fmt: skip
    console.print(f"{out}: {head.about}, {len(head.classes)} classes", soft_wrap=True)
    console.print(f"Next: pocketfed bundle --head {out}, of the same weights", soft_wrap=True)
