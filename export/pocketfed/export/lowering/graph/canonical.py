"""The first rewrite: many ATen operators become the few that the later stages and XNNPACK know.

Constants are computed now, every move of memory becomes a reshape, permute, slice, cat or pad, every number
a float, every comparison a float mask, and every broadcast waits until something needs it spelled out.
"""

import operator
from typing import Any

import torch
from torch import fx

from pocketfed.core.errors import ExportError
from pocketfed.export.lowering.graph.arithmetic import ARITHMETIC
from pocketfed.export.lowering.graph.builder import Builder, tensor_attribute
from pocketfed.export.lowering.graph.elementwise import BINARY, UNARY, elementwise
from pocketfed.export.lowering.graph.masks import MASKS
from pocketfed.export.lowering.graph.moves import MOVES

aten = torch.ops.aten

RULES = MOVES | ARITHMETIC | MASKS


def canonicalise(module: fx.GraphModule, share: bool) -> fx.GraphModule:
    """The same function in fewer kinds of operators. `share`: compute equal expressions once."""
    builder = Builder(share)
    known: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), known.__getitem__)
        if node.op == "placeholder":
            known[node] = builder.placeholder(node.name, node.meta["val"])
        elif node.op == "get_attr":
            known[node] = builder.constant(tensor_attribute(module, str(node.target)))
        elif node.op == "output":
            return builder.finish(tuple(args[0]))
        else:
            known[node] = _rewrite(builder, node.target, args, kwargs)
            _remember_source(known[node], node)
    raise AssertionError("a graph ends with its output")


def _rewrite(builder: Builder, target: Any, args: Any, kwargs: Any) -> Any:
    if target is operator.getitem:
        return args[0][args[1]] if isinstance(args[0], tuple) else builder.call(target, *args)
    if torch.Tag.nondeterministic_seeded in target.tags:
        raise ExportError(
            f"{target} draws random numbers inside the step, which a phone would repeat every time; "
            "pass random numbers in as an input."
        )
    rule = RULES.get(target)
    if target._schema.is_mutable and rule is None:
        raise ExportError("the step writes into one of its inputs; return a new tensor instead.")
    folded = builder.fold(target, args, kwargs)
    if folded is not None:
        return folded
    if rule is not None:
        return rule(builder, *args, **kwargs)
    if target in UNARY or target in BINARY:
        return elementwise(builder, target, *args, **kwargs)
    return builder.call(target, *args, **kwargs)


def _remember_source(result: Any, node: fx.Node) -> None:
    """Keeps the line of Python that asked for an operator, for error messages."""
    if isinstance(result, fx.Node) and "stack_trace" in node.meta:
        result.meta.setdefault("stack_trace", node.meta["stack_trace"])
