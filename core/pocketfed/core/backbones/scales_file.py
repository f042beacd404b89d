"""Constants of FedRepOpt's branches as a small file: what a search found. Those of the phone sizes are in the package.

A safetensors file: `BLOCK.kernelK`, the constant s_k of each channel for the K-th kernel of a block, and `BLOCK.identity`,
what u begins with; float32 [channels], blocks in the order of the network. The JSON object `search` in its metadata says
how they were found.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from pocketfed.core.atomic import write_atomically
from pocketfed.core.backbones.linear_branches import Scales
from pocketfed.core.errors import ConfigError

SHIPPED = Path(__file__).parent / "searched"
"""One file for each family, of its phone size; docs/backbones.md has the command."""


def write_scales(path: Path, scales: Sequence[Scales], about: Mapping[str, str]) -> None:
    """Write the scales of every block in order, with what is to be known of them."""
    arrays = {
        f"{block}.{name}": np.ascontiguousarray(part.detach().cpu().numpy(), dtype=np.float32)
        for block, own in enumerate(scales)
        for name, part in _named(own)
    }
    write_atomically(path, save(arrays, {"search": json.dumps(about, sort_keys=True)}))


def read_scales(path: Path) -> tuple[Scales, ...]:
    """What `write_scales` wrote, on torch's default device.

    Raises:
        ConfigError: the file is missing or holds no scales.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            [f"{path} cannot be read as scales ({error}); make it with `pocketfed scales`"]
        ) from error
    blocks = 1 + max(
        (int(name.partition(".")[0]) for name in arrays if name.partition(".")[0].isdecimal()), default=-1
    )
    try:
        found = tuple(_block(arrays, block) for block in range(blocks))
    except KeyError as error:
        raise ConfigError([f"{path} lacks {error.args[0]!r}, so it holds no scales of a network"]) from error
    if not found or sum(1 + len(own.kernels) for own in found) != len(arrays):
        raise ConfigError([f"{path} holds no scales of a network; make it with `pocketfed scales`"])
    return found


def about_scales(path: Path) -> dict[str, str]:
    """How the scales of a file that `read_scales` reads were found."""
    with safe_open(path, framework="numpy") as file:
        return dict(json.loads((file.metadata() or {}).get("search", "{}")))


def shipped_scales(family: str) -> tuple[Scales, ...]:
    """Of a family's phone size."""
    return read_scales(SHIPPED / f"{family}.safetensors")


def _named(scales: Scales) -> list[tuple[str, Tensor]]:
    kernels = [(f"kernel{i}", part) for i, part in enumerate(scales.kernels)]
    return [*kernels, ("identity", scales.identity)]


def _block(arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]], block: int) -> Scales:
    kernels = sum(name.startswith(f"{block}.kernel") for name in arrays)
    return Scales(
        tuple(torch.tensor(arrays[f"{block}.kernel{i}"]) for i in range(kernels)),
        torch.tensor(arrays[f"{block}.identity"]),
    )
