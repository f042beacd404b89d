"""ONNX Runtime's training build (1.19.2 is its last release): one ONNX graph that holds the whole step.

Forward pass from our graph, backward pass by ONNX Runtime's gradient builder, then SGD in ONNX operators, because its
own SGD has neither momentum nor weight decay. Weights and momenta are inputs and outputs that swap places.
"""

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
OPSET, IR_VERSION = 17, 9  # the newest for which version 1.19 has all gradients
VIEWS, LOSS = "views", "loss"


class OnnxRuntimeTrainer:
    """A session and two sets of buffers for weights and momenta: each step reads one set and writes the other."""

    def __init__(self, workload: Workload) -> None:
        import onnxruntime

        graph_module = forward_graph(workload.module, workload.views)
        tensors = {name: _array(tensor) for name, tensor in attributes_of(graph_module).items()}
        weights = {name: tensors[name] for name, _ in graph_module.named_parameters() if name in tensors}

        builder = _Builder("forward", {name: array for name, array in tensors.items() if name not in weights})
        loss = interpret(
            graph_module, VIEWS, {name: name for name in tensors}, builder.operators(), "ONNX Runtime"
        )
        builder.add("Identity", loss, output=LOSS)
        model = _with_update(_with_gradients(builder, weights, workload), weights, workload)

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = workload.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        state = dict(weights) | {_momentum(name): np.zeros_like(array) for name, array in weights.items()}
        value = (
            onnxruntime.OrtValue.ortvalue_from_numpy
        )  # shares memory, and a binding does not keep it alive
        self._views, self._loss = value(_array(workload.views)), value(np.zeros((), np.float32))
        self._sets = [{name: value(array.copy()) for name, array in state.items()} for _ in range(2)]
        self._bindings = []
        for read, written in (self._sets, self._sets[::-1]):
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(VIEWS, self._views)
            binding.bind_ortvalue_output(LOSS, self._loss)
            for name in state:
                binding.bind_ortvalue_input(name, read[name])
                binding.bind_ortvalue_output(_next(name), written[name])
            self._bindings.append(binding)

    def step(self) -> float:
        """See `Trainer`."""
        self._session.run_with_iobinding(self._bindings[0])
        self._bindings.reverse()
        return float(self._loss.numpy())


def build(workload: Workload) -> OnnxRuntimeTrainer:
    """Build the step's graph and load it.

    Raises:
        PeerError: an operator has no translation, or ONNX Runtime no gradient for it.
    """
    return OnnxRuntimeTrainer(workload)


def _array(tensor: torch.Tensor) -> NDArray[Any]:
    return np.array(tensor.detach().numpy(), order="C")


def _momentum(name: str) -> str:
    return f"{name}.momentum"


def _next(name: str) -> str:
    return f"{name}.next"


def _with_gradients(builder: "_Builder", weights: Mapping[str, NDArray[Any]], workload: Workload) -> Any:
    """The forward graph as an ONNX model, and each weight's gradient beside it, named `<weight>_grad`."""
    import onnx
    from onnxruntime.capi._pybind_state import GradientGraphBuilder

    shapes = {VIEWS: tuple(workload.views.shape)} | {name: array.shape for name, array in weights.items()}
    graph = onnx.helper.make_graph(
        builder.nodes,
        "step",
        [_float(name, shape) for name, shape in shapes.items()]
        + [_float(name, None) for name in builder.detached],
        [_float(LOSS, ())],
        builder.initializers(),
    )
    opset = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    try:
        with native_stderr_hidden():  # it reports each of its passes
            gradients = GradientGraphBuilder(model.SerializeToString(), {LOSS}, set(weights), LOSS, None)
            gradients.build()
    except RuntimeError as error:
        raise PeerError(f"cannot train this network: ONNX Runtime builds no gradient: {error}") from error
    model = onnx.load_from_string(gradients.get_model())
    _connect(model.graph, builder.detached)
    return model


def _connect(graph: Any, detached: Mapping[str, str]) -> None:
    """Turn inputs into copies of the values that they stand for, each behind the node that computes its value."""
    import onnx

    for copy, source in detached.items():
        graph.input.remove(next(value for value in graph.input if value.name == copy))
        place = next(i for i, node in enumerate(graph.node) if source in node.output)
        graph.node.insert(place + 1, onnx.helper.make_node("Identity", [source], [copy], name=copy))


