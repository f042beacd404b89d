"""Small signed bundles, whose program nobody runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pocketfed.core.bundle import Bundle, Contents, write_bundle
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import Input, ProgramSpec
from pocketfed.core.signing import SigningKey

LAYOUT = Layout((Slice("backbone.w", (6,), Role.BACKBONE, 0),))
SPEC = ProgramSpec(6, 6, 4, {Modality.PHOTO: Input((2,), "uint8", 1)}, mixed=False, layout=LAYOUT.digest)
PROGRAM = bytes(range(256)) * 800
"""Several pieces."""


def release(
    folder: Path,
    key: SigningKey | None,
    version: int = 1,
    made_with: str = "0.1",
    other: bool = False,
    **files: bytes,
) -> Bundle:
    """A bundle that says which runtime it was made with; `files` takes the place of contents, by the name without its
    suffix. An `other` one of another version has no file as the rest have it, but for the empty one."""
    programs = {
        "train.pte": PROGRAM + str(version).encode(),
        "embed.pte": (b"another" if other else b"embedding") * 1000,
        "empty.pte": b"",
        "Embed.mlpackage/Data/a model.bin": (b"core ml" + b"2" * other) * 100,
    }
    programs |= {f"{name}.pte": content for name, content in files.items()}
    layout = Layout((Slice("backbone.other", (6,), Role.BACKBONE, 0),)) if other else LAYOUT
    weights = np.linspace(0, 1 + other, 6, dtype=np.float32)
    about = {"made_with": {"executorch": made_with}}
    contents = Contents(
        replace(SPEC, layout=layout.digest),
        layout,
        weights,
        f"rounds = {3 + other}\n",
        programs,
        about,
        version,
    )
    return write_bundle(folder, contents, key)
