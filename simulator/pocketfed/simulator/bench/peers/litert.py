"""LiteRT (TensorFlow Lite): a signature whose body is the whole step, `tf.GradientTape` inside, run by its interpreter.

This is the documented way of on-device training. Gradients of convolutions are TensorFlow operators (Flex), because
LiteRT has none of its own; the rest are LiteRT's. TensorFlow 2.18 is the last whose interpreter can run them:
google-ai-edge/LiteRT issue 6458.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfed.core.errors import PeerError
from pocketfed.mobile_client.native_log import native_stderr_hidden
from pocketfed.simulator.bench.peers.forward_graph import attributes_of, forward_graph, interpret
from pocketfed.simulator.bench.peers.peer import Workload

aten = torch.ops.aten
NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)
NHWC_DIM = (0, 3, 1, 2)
"""Where dimension 0, 1, 2, 3 of ATen is in a tensor of four; LiteRT keeps channels last, and so does everything here."""


class LiteRtTrainer:
    """LiteRT's interpreter; weights and momenta are resource variables inside it."""

    def __init__(self, workload: Workload) -> None:
        import tensorflow as tf

        self._model = _converted(workload)
        self._views = _array(workload.views)
        with native_stderr_hidden():
            interpreter = tf.lite.Interpreter(model_content=self._model, num_threads=workload.threads)
            self._run = interpreter.get_signature_runner("train")

    def step(self) -> float:
        """See `Trainer`.

        Raises:
            PeerError: the interpreter cannot run the signature, for one because this TensorFlow has no Flex.
        """
        try:
            return float(np.asarray(self._run(views=self._views)["loss"]).item())
        except RuntimeError as error:
            raise PeerError(f"LiteRT cannot run the training signature: {error}") from error


def build(workload: Workload) -> LiteRtTrainer:
    """Convert the step to LiteRT's format and load it.

    Raises:
        PeerError: an operator has no translation.
    """
    return LiteRtTrainer(workload)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    array = tensor.detach().numpy()
    return np.array(array.transpose(NHWC) if array.ndim == 4 else array, order="C")


def _kernel(tensor: torch.Tensor) -> NDArray[Any]:
    """A weight; of a convolution [o, i, h, w] -> [h, w, i, o], of a depthwise one [c, 1, h, w] -> [h, w, c, 1]."""
    array = tensor.detach().numpy()
    if array.ndim != 4:
        return np.array(array, order="C")
    return np.array(
        array.transpose(2, 3, 0, 1) if array.shape[1] == 1 else array.transpose(2, 3, 1, 0), order="C"
    )


def _converted(workload: Workload) -> bytes:
    """The step as a LiteRT model: `torch.optim.SGD` behind the gradients of the tape."""
    import tensorflow as tf

    graph = forward_graph(workload.module, workload.views, whole=[aten.group_norm.default])
    tensors = attributes_of(graph)
    names = [name for name, _ in graph.named_parameters() if name in tensors]
    owner = tf.Module()
    owner.weights = [tf.Variable(_kernel(tensors[name])) for name in names]
    owner.momenta = [tf.Variable(tf.zeros_like(weight)) for weight in owner.weights]
    constants = {name: tf.constant(_array(tensor)) for name, tensor in tensors.items() if name not in names}
    operators = _operators()

    def train(views: Any) -> Mapping[str, Any]:
        weights = [tf.convert_to_tensor(weight) for weight in owner.weights]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            attributes = constants | dict(zip(names, weights, strict=True))
            loss = interpret(graph, views, attributes, operators, "LiteRT")
        gradients = tape.gradient(loss, weights)
        for weight, momentum, gradient, value in zip(
            owner.weights, owner.momenta, gradients, weights, strict=True
        ):
            moved = workload.momentum * momentum + gradient + workload.weight_decay * value
            momentum.assign(moved)
            weight.assign(value - workload.learning_rate * moved)
        return {"loss": loss}

    signature = [tf.TensorSpec(_array(workload.views).shape, tf.float32, name="views")]
    owner.train = tf.function(train, input_signature=signature, autograph=False)
    with tempfile.TemporaryDirectory() as folder, native_stderr_hidden():
        tf.saved_model.save(owner, folder, signatures={"train": owner.train.get_concrete_function()})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        converter.experimental_enable_resource_variables = True
        return bytes(converter.convert())


