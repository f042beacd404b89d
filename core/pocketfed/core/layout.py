"""The only map between a torch module and the flat float32 vector in which a model travels."""

import hashlib
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pocketfed.core.errors import RunFolderError
from pocketfed.core.parsing import parse_json, whole
from pocketfed.core.role import Role

__all__ = ["BATCH_NORMS", "Layout", "Role", "Slice"]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
"""Layers whose running statistics are part of a model; any other buffer is a constant of the code."""


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
    """Names, shapes and roles of the slices of a flat weight vector, in order and without gaps.

    Buffers come last, so that what an optimiser moves is one piece: `vector[:trained]`.
    """

    slices: tuple[Slice, ...]

    @staticmethod
    def of(module: nn.Module) -> "Layout":
        """The layout of a module whose direct children are named after the roles.

        Raises:
            ValueError: a parameter or running statistic is not float32, or lies under a child that is no role.
        """
        slices, offset = [], 0
        for name, tensor, role in _stateful(module):
            if tensor.dtype != torch.float32:
                raise ValueError(f"{name} is {tensor.dtype}, expected torch.float32")
            slices.append(Slice(name, tuple(tensor.shape), role, offset))
            offset += slices[-1].size
        return Layout(tuple(slices))

    @staticmethod
    def values(module: nn.Module) -> dict[str, Tensor]:
        """The tensors of a module that its layout names, detached."""
        return {name: tensor.detach() for name, tensor, _ in _stateful(module)}

    @property
    def size(self) -> int:
        """Number of scalars in the whole vector."""
        return sum(part.size for part in self.slices)

    @property
    def trained(self) -> int:
        """Number of scalars that the optimiser moves, which come first."""
        return sum(part.size for part in self.slices if part.role is not Role.BUFFER)

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the buffers, in order."""
        return tuple(part.name for part in self.slices if part.role is Role.BUFFER)

    @cached_property
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

    def load(self, module: nn.Module, vector: Tensor) -> None:
        """Copy `vector` (float32 [size]) into the module that the layout is of."""
        own = {name: tensor for name, tensor, _ in _stateful(module)}
        with torch.no_grad():
            for name, part in self.unpack(vector).items():
                own[name].copy_(part)

    def parts(self, vector: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Flat numpy views into `vector` ([size]), one per slice, in order; layer-wise rules work on these."""
        return [vector[part.offset : part.offset + part.size] for part in self.slices]

    def part(self, roles: Collection[Role]) -> "Layout":
        """The layout of the slices that have one of these roles, in the same order and again without gaps."""
        chosen, offset = [], 0
        for piece in self.slices:
            if piece.role in roles:
                chosen.append(replace(piece, offset=offset))
                offset += piece.size
        return Layout(tuple(chosen))

    def gather(self, vector: NDArray[np.float32], roles: Collection[Role]) -> NDArray[np.float32]:
        """The numbers of the slices that have one of these roles: a new vector of the layout `part(roles)`."""
        return vector[self._mask(roles)]

    def scatter(
        self, part: NDArray[np.float32], roles: Collection[Role], into: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """A new vector: `part`, which has the layout `part(roles)`, and the rest from `into`."""
        whole = into.copy()
        whole[self._mask(roles)] = part
        return whole

    def _mask(self, roles: Collection[Role]) -> NDArray[np.bool_]:
        chosen = [piece.role in roles for piece in self.slices]
        return np.repeat(chosen, [piece.size for piece in self.slices])

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
            entries = parse_json(text)
            if not isinstance(entries, list):
                raise TypeError("it is no list")
            slices = tuple(
                Slice(
                    str(p["name"]),
                    tuple(whole(length, "length") for length in p["shape"]),
                    Role(p["role"]),
                    whole(p["offset"], "offset"),
                )
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


def _stateful(module: nn.Module) -> Iterator[tuple[str, Tensor, Role]]:
    """Parameters, then the running statistics of normalisation layers."""
    for name, parameter in module.named_parameters():
        yield name, parameter, Role(name.partition(".")[0])
    for owner, part in module.named_modules():
        if isinstance(part, BATCH_NORMS):
            for name, buffer in (("running_mean", part.running_mean), ("running_var", part.running_var)):
                if buffer is not None:
                    yield f"{owner}.{name}", buffer, Role.BUFFER
