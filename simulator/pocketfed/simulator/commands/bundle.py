"""`pocketfed bundle`."""

from pathlib import Path
from typing import Annotated

import typer

from pocketfed.core.parsing import LARGEST_EXACT
from pocketfed.simulator.bundle_part import LARGEST_BATCH
from pocketfed.simulator.finite import finite
from pocketfed.simulator.terminal import Terminal, telling


def bundle(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="Configuration. \\[default: the defaults]")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle; made.")] = Path("bundle"),
    run: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Run folder of a simulation or a server: its configuration and newest weights; or a checkpoint in it.",
        ),
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="Network, in place of the configuration's.")] = None,
    weights_from: Annotated[
        Path | None,
        typer.Option(
            "--weights-from",
            help="Begin with the trained weights of this bundle, run folder or checkpoint, of the same backbone.",
        ),
    ] = None,
    head: Annotated[
        list[Path] | None,
        typer.Option(
            help="Classifier for the weights inside, made by: pocketfed probe; one of each modality."
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            help="Python file that registers a backbone, in place of those that CONFIG or RUN names; may be given again."
        ),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Signs it; made by: pocketfed keys. \\[default: unsigned]")
    ] = None,
    version: Annotated[
        int,
        typer.Option(min=1, max=LARGEST_EXACT, help="Of the release; phones refuse a lower one than theirs."),
    ] = 1,
    batch: Annotated[
        int, typer.Option(min=1, max=LARGEST_BATCH, help="Captures per call of inference programs.")
    ] = 1,
    int8: Annotated[bool, typer.Option(help="Quantised inference programs too.")] = True,
    coreml: Annotated[bool, typer.Option(help="Programs for Core ML too.")] = True,
    coreml_weights: Annotated[
        str,
        typer.Option(metavar="[float16|int8|palette6]", help="How Core ML's embeddings store their weights."),
    ] = "float16",
    coreml_training: Annotated[
        bool, typer.Option(help="Loss and gradient as Core ML packages too; experimental.")
    ] = True,
    allow_portable: Annotated[
        bool,
        typer.Option("--allow-portable", help="Accept operators that only slow kernels run, and list them."),
    ] = False,
    max_mb: Annotated[
        float | None,
        typer.Option("--max-mb", min=0, callback=finite, help="Largest size; above it no bundle is made."),
    ] = None,
    zipped: Annotated[bool, typer.Option("--zip", help="Also write the folder as one .zip.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is there.")] = False,
) -> None:
    """Make the bundle that goes into an app: programs, weights and a manifest, in one folder.

    The learning step and inference for ExecuTorch (Android, iOS); embeddings and the gradient for Core ML (iOS); with
    --head also classifiers for both. With --weights-from a new bundle goes on where an old one got to.

    Examples:

        pocketfed bundle --key release -o bundle

        pocketfed bundle --from runs/demo --key release --version 2 -o bundle --force

        pocketfed bundle --from runs/demo --head photos.head --head sounds.head -o bundle

        pocketfed bundle configs/next.toml --weights-from server --key release --version 3 -o bundle --force

        pocketfed bundle --backbone timm:mobilenetv3_small_050 --no-coreml -o bundle
    """
    console = Terminal()
    with console.status("starting") as status:
        from pocketfed.core.errors import ConfigError
        from pocketfed.core.signing import read_signing_key
        from pocketfed.export.coreml.compression import choose_weights
        from pocketfed.simulator.bundle_place import building_at, choose_place, put
        from pocketfed.simulator.bundling import Options, build_bundle
        from pocketfed.simulator.classifiers import read_heads
        from pocketfed.simulator.config_file import build_config, overlay, read_toml
        from pocketfed.simulator.inspection import describe_bundle, slow_kernels
        from pocketfed.simulator.program import recorded, task_of
        from pocketfed.simulator.verification import useless_int8
        from pocketfed.simulator.weights import carried_over, learnt

        problems = []
        if run is not None and config is not None:
            problems.append("--from has a configuration already; give CONFIG or --from, not both")
        if run is not None and backbone is not None:
            problems.append("--from has weights of its own network; --backbone cannot change it")
        if run is not None and weights_from is not None:
            problems.append("--from has weights already; give --from or --weights-from, not both")
        if problems:
            raise ConfigError(problems)
        place = choose_place(out, zipped, force)
        stored = choose_weights(coreml_weights)
        signer = None if key is None else read_signing_key(key)
        heads = read_heads(head or [])
        weights, notes = None, list[str]()
        if run is not None:
            wanted, weights, notes = learnt(run, plugin or [])
        else:
            flags = {
                "learning.backbone": backbone,
                "plugins": [str(path.resolve()) for path in plugin] if plugin else None,
            }
            wanted = build_config(overlay({} if config is None else read_toml(config), flags))
        if allow_portable:
            wanted = wanted.model_copy(update={"allow_portable": True})
        if weights_from is not None:
            weights, notes = carried_over(weights_from, wanted)

        say = telling(status)

        def tell(what: str) -> None:
            say(f"making the bundle: {what}")
            if not console.is_terminal:
                console.print(what, soft_wrap=True)

        options = Options(
            batch=batch, int8=int8, coreml=coreml, coreml_weights=stored, coreml_training=coreml_training,
            version=version, max_mb=max_mb, heads=heads,
        )  # fmt: skip
        with building_at(place.out) as folder:
            made = build_bundle(wanted, weights, folder / "bundle", options, signer, tell)
            notes += slow_kernels(describe_bundle(made)) if wanted.allow_portable else []
            if int8:
                tell("trying what is in int8")
                notes += useless_int8(made, task_of(wanted, recorded(wanted)))
            tell("putting it into place")
            put(made, place)
    size = made.release.size / 1e6
    console.print(f"{out}: bundle {made.id[:12]}, version {version}, {size:.1f} MB", soft_wrap=True)
    if place.zipped:
        console.print(f"{place.archive}: all of it in one file", soft_wrap=True)
    for note in notes:
        console.print(note, soft_wrap=True)
    if signer is None:
        console.print(
            "It is not signed: anybody could have made it. Sign with --key, from: pocketfed keys PREFIX"
        )
    options_of_verify = "".join(f" --plugin {path}" for path in wanted.plugins) + (
        f" --key {key}.pub" if key else ""
    )
    console.print(f"Next: pocketfed verify {out}{options_of_verify}", soft_wrap=True)
