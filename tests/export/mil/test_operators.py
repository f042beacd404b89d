"""Operators against formulas written out in NumPy, where the meaning is not torch's own."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from torch import Tensor

from pocketfed.export.mil.operators import OPERATORS
from pocketfed.export.mil.operators.windows import window_padding
from pocketfed.export.mil.package import from_bytes


def ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


@given(st.data())
def test_slices_are_numpys(data: st.DataObject) -> None:
    shape = data.draw(array_shapes(max_dims=4, max_side=6))
    x = np.arange(np.prod(shape)).reshape(shape)
    begin = [data.draw(st.integers(-n, n - 1)) for n in shape]
    end = [data.draw(st.integers(-n - 1, n + 1)) for n in shape]
    step = [data.draw(st.sampled_from([-2, -1, 1, 2, 3])) for _ in shape]
    masks = [[data.draw(st.booleans()) for _ in shape] for _ in range(3)]
    expected = x[
        tuple(
            b % n if single else slice(None if free_b else b, None if free_e else e, s)
            for n, b, e, s, free_b, free_e, single in zip(shape, begin, end, step, *masks, strict=True)
        )
    ]
    found = OPERATORS["slice_by_index"](
        torch.from_numpy(x), ints(*begin), ints(*end), ints(*step), *(torch.tensor(mask) for mask in masks)
    )
    assert np.array_equal(found.numpy(), expected)
    zeroed = OPERATORS["slice_update"](
        torch.from_numpy(x), torch.full(expected.shape, -7), ints(*begin), ints(*end), ints(*step),
        *(torch.tensor(mask) for mask in masks),
    )  # fmt: skip
    assert (zeroed == -7).sum() == expected.size


LINE, SQUARE, PHOTO, KERNEL = (
    torch.arange(4.0),
    torch.ones(3, 4),
    torch.ones(1, 1, 5, 5),
    torch.ones(1, 1, 3, 3),
)
WINDOW = {"pad_type": "custom", "strides": ints(1, 1)}


@pytest.mark.parametrize(
    ("operator", "tensors", "rest"),
    [
        ("gather", (LINE, ints(9)), {}),
        ("gather", (LINE, ints(0, -1)), {}),  # counted from the end before iOS 17
        ("gather", (LINE, ints(0)), {"axis": 1}),
        ("gather_along_axis", (LINE, ints(4)), {}),
        ("gather_along_axis", (LINE, ints(-1)), {}),
        ("gather_along_axis", (SQUARE, torch.zeros(1, 3, dtype=torch.int32)), {"axis": 0}),
        ("one_hot", (ints(3), ints(3)), {}),
        ("one_hot", (ints(0, 2), ints(-1)), {}),
        ("slice_by_index", (LINE, ints(9), ints(0)), {"squeeze_mask": ints(1)}),
        ("slice_by_index", (LINE, ints(-5), ints(0)), {"squeeze_mask": ints(1)}),
        ("slice_by_index", (LINE, ints(1, 0), ints(2, 1)), {}),
        ("slice_by_index", (LINE, ints(1), ints(2)), {"end_mask": ints(0, 1)}),
        ("slice_update", (LINE, torch.ones(1), ints(9), ints(0)), {"squeeze_mask": ints(1)}),
        ("slice_update", (SQUARE, torch.ones(4, 2), ints(0, 0), ints(2, 4)), {}),
        ("slice_by_size", (LINE, ints(-5), ints(1)), {}),
        ("slice_by_size", (LINE, ints(2), ints(3)), {}),
        ("slice_by_size", (SQUARE, ints(0), ints(1)), {}),
        ("expand_dims", (LINE, ints(2)), {}),
        ("expand_dims", (LINE, ints(0, 0)), {}),
        ("squeeze", (torch.ones(1, 4), ints(2)), {}),
        ("squeeze", (torch.ones(1, 1, 4), ints(0, -3)), {}),
        ("transpose", (SQUARE, ints(0, 0)), {}),
        ("transpose", (SQUARE, ints(0, 2)), {}),
        ("reverse", (LINE, ints(1)), {}),
        ("concat", ((SQUARE, SQUARE), ints(2)), {"interleave": True}),
        ("split", (LINE, ints(0), ints(0)), {}),
        ("split", (LINE, ints(0), None, ints(1, 2)), {}),
        ("tile", (LINE, ints(2, 1)), {}),
        ("tile", (LINE, ints(0)), {}),
        ("reshape", (SQUARE, ints(5, -1)), {}),
        ("pad", (LINE, ints(-1, 0)), {}),
        ("pad", (SQUARE, ints(1, 0, 2)), {}),
        ("pad", (SQUARE, ints(4, 0)), {"mode": "reflect"}),
        ("pad", (SQUARE, ints(5, 0)), {"mode": "replicate"}),
        ("layer_norm", (SQUARE, ints(2)), {}),
        ("reduce_sum", (SQUARE, ints(2)), {}),
        ("conv", (PHOTO, KERNEL), {**WINDOW, "pad": ints(-1, 0, 0, 0)}),
        ("conv", (PHOTO, KERNEL), {"strides": ints(2)}),
        ("conv", (PHOTO, KERNEL), {"dilations": ints(1)}),
        (
            "conv_transpose",
            (PHOTO, KERNEL),
            {**WINDOW, "pad": ints(-1, 0, 0, 0), "output_shape": ints(1, 1, 1, 7)},
        ),
        ("conv_transpose", (PHOTO, KERNEL), {**WINDOW, "pad": ints(0, 0, 0, 0), "output_shape": ints(7, 7)}),
        ("max_pool", (PHOTO, ints(3, 3)), {**WINDOW, "pad": ints(-1, 0, 0, 0)}),
        ("max_pool", (PHOTO, ints(3, 3)), {**WINDOW, "pad": ints(0, 0, 1, 1, 1, 1)}),
        ("avg_pool", (PHOTO, ints(3)), {}),
        ("constexpr_lut_to_dense", (ints(1), torch.ones(3), ints(2)), {}),
        ("constexpr_sparse_to_dense", (torch.ones(1), ints(1, 1)), {}),
    ],
)
def test_what_core_ml_does_not_have_is_neither_wrapped_nor_cut(
    operator: str, tensors: tuple[Any, ...], rest: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, IndexError, RuntimeError)):
        OPERATORS[operator](*tensors, **rest)


def test_an_index_out_of_range_is_said() -> None:
    with pytest.raises(ValueError, match="9 is out of range: there are 4"):
        OPERATORS["gather"](LINE, ints(1, 9))


def test_a_size_that_is_kept_is_counted_from_the_last_axis() -> None:
    x = torch.arange(100).reshape(2, 50)
    assert OPERATORS["reshape"](x, ints(1, 0, -1, 0)).shape == (1, 1, 2, 50), "coremltools' own example"
    assert OPERATORS["reshape"](torch.ones(2, 3, 4), ints(-1, 0)).shape == (6, 4)
    assert OPERATORS["reshape"](torch.ones(1, 1), torch.tensor([], dtype=torch.int32)).shape == ()


@given(
    st.integers(1, 30), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.sampled_from(["same", "same_lower"])
)  # fmt: skip
def test_same_padding_keeps_the_size_over_the_stride(
    size: int, kernel: int, stride: int, dilation: int, kind: str
) -> None:
    before, after = window_padding([size], [kernel], [stride], [dilation], kind, None)
    extent = (kernel - 1) * dilation + 1
    least = (-(-size // stride) - 1) * stride + extent - size
    assert before + after == max(0, least)
    assert (after - before if kind == "same" else before - after) in (0, 1)


def test_padding_is_of_the_last_axes() -> None:
    x = torch.arange(6.0).reshape(1, 2, 3)
    assert OPERATORS["pad"](x, ints(0, 0, 0, 0, 1, 2), constant_val=9.0).shape == (1, 2, 6)
    reflected = OPERATORS["pad"](x, ints(0, 0, 2, 1), mode="reflect")
    assert np.array_equal(reflected.numpy(), np.pad(x.numpy(), [(0, 0), (0, 0), (2, 1)], mode="reflect"))
    repeated = OPERATORS["pad"](x[0], ints(1, 0, 0, 2), mode="replicate")
    assert np.array_equal(repeated.numpy(), np.pad(x[0].numpy(), [(1, 0), (0, 2)], mode="edge"))


@given(array_shapes(min_dims=2, max_dims=4, max_side=5), st.data())
def test_reductions(shape: tuple[int, ...], data: st.DataObject) -> None:
    x = np.random.default_rng(0).standard_normal(shape)
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    keep = data.draw(st.booleans())
    formulas = {
        "reduce_mean": x.mean(tuple(axes), keepdims=keep),
        "reduce_sum_square": (x**2).sum(tuple(axes), keepdims=keep),
        "reduce_l2_norm": np.sqrt((x**2).sum(tuple(axes), keepdims=keep)),
        "reduce_log_sum_exp": np.log(np.exp(x).sum(tuple(axes), keepdims=keep)),
        "reduce_min": x.min(tuple(axes), keepdims=keep),
    }
    for name, expected in formulas.items():
        found = OPERATORS[name](torch.from_numpy(x), ints(*axes), torch.tensor(keep))
        assert np.allclose(found.numpy(), expected), name


def test_running_sums() -> None:
    x = torch.tensor([1.0, 2.0, 4.0])
    assert OPERATORS["cumsum"](x).tolist() == [1, 3, 7]
    assert OPERATORS["cumsum"](x, exclusive=True).tolist() == [0, 1, 3]
    assert OPERATORS["cumsum"](x, reverse=True).tolist() == [7, 6, 4]


def test_averages_may_leave_out_what_was_padded() -> None:
    x = torch.ones(1, 1, 4)
    window = {"kernel_sizes": ints(3), "strides": ints(2), "pad_type": "custom", "pad": ints(1, 1)}
    assert torch.allclose(OPERATORS["avg_pool"](x, **window), torch.tensor([[[2 / 3, 1.0]]]))
    assert torch.allclose(
        OPERATORS["avg_pool"](x, **window, exclude_padding_from_average=True), torch.ones(1)
    )
    with pytest.raises(ValueError, match="rounds sizes up"):
        OPERATORS["max_pool"](x, ints(2), ceil_mode=True)


def test_layer_norm_over_inner_axes() -> None:
    x, gamma, beta = torch.randn(2, 3, 4, 5), torch.randn(3, 4), torch.randn(3, 4)
    mean = x.numpy().mean((1, 2), keepdims=True)
    normal = (x.numpy() - mean) / np.sqrt(x.numpy().var((1, 2), keepdims=True) + 1e-3)
    found = OPERATORS["layer_norm"](x, ints(1, -2), gamma, beta, 1e-3)
    assert np.allclose(
        found, normal * gamma.numpy()[None, :, :, None] + beta.numpy()[None, :, :, None], atol=1e-5
    )


@given(st.integers(1, 7), st.integers(1, 6), st.sampled_from([1, 2, 4]))
def test_packed_weights(rows: int, columns: int, bits: int) -> None:
    values = np.random.default_rng(rows).integers(0, 1 << bits, (rows, columns))
    digits = (values.reshape(-1, 1) >> np.arange(bits)) & 1
    packed = np.packbits(digits.reshape(-1).astype(np.uint8), bitorder="little")
    assert np.array_equal(from_bytes(packed.tobytes(), f"UINT{bits}", (rows, columns)), values)
    table = torch.arange(1 << bits) * 0.5 - 1
    dense = OPERATORS["constexpr_lut_to_dense"](torch.from_numpy(packed), table, ints(rows, columns))
    assert np.allclose(dense, values * 0.5 - 1)


def test_narrow_integers_have_a_sign() -> None:
    assert from_bytes(bytes([0x8F, 0x07]), "INT4", (4,)).tolist() == [-1, -8, 7, 0]


def test_scales_by_channel_and_by_block() -> None:
    q = torch.tensor([[1, 2], [3, 4]], dtype=torch.int8)
    by_row = OPERATORS["constexpr_affine_dequantize"](q, ints(0, 1), torch.tensor([0.5, 2.0]), ints(0))
    assert by_row.tolist() == [[0.5, 1.0], [4.0, 6.0]]
    by_block = OPERATORS["constexpr_blockwise_shift_scale"](q, torch.tensor([[0.5], [2.0]]))
    assert by_block.tolist() == [[0.5, 1.0], [6.0, 8.0]]
    sparse = OPERATORS["constexpr_sparse_to_dense"](torch.tensor([5.0, 6.0]), torch.tensor([[1, 0], [0, 1]]))
    assert sparse.tolist() == [[5.0, 0.0], [0.0, 6.0]]
    steps = OPERATORS["quantize"](torch.tensor([0.6, -99.0]), torch.tensor(0.5))
    assert steps.tolist() == [1.0, -128.0]


@given(
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(0, 1),
    st.integers(0, 2),
    st.booleans(),
)
def test_a_transposed_convolution_is_pytorchs_also_beyond_its_input(
    size: int, kernel: int, stride: int, padding: int, behind: int, groups: bool
) -> None:
    behind = min(behind, stride - 1)
    padding = min(padding, kernel // 2)
    parts = 2 if groups else 1
    net = torch.nn.ConvTranspose2d(4, 2, kernel, stride, padding, output_padding=behind, groups=parts)
    x = torch.rand(3, 4, size, size + 1)
    with torch.no_grad():
        expected = net(x)
        found = OPERATORS["conv_transpose"](
            x, net.weight, net.bias, ints(*[padding] * 4), ints(*expected.shape), "custom", ints(stride, stride),
            groups=parts,
        )  # fmt: skip
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-6)
