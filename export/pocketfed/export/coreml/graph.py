"""A lowered graph written down as a Core ML program, operator by operator, all of it in float32.

The lowering leaves few kinds of operators, each with a twin in MIL (operators.py), so no frontend has to trace the graph
again, and the converter's passes have nothing left to find: thousands of operators take seconds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from pocketfed.core.errors import ExportError
from pocketfed.export.coreml.convert import fresh_names
from pocketfed.export.coreml.operators import RULES, sizes_of
from pocketfed.export.delegation import operator_name
from pocketfed.export.lowering.graph.builder import shape, tensor_attribute
from pocketfed.export.quiet import coremltools, quiet
from pocketfed.export.rewrites import advice

PASSES = ("common::const_deduplication", "common::dead_code_elimination")
"""All that the converter's passes are asked for."""

AXES = 5
"""How many a tensor of Core ML may have."""


def graph_package(module: fx.GraphModule, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """An ML program for iOS 17 and later that computes what a lowered graph does.

    Args:
        module: as `lowering.lower` makes it; what it takes as bytes, the program takes as float32.
        inputs, outputs: names, in order.

    Returns:
        coremltools' model, to be saved by `convert.save`; inputs and outputs are float32, scalars have the shape [1].

    Raises:
        ExportError: Core ML has no twin of an operator; the message has all of them and where they come from.
    """
    refuse_unknown(module)
    ct = coremltools()
    with quiet():
        fresh_names()
        return ct.convert(
            _program(module, inputs, outputs, ct.target.iOS17),
            convert_to="mlprogram",
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline(pass_names=list(PASSES), pipeline_name="lowered"),
            skip_model_load=True,
        )


def refuse_unknown(module: fx.GraphModule) -> None:
    """Nothing, if Core ML has a twin of every operator.

    Raises:
        ExportError: with every other operator, where it was called, and what to write instead.
    """
    problems = []
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        name, place = operator_name(node), str(node.meta.get("stack_trace", "")).strip()
        called = f", called {place}" if place else ""
        if node.target not in RULES:
            problems.append(f"{name} on {shape(node)}{called}; {advice(name)}")
        elif len(shape(node)) > AXES:
            problems.append(f"{name} with {len(shape(node))} axes, {AXES} are allowed{called}")
    if problems:
        raise ExportError("Core ML does not take:\n" + "\n".join(dict.fromkeys(problems)))


def _program(module: fx.GraphModule, inputs: Sequence[str], outputs: Sequence[str], target: Any) -> Any:
    from coremltools.converters.mil import Builder, Function, Program

    graph = module.graph
    takes = dict(zip(inputs, graph.find_nodes(op="placeholder"), strict=True))
    specs = {name: Builder.placeholder(shape=sizes_of(node)) for name, node in takes.items()}
    with Function(specs, target) as function:
        known = {node: function.inputs[name] for name, node in takes.items()}
        for node in graph.nodes:
            if node.op == "get_attr":
                value = tensor_attribute(module, str(node.target)).to(torch.float32)
                known[node] = Builder.const(val=value.reshape(sizes_of(node)).numpy(), name=node.name)
            elif node.op == "call_function":
                known[node] = _called(Builder, node, known)
        results: Any = graph.output_node().args[0]
        given = [
            Builder.identity(x=known[node], name=name) for name, node in zip(outputs, results, strict=True)
        ]
        function.set_outputs(given)
    program = Program()
    program.add_function("main", function)
    return program


def _called(builder: Any, node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
    args: Any = fx.map_arg(node.args, known.__getitem__)
    values = [np.float32(value) if isinstance(value, float) else value for value in args]
    rule: Any = RULES[node.target]  # type: ignore[index]
    return rule(builder, *values, name=node.name, like=node)
