"""Every operator that is known, in a saved program, against what coremltools itself makes of constants, or a formula.

coremltools folds constants with NumPy code of its own for most operators. One program has a use of each, with inputs in
place of the constants, so that names and defaults of arguments are those that a package really holds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pocketfed.export.coreml.convert import save
from pocketfed.export.mil import Precision, execute, read_package
from pocketfed.export.mil.operators import OPERATORS
from pocketfed.export.quiet import coremltools, quiet

ct = coremltools()

from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import Function, Program

Array = NDArray[Any]


def floats(values: Any) -> Array:
    return np.array(values, np.float32)


def ints(values: Any) -> Array:
    return np.array(values, np.int32)


RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Y = RNG.standard_normal((3, 1)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
HALVES = floats([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.2, -3.7])
WHOLE = ints([[-7, 7, -6], [5, 0, 3]])
DIVISOR = ints([2, -2, 4])
FLAGS = np.array([[True, False, True], [False, False, True]])
OTHERS = np.array([[True, True, False], [False, True, True]])
PHOTO = RNG.standard_normal((2, 4, 5, 6)).astype(np.float32)
CHANNELS = RNG.standard_normal((4, 4)).astype(np.float32)


@dataclass(frozen=True)
class Use:
    """An operator with arguments.

    Attributes:
        tensors: arguments that a program computes; some take several.
        constants: arguments that are part of the program.
        formula: what comes out, where coremltools does not work it out, or not rightly (9.0 does not interleave, and fails
            on sums that leave out the element itself).
    """

    operator: str
    tensors: Mapping[str, Array | tuple[Array, ...]]
    constants: Mapping[str, Any] = field(default_factory=dict)
    formula: Callable[[], Array] | None = None

    def build(self, wrap: Callable[[str, Array], Any]) -> tuple[Any, ...]:
        """Its results in the program that is being built, with tensors as `wrap` makes them of a name and a value."""
        arguments = {
            name: tuple(wrap(f"{name}{i}", part) for i, part in enumerate(value))
            if isinstance(value, tuple)
            else wrap(name, value)
            for name, value in self.tensors.items()
        }
        results = getattr(mb, self.operator)(**arguments, **self.constants)
        return tuple(results) if isinstance(results, tuple | list) else (results,)


def _convolved() -> Array:
    """Two groups, a stride of (2, 1), a dilation of (1, 2), padding of 1 above and 2 to the right; by its definition."""
    wide = np.pad(PHOTO, [(0, 0), (0, 0), (1, 0), (0, 2)])
    out = np.zeros((2, 2, 2, 4), np.float64)
    for group in range(2):
        for row in range(2):
            for column in range(4):
                window = wide[:, 2 * group : 2 * group + 2, 2 * row : 2 * row + 3, column : column + 5 : 2]
                out[:, group, row, column] = np.einsum("nchw,chw->n", window, KERNEL[group])
    return out + BIAS[:, None, None]


KERNEL = RNG.standard_normal((2, 2, 3, 3)).astype(np.float32)
BIAS = floats([0.5, -1.0])


def _transposed() -> Array:
    """Each input adds a kernel to the output, two apart."""
    out = np.zeros((2, 3, 10, 12), np.float64)
    for row in range(5):
        for column in range(6):
            out[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += np.einsum(
                "nc,cohw->nohw", PHOTO[:, :, row, column], UP
            )
    return out


UP = RNG.standard_normal((4, 3, 2, 2)).astype(np.float32)


def _windows() -> Array:
    """3 x 3, one apart, of the photo: [2, 4, 3, 4, 3, 3]."""
    return np.lib.stride_tricks.sliding_window_view(PHOTO, (3, 3), (2, 3))


def _normal(axes: tuple[int, ...]) -> Array:
    centred = PHOTO - PHOTO.mean(axes, keepdims=True)
    normal: Array = centred / np.sqrt(PHOTO.var(axes, keepdims=True) + 1e-3)
    return normal


def _resized(aligned: bool) -> Array:
    """To 7 by 9, row by row and column by column."""

    def along(values: Array, size: int) -> Array:  # the last axis
        have = values.shape[-1]
        at = (
            np.arange(size) * (have - 1) / (size - 1)
            if aligned
            else (np.arange(size) + 0.5) * have / size - 0.5
        )
        return np.apply_along_axis(lambda line: np.interp(at, np.arange(have), line), -1, values)

    return along(along(PHOTO.swapaxes(2, 3), 7).swapaxes(2, 3), 9)


def _attention() -> Array:
    scores = X @ X.swapaxes(1, 2) / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed: Array = weights @ X
    return mixed


UNARY = {
    "abs": X, "ceil": X, "cos": X, "erf": X, "exp": X, "exp2": X, "floor": X, "identity": X, "relu": 4 * X, "relu6": 4 * X,
    "round": HALVES, "sigmoid": X, "sign": floats([-2, 0, 3]), "sin": X, "softplus": X, "softsign": X,
    "sqrt": POSITIVE, "square": X, "tanh": X, "log": POSITIVE, "rsqrt": POSITIVE, "inverse": POSITIVE, "shape": X,
    "logical_not": FLAGS,
}  # fmt: skip
BINARY = (
    "add",
    "equal",
    "greater",
    "greater_equal",
    "less",
    "less_equal",
    "maximum",
    "minimum",
    "mul",
    "not_equal",
    "sub",
)

USES = [
    *(Use(name, {"x": value}) for name, value in UNARY.items()),
    *(Use(name, {"x": X, "y": Y}) for name in (*BINARY, "real_div", "floor_div", "mod")),
    *(Use(name, {"x": WHOLE, "y": DIVISOR}) for name in (*BINARY, "floor_div", "mod")),
    *(Use(name, {"x": FLAGS, "y": OTHERS}) for name in ("logical_and", "logical_or")),
    Use("pow", {"x": POSITIVE, "y": Y}),
    Use("silu", {"x": X}, formula=lambda: X / (1 + np.exp(-X))),
    *(Use("cast", {"x": 3 * X}, {"dtype": kind}) for kind in ("int32", "bool", "fp16", "fp32")),
    Use("clip", {"x": X}, {"alpha": -0.5, "beta": 0.25}),
    Use("elu", {"x": X}, {"alpha": 0.7}),
    Use("leaky_relu", {"x": X}, {"alpha": 0.2}),
    Use("sigmoid_hard", {"x": 4 * X}, {"alpha": 0.3, "beta": 0.4}),
    *(Use("gelu", {"x": X}, {"mode": mode}) for mode in ("EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION")),
    Use("select", {"cond": FLAGS, "a": WHOLE, "b": -WHOLE}),
    Use("fill_like", {"ref_tensor": X}, {"value": 2.5}),
    *(
        Use(name, {"x": X}, {"axes": [0, -1], "keep_dims": keep})
        for name in OPERATORS if name.startswith("reduce_") and name != "reduce_argmax"
        for keep in (True, False)
    ),
    Use("reduce_max", {"x": X}),
    Use("reduce_argmax", {"x": X}, {"axis": 1, "keep_dims": False}),
    Use("reduce_argmax", {"x": X}),
    Use("softmax", {"x": X}, {"axis": 1}),
    *(Use("cumsum", {"x": X}, {"axis": 1, "reverse": turned}) for turned in (True, False)),
    Use("cumsum", {"x": X}, {"axis": 1, "exclusive": True}, lambda: np.cumsum(X, 1) - X),
    Use("cumsum", {"x": X}, {"axis": 1, "exclusive": True, "reverse": True}, lambda: X.sum(1, keepdims=True) - np.cumsum(X, 1)),
    Use("reshape", {"x": X}, {"shape": [0, -1, 2]}),
    Use("transpose", {"x": X}, {"perm": [2, 0, 1]}),
    Use("expand_dims", {"x": X}, {"axes": [0, -1]}),
    Use("squeeze", {"x": Y}, {"axes": [-1]}),
    Use("concat", {"values": (X, -X, X)}, {"axis": -2}),
    Use("concat", {"values": (X, -X)}, {"axis": 1, "interleave": True}, lambda: np.stack([X, -X], 2).reshape(2, 6, 4)),
    Use("stack", {"values": (X, -X)}, {"axis": 1}),
    Use("split", {"x": X}, {"axis": 2, "num_splits": 2}),
    Use("split", {"x": X}, {"axis": -1, "split_sizes": [1, 3]}),
    Use("pad", {"x": X}, {"pad": [1, 2, 0, 3], "constant_val": 9.0}),
    Use("pad", {"x": PHOTO}, {"pad": [1, 2, 0, 3], "mode": "reflect"}),
    Use("pad", {"x": PHOTO}, {"pad": [1, 2, 0, 3], "mode": "replicate"}),
    Use("tile", {"x": X}, {"reps": [1, 2, 3]}),
    Use("reverse", {"x": X}, {"axes": [0, 2]}),
    Use("reverse", {"x": X}),
    Use("fill", {"shape": ints([2, 3])}, {"value": 1.5}, lambda: np.full((2, 3), 1.5)),
    Use("range_1d", {"start": ints(2), "end": ints(9), "step": ints(3)}),
    *(
        Use(
            "resize_bilinear", {"x": PHOTO},
            {"target_size_height": 7, "target_size_width": 9, "sampling_mode": mode},
            partial(_resized, mode == "STRICT_ALIGN_CORNERS"),
        )
        for mode in ("STRICT_ALIGN_CORNERS", "UNALIGN_CORNERS")
    ),
    Use("gather", {"x": X, "indices": ints([[2, 0], [1, 1]])}, {"axis": 1}),
    Use("gather_along_axis", {"x": X, "indices": RNG.integers(0, 3, (2, 5, 4)).astype(np.int32)}, {"axis": 1}),
    Use(
        "one_hot", {"indices": ints([2, 0, 1])}, {"one_hot_vector_size": 4, "axis": 0, "on_value": 5, "off_value": -1},
        lambda: np.where(np.arange(4)[:, None] == np.array([2, 0, 1]), 5, -1),
    ),
    Use("slice_by_index", {"x": X}, {"begin": [0, -1, 1], "end": [2, 0, 4], "stride": [1, -1, 2], "end_mask": [True, False, False]}),
    Use("slice_by_size", {"x": X}, {"begin": [1, 0, 2], "size": [1, -1, 2]}),
    Use("slice_update", {"x": X, "update": np.ones((2, 2, 2), np.float32)}, {"begin": [0, 1, 0], "end": [2, 3, 4], "stride": [1, 1, 2]}),
    Use("matmul", {"x": X, "y": X}, {"transpose_y": True}),
    Use("matmul", {"x": X, "y": X}, {"transpose_x": True}),
    Use("linear", {"x": X}, {"weight": CHANNELS, "bias": CHANNELS[0]}),
    Use("einsum", {"values": (PHOTO, PHOTO.swapaxes(1, 3).copy())}, {"equation": "nchw,nwhu->nchu"}),
    Use("scaled_dot_product_attention", {"query": X, "key": X, "value": X}, formula=_attention),
    Use("layer_norm", {"x": PHOTO}, {"axes": [1, 3], "epsilon": 1e-3}, lambda: _normal((1, 3))),
    Use("l2_norm", {"x": PHOTO}, {"epsilon": 1e-3}),
    Use(
        "batch_norm", {"x": PHOTO},
        {"mean": CHANNELS[0], "variance": CHANNELS[1] ** 2, "gamma": CHANNELS[2], "beta": CHANNELS[3], "epsilon": 1e-3},
        lambda: (PHOTO - CHANNELS[0][:, None, None])
        / np.sqrt(CHANNELS[1] ** 2 + 1e-3)[:, None, None]
        * CHANNELS[2][:, None, None]
        + CHANNELS[3][:, None, None],
    ),
    Use(
        "instance_norm", {"x": PHOTO}, {"gamma": CHANNELS[2], "beta": CHANNELS[3], "epsilon": 1e-3},
        lambda: _normal((2, 3)) * CHANNELS[2][:, None, None] + CHANNELS[3][:, None, None],
    ),
    Use(
        "conv", {"x": PHOTO},
        {
            "weight": KERNEL, "bias": BIAS, "strides": [2, 1], "dilations": [1, 2], "groups": 2,
            "pad_type": "custom", "pad": [1, 0, 0, 2],
        },
        _convolved,
    ),
    Use("conv_transpose", {"x": PHOTO}, {"weight": UP, "strides": [2, 2]}, _transposed),
    Use("avg_pool", {"x": PHOTO}, {"kernel_sizes": [3, 3], "pad_type": "valid"}, lambda: _windows().mean((4, 5))),
    Use("max_pool", {"x": PHOTO}, {"kernel_sizes": [3, 3], "pad_type": "valid"}, lambda: _windows().max((4, 5))),
    Use(
        "dequantize", {"input": np.array([[-128, 5], [7, 127]], np.int8)},
        {"scale": floats([0.5, 2.0]), "zero_point": np.array([3, -4], np.int8), "axis": 0},
        lambda: np.array([[-65.5, 1.0], [22.0, 262.0]]),
    ),
    Use("quantize", {"input": 40 * X}, {"scale": np.float32(0.5), "zero_point": np.int8(3), "output_dtype": "int8"}),
]  # fmt: skip

ELSEWHERE = {
    "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale", "constexpr_cast", "constexpr_lut_to_dense",
    "constexpr_sparse_to_dense",
}  # fmt: skip
"""How weights are stored: of constants only, and tested with packages that coremltools compressed."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Array]:
    """What the saved program of all uses gives, by the name of the output."""
    inputs: dict[str, Array] = {}
    narrow = {np.dtype(bool): "bool", np.dtype(np.int8): "int8"}  # no inputs of a program can be of these
    for place, use in enumerate(USES):
        for name, value in use.tensors.items():
            for index, part in enumerate(value if isinstance(value, tuple) else (value,)):
                several = str(index) if isinstance(value, tuple) else ""
                inputs[f"use{place}_{name}{several}"] = (
                    part.astype(np.int32) if part.dtype in narrow else part
                )
    types = {
        np.dtype(np.float32): ct.converters.mil.mil.types.fp32,
        np.dtype(np.int32): ct.converters.mil.mil.types.int32,
    }
    program = Program()
    with Function(
        {name: mb.placeholder(value.shape or (1,), types[value.dtype]) for name, value in inputs.items()},
        opset_version=ct.target.iOS18,
    ) as function:
        outputs = []
        for place, use in enumerate(USES):

            def argument(name: str, value: Array, place: int = place) -> Any:
                given = function.inputs[f"use{place}_{name}"]
                if not value.shape:
                    given = mb.squeeze(x=given, axes=[0])
                return mb.cast(x=given, dtype=narrow[value.dtype]) if value.dtype in narrow else given

            for index, result in enumerate(use.build(argument)):
                outputs.append(mb.cast(x=result, dtype="fp32", name=f"out{place}_{index}"))
        function.set_outputs(outputs)
    program.add_function("main", function)
    with quiet():
        model = ct.convert(
            program, convert_to="mlprogram", pass_pipeline=ct.PassPipeline.EMPTY, skip_model_load=True,
            minimum_deployment_target=ct.target.iOS18, compute_precision=ct.precision.FLOAT32,
        )  # fmt: skip
    path = tmp_path_factory.mktemp("operators") / "all.mlpackage"
    save(model, path)
    given = {name: torch.from_numpy(value.reshape(value.shape or (1,))) for name, value in inputs.items()}
    return {
        name: value.numpy() for name, value in execute(read_package(path), given, Precision.DECLARED).items()
    }


@pytest.mark.parametrize("place", range(len(USES)), ids=[f"{use.operator}-{i}" for i, use in enumerate(USES)])
def test_an_operator_gives_what_coremltools_works_out(place: int, results: dict[str, Array]) -> None:
    use = USES[place]
    if use.formula:
        expected = [use.formula()]
    else:
        with Function({}, opset_version=ct.target.iOS18), quiet():
            expected = [result.val for result in use.build(lambda name, value: mb.const(val=value))]
    assert all(value is not None for value in expected)
    for index, wanted in enumerate(expected):
        found = results[f"out{place}_{index}"]
        assert found.shape == np.shape(wanted)
        assert np.allclose(found, np.asarray(wanted).astype(np.float32), atol=1e-5, rtol=1e-5)


def test_no_operator_is_left_out() -> None:
    assert {use.operator for use in USES} | ELSEWHERE == OPERATORS.keys()