def _with_update(model: Any, weights: Mapping[str, NDArray[Any]], workload: Workload) -> bytes:
    """`torch.optim.SGD` behind the gradients: g' = g + decay w;  m' = momentum m + g';  w' = w - rate m'."""

    builder = _Builder("update", {})
    for name, array in weights.items():
        gradient = builder.add("Add", f"{name}_grad", builder.add("Mul", name, workload.weight_decay))
        kept = builder.add("Mul", _momentum(name), workload.momentum)
        momentum = builder.add("Add", kept, gradient, output=_next(_momentum(name)))
        builder.add("Sub", name, builder.add("Mul", momentum, workload.learning_rate), output=_next(name))
        model.graph.input.append(_float(_momentum(name), array.shape))
        model.graph.output.extend(
            [_float(_next(name), array.shape), _float(_next(_momentum(name)), array.shape)]
        )
    model.graph.node.extend(builder.nodes)
    model.graph.initializer.extend(builder.initializers())
    return bytes(model.SerializeToString())


def _float(name: str, shape: Sequence[int] | None) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


class _Builder:
    """ONNX nodes in the making. A value is the name of a tensor; numbers and lists become constants."""

    def __init__(self, prefix: str, constants: Mapping[str, NDArray[Any]]) -> None:
        self.nodes: list[Any] = []
        self.detached: dict[str, str] = {}
        self._prefix, self._constants = prefix, dict(constants)

    def add(self, operator: str, *inputs: Any, output: str | None = None, **attributes: Any) -> str:
        """Append a node with one output; returns the output's name."""
        import onnx

        result = output or f"{self._prefix}_{len(self.nodes)}"
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        self.nodes.append(onnx.helper.make_node(operator, names, [result], name=result, **attributes))
        return result

    def initializers(self) -> list[Any]:
        """The constants as ONNX tensors."""
        import onnx

        return [onnx.numpy_helper.from_array(array, name) for name, array in self._constants.items()]

    def operators(self) -> Mapping[Any, Callable[..., str]]:
        """For each ATen operator, what appends its ONNX nodes."""

        def same(operator: str) -> Callable[..., str]:
            return lambda *inputs: self.add(operator, *inputs)

        return {
            aten.conv2d.default: self._convolution,
            aten.linear.default: self._linear,
            aten.mm.default: same("MatMul"),
            aten.permute.default: lambda x, order: self.add("Transpose", x, perm=order),
            aten.view.default: same("Reshape"),
            aten.slice.Tensor: lambda x, dim, start, end: self.add("Slice", x, [start], [end], [dim]),
            aten.cat.default: lambda parts, dim=0: self.add("Concat", *parts, axis=dim),
            aten.add.Tensor: same("Add"),
            aten.sub.Tensor: same("Sub"),
            aten.mul.Tensor: same("Mul"),
            aten.div.Tensor: same("Div"),
            aten.relu.default: same("Relu"),
            aten.sigmoid.default: same("Sigmoid"),
            aten.tanh.default: same("Tanh"),
            aten.erf.default: same("Erf"),
            aten.exp.default: same("Exp"),
            aten.log.default: same("Log"),
            aten.sqrt.default: same("Sqrt"),
            aten.clamp.default: self._clamp,
            aten.sum.dim_IntList: lambda x, dims, keep=False: self.add(
                "ReduceSum", x, dims, keepdims=int(keep)
            ),
            aten.mean.dim: lambda x, dims, keep=False: self.add(
                "ReduceMean", x, axes=dims, keepdims=int(keep)
            ),
            aten.amax.default: lambda x, dims, keep=False: self.add(
                "ReduceMax", x, axes=dims, keepdims=int(keep)
            ),
            aten.detach.default: self._detach,
        }

    def _constant(self, value: float | Sequence[int]) -> str:
        array = np.asarray(value, dtype=np.float32 if isinstance(value, int | float) else np.int64)
        name = f"{self._prefix}_constant_{len(self._constants)}"
        self._constants[name] = array
        return name

    def _convolution(
        self,
        x: str,
        weight: str,
        bias: str | None = None,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0),
        dilation: Sequence[int] = (1, 1),
        groups: int = 1,
    ) -> str:
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return self.add(
            "Conv", *inputs, strides=stride, pads=[*padding, *padding], dilations=dilation, group=groups
        )

    def _linear(self, x: str, weight: str, bias: str | None = None) -> str:
        return self.add("Gemm", *([x, weight] if bias is None else [x, weight, bias]), transB=1)

    def _detach(self, x: str) -> str:
        """No operator stops a gradient, so the copy is an input until the gradients are built."""
        copy = f"{x}_detached"
        self.detached[copy] = x
        return copy

    def _clamp(self, x: str, low: float | None = None, high: float | None = None) -> str:
        x = x if low is None else self.add("Max", x, low)
        return x if high is None else self.add("Min", x, high)
