"""Carrying weights over: by name, shape and role, wherever they lie; the backbone wholly or not at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from pocketfed.core.encoder import Encoder
from pocketfed.core.errors import MigrationError
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.migration import migrate

Parts = list[tuple[str, tuple[int, ...], Role]]
BACKBONE: Parts = [
    ("backbone.stem.weight", (4, 3), Role.BACKBONE), ("backbone.norm.weight", (4,), Role.BACKBONE),
    ("backbone.norm.running_mean", (4,), Role.BUFFER),
]  # fmt: skip
PROJECTOR: Parts = [
    ("projector.first.weight", (5, 4), Role.PROJECTOR),
    ("projector.second.bias", (2,), Role.PROJECTOR),
]


def layout(parts: Parts) -> Layout:
    slices, offset = [], 0
    for name, shape, role in parts:
        slices.append(Slice(name, shape, role, offset))
        offset += slices[-1].size
    return Layout(tuple(slices))


def vector(of: Layout, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(of.size).astype(np.float32)


def named(of: Layout, weights: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {part.name: values for part, values in zip(of.slices, of.parts(weights), strict=True)}


@given(
    st.permutations(BACKBONE + PROJECTOR),
    st.permutations(BACKBONE + PROJECTOR),
    st.sets(st.sampled_from([0, 1])),
)
def test_every_slice_is_found_wherever_it_lies(first: Parts, second: Parts, changed: set[int]) -> None:
    fresh = {PROJECTOR[i][0] for i in changed}
    old = layout(first)
    new = layout([(n, (*shape, 2) if n in fresh else shape, role) for n, shape, role in second])
    weights, begun = vector(old, 1), vector(new, 2)
    untouched = begun.copy()
    moved = migrate(old, weights, new, begun)
    before, after, initial = named(old, weights), named(new, moved.weights), named(new, begun)
    for name in after:
        assert np.array_equal(after[name], initial[name] if name in fresh else before[name]), name
    assert {part.name for part in moved.carried} == set(after) - fresh
    assert len(moved.fresh) == len(fresh)
    assert moved.weights.dtype == np.float32
    assert not moved.dropped
    assert np.array_equal(begun, untouched)


def test_a_projector_of_another_shape_begins_anew_and_it_is_said() -> None:
    old, new = (
        layout(BACKBONE + PROJECTOR),
        layout([*BACKBONE, ("projector.first.weight", (9, 4), Role.PROJECTOR)]),
    )
    moved = migrate(old, vector(old, 1), new, vector(new, 2))
    assert moved.fresh == ("projector.first.weight was [5, 4], is [9, 4]",)
    assert moved.dropped == ("projector.second.bias",)


def test_two_encoders_with_one_backbone_embed_alike() -> None:
    """As modules, not as vectors: running statistics come along."""

    def encoder(seed: int, hidden: int) -> Encoder:
        torch.manual_seed(seed)
        backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        built = Encoder(backbone, features=4, hidden=hidden, projection=2)
        built.backbone[1].running_mean.uniform_()  # type: ignore[index]
        return built

    with torch.random.fork_rng(devices=[]):
        first, second = encoder(1, hidden=3), encoder(2, hidden=7)
    for each in (first, second):
        each.backbone[1].num_batches_tracked = None  # type: ignore[index]
    old, new = Layout.of(first), Layout.of(second)
    weights, begun = (of.pack(Layout.values(each)).numpy() for of, each in ((old, first), (new, second)))
    new.load(second, torch.from_numpy(migrate(old, weights, new, begun).weights))
    photos = torch.rand(2, 3, 8, 8)
    assert torch.equal(first.backbone.eval()(photos), second.backbone.eval()(photos))


def test_backbones_that_differ_are_refused_by_their_first_differences() -> None:
    old = layout(BACKBONE + PROJECTOR)
    wide = [(name, (8, *shape[1:]), role) for name, shape, role in BACKBONE]
    new = layout([*wide, ("backbone.more.weight", (1,), Role.BACKBONE), *PROJECTOR])
    with pytest.raises(MigrationError) as caught:
        migrate(old, vector(old, 1), new, vector(new, 2))
    assert str(caught.value) == (
        "the backbones differ: backbone.stem.weight was [4, 3], is [8, 3]; backbone.norm.weight was [4], is [8]; "
        "backbone.norm.running_mean was [4] of running statistics, is [8] of running statistics; and 1 more"
    )
    less = layout(BACKBONE[1:])
    with pytest.raises(MigrationError, match=r"backbone\.stem\.weight was absent, is \[4, 3\]$"):
        migrate(less, vector(less, 1), old, vector(old, 2))
    with pytest.raises(MigrationError, match=r"backbone\.stem\.weight was \[4, 3\], is absent$"):
        migrate(old, vector(old, 1), less, vector(less, 2))
    statistics = Layout(tuple(replace(part, role=Role.BUFFER) for part in old.slices))
    with pytest.raises(MigrationError, match=r"stem\.weight was \[4, 3\], is \[4, 3\] of running statistics"):
        migrate(old, vector(old, 1), statistics, vector(old, 2))
