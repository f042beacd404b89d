"""How vectors are written: sizes, what rounding costs, and that int8 is right on average."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.backbones import PHONES
from pocketfed.core.encoder import build_encoder
from pocketfed.core.formats import Format, Packed, decode, encode, packed_size
from pocketfed.core.layout import Layout, Role, Slice

MOST = 1.05
"""Bytes a parameter that int8 may take."""


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Some slices of each role, buffers last."""
    slices: list[Slice] = []
    offset = 0
    for role in Role:
        for size in draw(st.lists(st.integers(1, 6), min_size=role is Role.BACKBONE, max_size=3)):
            slices.append(Slice(f"{role}.{len(slices)}", (size,), role, offset))
            offset += size
    return Layout(tuple(slices))


@st.composite
def vectors(draw: st.DrawFn) -> tuple[Layout, NDArray[np.float32]]:
    """A layout, and numbers of it over many orders of magnitude, zero included."""
    layout = draw(layouts())
    numbers = st.floats(-1e4, 1e4, width=32)
    drawn = draw(st.lists(numbers, min_size=layout.size, max_size=layout.size))
    return layout, np.asarray(drawn, dtype=np.float32)


def uniform(layout: Layout, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(layout.trained, dtype=np.float32)


def scales(vector: NDArray[np.float32], layout: Layout) -> NDArray[np.float64]:
    """For every trained number, by the definition."""
    pieces = [
        np.full(part.size, np.float32(np.abs(piece.astype(np.float64)).max(initial=0) / 127))
        for part, piece in zip(layout.slices, layout.parts(vector), strict=True)
        if part.role is not Role.BUFFER
    ]
    return np.concatenate([np.zeros(0), *pieces])


@given(vectors(), st.sampled_from(Format))
def test_sizes_are_as_promised_and_buffers_are_rounded_beside_int8_alone(
    drawn: tuple[Layout, NDArray[np.float32]], form: Format
) -> None:
    layout, vector = drawn
    content = encode(vector, layout, form, uniform(layout))
    again = decode(Packed(form, content), layout)
    assert len(content) == packed_size(layout, form)
    assert again.dtype == np.float32
    assert again.shape == vector.shape
    if form is not Format.INT8:
        assert np.array_equal(again[layout.trained :], vector[layout.trained :])
    if form is Format.FLOAT32:
        assert content == vector.astype("<f4").tobytes()
    else:
        again[: layout.trained] = 0  # it is writable


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=8),
    st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=8),
)
def test_buffers_beside_int8_are_near_whatever_their_size(means: list[float], others: list[float]) -> None:
    """Variances of any layer, beyond what float16 alone can say in either direction."""
    layout = Layout(
        (
            Slice("backbone.w", (2,), Role.BACKBONE, 0),
            Slice("backbone.bn.running_mean", (len(means),), Role.BUFFER, 2),
            Slice("backbone.bn.running_var", (len(others),), Role.BUFFER, 2 + len(means)),
        )
    )
    numbers = np.asarray([1, -1, *means, *others], dtype=np.float32)
    content = encode(numbers, layout, Format.INT8, uniform(layout))
    again = decode(Packed(Format.INT8, content), layout)
    assert np.isfinite(again).all()
    for piece, found in zip(layout.parts(numbers)[1:], layout.parts(again)[1:], strict=True):
        assert (np.sign(found) * np.sign(piece) >= 0).all(), "no variance changes its sign"
        room = np.maximum(np.abs(piece).astype(float), 2.0**-28 * float(np.abs(piece).max())) / 2048 + 1e-45
        assert (np.abs(found.astype(float) - piece) <= room).all()


@given(vectors())
def test_rounding_to_float16_is_numpys(drawn: tuple[Layout, NDArray[np.float32]]) -> None:
    layout, vector = drawn
    again = decode(Packed(Format.FLOAT16, encode(vector, layout, Format.FLOAT16)), layout)
    expected = vector.astype(np.float16).astype(np.float32)
    assert np.array_equal(again[: layout.trained], expected[: layout.trained])


