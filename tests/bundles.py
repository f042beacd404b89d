"""Small signed bundles, whose program nobody runs."""

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
    folder: Path, key: SigningKey | None, version: int = 1, made_with: str = "0.1", **files: bytes
) -> Bundle:
    """A bundle that says which runtime it was made with; `files` takes the place of contents, by the name without its
    suffix."""
    programs = {
        "train.pte": PROGRAM + str(version).encode(),
        "embed.pte": b"embedding" * 1000,
        "empty.pte": b"",
        "Embed.mlpackage/Data/a model.bin": b"core ml" * 100,
    }
    programs |= {f"{name}.pte": content for name, content in files.items()}
    weights = np.linspace(0, 1, 6, dtype=np.float32)
    about = {"made_with": {"executorch": made_with}}
    return write_bundle(
        folder, Contents(SPEC, LAYOUT, weights, "rounds = 3\n", programs, about, version), key
    )
