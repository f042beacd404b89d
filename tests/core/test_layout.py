"""The map between a module and the flat vector."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pocketfed.core.encoder import build_encoder
from pocketfed.core.errors import RunFolderError
from pocketfed.core.layout import Layout, Role, Slice


def layout_of(shapes: list[tuple[int, ...]]) -> Layout:
    slices, offset = [], 0
    for i, shape in enumerate(shapes):
        slices.append(Slice(f"backbone.{i}", shape, Role.BACKBONE, offset))
        offset += slices[-1].size
    return Layout(tuple(slices))


SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), min_size=1, max_size=6)


@given(SHAPES)
def test_pack_inverts_unpack(shapes: list[tuple[int, ...]]) -> None:
    layout = layout_of(shapes)
    vector = torch.arange(layout.size, dtype=torch.float32)
    assert torch.equal(layout.pack(layout.unpack(vector)), vector)


@given(SHAPES)
def test_parts_cover_the_vector_without_overlap(shapes: list[tuple[int, ...]]) -> None:
    layout = layout_of(shapes)
    vector = np.arange(layout.size, dtype=np.float32)
    assert np.array_equal(np.concatenate(layout.parts(vector)), vector)


@given(SHAPES)
def test_json_round_trip_keeps_the_digest(shapes: list[tuple[int, ...]]) -> None:
    layout = layout_of(shapes)
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert again.digest == layout.digest


ROLES = st.lists(st.sampled_from(Role), min_size=1, max_size=9)


@given(ROLES, st.sets(st.sampled_from(Role)), st.integers(0, 9))
def test_a_part_has_the_slices_of_its_roles_and_nothing_else(
    roles: list[Role], chosen: set[Role], seed: int
) -> None:
    sizes = np.random.default_rng(seed).integers(0, 5, len(roles)).tolist()
    offsets = np.cumsum([0, *sizes]).tolist()
    layout = Layout(
        tuple(
            Slice(str(i), (n,), r, o) for i, (n, r, o) in enumerate(zip(sizes, roles, offsets, strict=False))
        )
    )
    part, vector = layout.part(chosen), np.arange(layout.size, dtype=np.float32)
    gathered = layout.gather(vector, chosen)
    by_name = dict(zip([p.name for p in layout.slices], layout.parts(vector), strict=True))
    assert [p.name for p in part.slices] == [p.name for p in layout.slices if p.role in chosen]
    assert gathered.shape == (part.size,)
    for piece, values in zip(part.slices, part.parts(gathered), strict=True):
        assert np.array_equal(values, by_name[piece.name])
    assert Layout.from_json(part.to_json()) == part
    back = layout.scatter(gathered + 1000, chosen, vector)
    for piece, values in zip(layout.slices, layout.parts(back), strict=True):
        assert np.array_equal(values, by_name[piece.name] + 1000 * (piece.role in chosen))
    assert np.array_equal(vector, np.arange(layout.size))  # is left alone


def test_the_whole_is_a_part_with_the_same_digest() -> None:
    layout = Layout.of(build_encoder("compact", seed=0))
    assert layout.part(tuple(Role)).digest == layout.digest
    assert layout.part([Role.BACKBONE]).digest != layout.digest
    assert layout.part([Role.PROJECTOR]).slices[0].offset == 0


def test_roles_follow_the_encoder() -> None:
    layout = Layout.of(build_encoder("compact", seed=0))
    assert {part.role for part in layout.slices} == {Role.BACKBONE, Role.PROJECTOR}
    assert all(part.name.startswith(part.role) for part in layout.slices)


def test_pack_names_what_is_wrong() -> None:
    layout = layout_of([(2, 3), (4,)])
    with pytest.raises(ValueError, match=r"backbone\.1"):
        layout.pack({"backbone.0": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="expected \\(4,\\)"):
        layout.pack({"backbone.0": torch.zeros(2, 3), "backbone.1": torch.zeros(5)})


@pytest.mark.parametrize(
    "text", ["", "{}", '[{"name": 1}]', '[{"name":"a","shape":[2],"role":"backbone","offset":1}]']
)
def test_a_damaged_layout_is_refused(text: str) -> None:
    with pytest.raises(RunFolderError):
        Layout.from_json(text)