def _operators() -> Mapping[Any, Callable[..., Any]]:
    """For each ATen operator, the TensorFlow operators that compute it."""
    import tensorflow as tf

    def dims(x: Any, which: Sequence[int]) -> list[int]:
        return [NHWC_DIM[dim] if len(x.shape) == 4 else dim for dim in which]

    def to_aten(x: Any) -> Any:
        return tf.transpose(x, NCHW) if len(x.shape) == 4 else x

    def from_aten(x: Any) -> Any:
        return tf.transpose(x, NHWC) if len(x.shape) == 4 else x

    def view(x: Any, shape: Sequence[int]) -> Any:
        return from_aten(tf.reshape(to_aten(x), shape))

    def binary(operator: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def apply(x: Any, y: Any) -> Any:
            ranks = [len(getattr(value, "shape", ())) for value in (x, y)]
            if max(ranks) == 4 and 0 < min(ranks) < 4:  # ATen aligns the last dimensions
                short = 0 if ranks[0] < 4 else 1
                lower = (x, y)[short]
                lower = from_aten(tf.reshape(lower, [1] * (4 - len(lower.shape)) + list(lower.shape)))
                x, y = (lower, y) if short == 0 else (x, lower)
            return operator(x, y)

        return apply

    def reduction(operator: Callable[..., Any]) -> Callable[..., Any]:
        def apply(x: Any, which: Sequence[int], keep: bool = False) -> Any:
            rank = len(x.shape)
            which = [dim % rank for dim in which]
            reduced = operator(x, dims(x, which), keepdims=True)
            if keep:
                return reduced
            return tf.reshape(
                to_aten(reduced), [n for dim, n in enumerate(to_aten(x).shape) if dim not in which]
            )

        return apply

    def part(x: Any, dim: int, start: int, end: int) -> Any:
        (dim,) = dims(x, [dim])
        begin, size = [0] * len(x.shape), list(x.shape)
        begin[dim], size[dim] = start, end - start
        return tf.slice(x, begin, size)

    def clamp(x: Any, low: float | None = None, high: float | None = None) -> Any:
        x = x if low is None else tf.maximum(x, low)
        return x if high is None else tf.minimum(x, high)

    def linear(x: Any, weight: Any, bias: Any = None) -> Any:
        product = tf.matmul(x, weight, transpose_b=True)
        return product if bias is None else product + bias

    def group_norm(
        x: Any,
        groups: int,
        weight: Any = None,
        bias: Any = None,
        eps: float = 1e-5,
        cudnn_enabled: bool = True,
    ) -> Any:
        if len(x.shape) != 4:
            raise PeerError(
                f"cannot train this network: group normalisation is translated for images, not {x.shape}"
            )
        n, h, w, c = x.shape
        grouped = tf.reshape(x, [n, h * w, groups, c // groups])
        centred = grouped - tf.reduce_mean(grouped, [1, 3], keepdims=True)
        variance = tf.reduce_mean(centred * centred, [1, 3], keepdims=True)
        y = tf.reshape(centred * tf.math.rsqrt(variance + eps), [n, h, w, c])
        y = y if weight is None else y * weight
        return y if bias is None else y + bias

    return {
        aten.conv2d.default: _convolution,
        aten.group_norm.default: group_norm,
        aten.linear.default: linear,
        aten.mm.default: tf.matmul,
        aten.permute.default: lambda x, order: from_aten(tf.transpose(to_aten(x), order)),
        aten.view.default: view,
        aten.slice.Tensor: part,
        aten.cat.default: lambda parts, dim=0: tf.concat(
            parts, dims(parts[0], [dim % len(parts[0].shape)])[0]
        ),
        aten.add.Tensor: binary(tf.add),
        aten.sub.Tensor: binary(tf.subtract),
        aten.mul.Tensor: binary(tf.multiply),
        aten.div.Tensor: binary(tf.divide),
        aten.relu.default: tf.nn.relu,
        aten.sigmoid.default: tf.sigmoid,
        aten.tanh.default: tf.tanh,
        aten.erf.default: tf.math.erf,
        aten.exp.default: tf.exp,
        aten.log.default: tf.math.log,
        aten.sqrt.default: tf.sqrt,
        aten.clamp.default: clamp,
        aten.sum.dim_IntList: reduction(tf.reduce_sum),
        aten.mean.dim: reduction(tf.reduce_mean),
        aten.amax.default: reduction(tf.reduce_max),
        aten.detach.default: tf.stop_gradient,
    }


def _convolution(
    x: Any,
    kernel: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    """`kernel` as `_kernel` lays it out; "SAME" where it is symmetric, else zeros are padded before."""
    import tensorflow as tf

    size = kernel.shape[:2]
    rule = "VALID"
    if list(stride) == [1, 1] and all(
        2 * p == d * (k - 1) for p, d, k in zip(padding, dilation, size, strict=True)
    ):
        rule = "SAME"
    elif any(padding):
        x = tf.pad(x, [[0, 0], [padding[0]] * 2, [padding[1]] * 2, [0, 0]])
    if groups == 1:
        if kernel.shape[3] == 1 and x.shape[3] == 1:
            kernel = tf.transpose(kernel, (0, 1, 3, 2))
        y = tf.nn.conv2d(x, kernel, list(stride), rule, dilations=list(dilation))
    elif groups == x.shape[3] == kernel.shape[2] and kernel.shape[3] == 1:
        y = tf.nn.depthwise_conv2d(x, kernel, [1, *stride, 1], rule, dilations=list(dilation))
    else:
        raise PeerError(
            f"cannot train this network: LiteRT has no convolution of {groups} groups of several channels"
        )
    return y if bias is None else y + bias