@given(vectors(), st.integers(0, 99))
def test_int8_is_less_than_a_level_away(drawn: tuple[Layout, NDArray[np.float32]], seed: int) -> None:
    layout, vector = drawn
    again = decode(Packed(Format.INT8, encode(vector, layout, Format.INT8, uniform(layout, seed))), layout)
    apart = np.abs(again.astype(np.float64) - vector)[: layout.trained]
    level = scales(vector, layout)
    assert (apart <= level * (1 + 1e-5) + 1e-43).all()  # a scale near zero has few digits itself


@settings(max_examples=25)
@given(vectors())
def test_int8_is_right_on_average(drawn: tuple[Layout, NDArray[np.float32]]) -> None:
    """The mean over a fine grid of all that may be drawn is the number itself, to a part of that grid."""
    layout, vector = drawn
    count = 50
    grid = (np.arange(count, dtype=np.float32) + np.float32(0.5)) / count
    draws = [
        decode(Packed(Format.INT8, encode(vector, layout, Format.INT8, np.full(layout.trained, u))), layout)
        for u in grid
    ]
    mean = np.mean(draws, axis=0, dtype=np.float64)
    level = scales(vector, layout)
    bound = (
        level * (1.01 / count) + 1e-6 * np.abs(mean).max(initial=0) + 1e-43
    )  # a scale near zero may be zero
    assert (np.abs(mean - vector)[: layout.trained] <= bound).all()


def test_int8_is_right_on_average_with_random_numbers_too() -> None:
    """The standard error of a mean is that of a coin, at most half a level."""
    layout = Layout((Slice("backbone.w", (50,), Role.BACKBONE, 0),))
    vector = np.linspace(-1, 0.3, 50, dtype=np.float32)
    draws = [
        decode(Packed(Format.INT8, encode(vector, layout, Format.INT8, uniform(layout, seed))), layout)
        for seed in range(2000)
    ]
    apart = np.mean(draws, axis=0, dtype=np.float64) - vector
    assert np.abs(apart).max() < 5 * 0.5 / 127 / np.sqrt(2000)
    assert np.abs(draws[0] - vector).max() > 0.3 / 127


def test_one_large_number_costs_its_own_slice_only() -> None:
    slices = (Slice("backbone.a", (3,), Role.BACKBONE, 0), Slice("backbone.b", (3,), Role.BACKBONE, 3))
    vector = np.array([1, 2, 1000, 1e-3, 2e-3, -3e-3], dtype=np.float32)
    again = decode(
        Packed(Format.INT8, encode(vector, Layout(slices), Format.INT8, np.full(6, 0.5))), Layout(slices)
    )
    assert np.allclose(again[3:], vector[3:], rtol=0.02)
    assert not np.allclose(again[:2], vector[:2], rtol=0.02)


@pytest.mark.parametrize("backbone", [*PHONES, "timm:mobilenetv3_small_100"])
def test_int8_takes_little_more_than_a_byte_a_parameter(backbone: str) -> None:
    layout = Layout.of(build_encoder(backbone, seed=0))
    assert packed_size(layout, Format.INT8) <= MOST * layout.size
    assert packed_size(layout, Format.INT8) <= MOST * layout.trained
    part = layout.part([Role.BACKBONE, Role.BUFFER])
    assert packed_size(part, Format.INT8) <= MOST * part.size


def test_int8_needs_random_numbers() -> None:
    layout = Layout((Slice("backbone.w", (2,), Role.BACKBONE, 0),))
    with pytest.raises(ValueError, match="random numbers"):
        encode(np.ones(2, dtype=np.float32), layout, Format.INT8)


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("change", [-1, 1, 4])
def test_another_length_is_refused(form: Format, change: int) -> None:
    layout = Layout((Slice("backbone.w", (6,), Role.BACKBONE, 0), Slice("buffer.m", (2,), Role.BUFFER, 6)))
    content = encode(np.ones(8, dtype=np.float32), layout, form, uniform(layout))
    with pytest.raises(ValueError, match=f"expected {len(content)}"):
        decode(Packed(form, (content + bytes(4))[: len(content) + change]), layout)


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, -1.0])
def test_a_scale_that_is_no_size_is_refused(scale: float) -> None:
    layout = Layout((Slice("backbone.w", (6,), Role.BACKBONE, 0),))
    content = np.array([scale], dtype="<f4").tobytes() + bytes(6)
    with pytest.raises(ValueError, match="scale"):
        decode(Packed(Format.INT8, content), layout)
