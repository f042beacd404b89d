"""The only map between a torch module and the flat float32 vector in which a model travels."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketfed.core.errors import RunFolderError


class Role(StrEnum):
    """What a slice is for; layer-wise rules and partial models choose by it."""

    BACKBONE = "backbone"
    PROJECTOR = "projector"


@dataclass(frozen=True)
class Slice:
    """One named tensor inside the flat vector: `vector[offset : offset + size].reshape(shape)`."""

    name: str
    shape: tuple[int, ...]
    role: Role
    offset: int

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Names, shapes and roles of the slices of a flat weight vector, in order and without gaps."""

    slices: tuple[Slice, ...]

    @staticmethod
    def of(module: nn.Module) -> "Layout":
        """The layout of a module whose direct children are named after the roles.

        Raises:
            ValueError: a parameter is not float32, or lies under a child that is no role.
        """
        slices, offset = [], 0
        for name, parameter in module.named_parameters():
            if parameter.dtype != torch.float32:
                raise ValueError(f"{name} is {parameter.dtype}, expected torch.float32")
            slices.append(Slice(name, tuple(parameter.shape), Role(name.partition(".")[0]), offset))
            offset += slices[-1].size
        return Layout(tuple(slices))

    @property
    def size(self) -> int:
        """Number of scalars in the whole vector."""
        return sum(part.size for part in self.slices)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the layout; two vectors may be mixed only if their layouts have the same digest."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def unpack(self, vector: Tensor) -> dict[str, Tensor]:
        """Views into `vector` (float32 [size]), by name, each in its own shape."""
        return {
            part.name: vector[part.offset : part.offset + part.size].reshape(part.shape)
            for part in self.slices
        }

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `unpack`: one float32 [size] vector.

        Raises:
            ValueError: a tensor is missing, unknown, or of another shape.
        """
        names = {part.name for part in self.slices}
        if names != set(tensors):
            raise ValueError(f"names differ from the layout: {sorted(names ^ set(tensors))}")
        for part in self.slices:
            if tuple(tensors[part.name].shape) != part.shape:
                raise ValueError(
                    f"{part.name} has shape {tuple(tensors[part.name].shape)}, expected {part.shape}"
                )
        return torch.cat([tensors[part.name].reshape(-1) for part in self.slices])

    def parts(self, vector: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Flat numpy views into `vector` ([size]), one per slice, in order; layer-wise rules work on these."""
        return [vector[part.offset : part.offset + part.size] for part in self.slices]

    def to_json(self) -> str:
        """A canonical text form, readable from any language."""
        return json.dumps(
            [
                {"name": p.name, "shape": list(p.shape), "role": p.role.value, "offset": p.offset}
                for p in self.slices
            ],
            separators=(",", ":"),
        )

    @staticmethod
    def from_json(text: str) -> "Layout":
        """Read what `to_json` wrote.

        Raises:
            RunFolderError: the text is not a layout, or its slices do not follow one another.
        """
        try:
            entries = json.loads(text)
            if not isinstance(entries, list):
                raise TypeError("it is no list")
            slices = tuple(
                Slice(str(p["name"]), tuple(int(n) for n in p["shape"]), Role(p["role"]), int(p["offset"]))
                for p in entries
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(
                f"the layout cannot be read ({error}); the file is damaged or foreign"
            ) from error
        offset = 0
        for part in slices:
            if part.offset != offset:
                raise RunFolderError(
                    f"the layout has a gap before {part.name}; the file is damaged or foreign"
                )
            offset += part.size
        return Layout(slices)
