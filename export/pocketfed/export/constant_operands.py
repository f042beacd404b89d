"""Products with a constant: kept once, and on the right, where XNNPACK packs it when the program is loaded.

A view applies the same matrix to every capture of a batch, and tracing stores it once per capture, on either side.
"""

from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten


def constants_on_the_right(module: fx.GraphModule) -> fx.GraphModule:
    """The same function; every `mm` or `bmm` with one constant, equal for the whole batch, is an `mm` by it."""
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in (aten.mm.default, aten.bmm.default):
            continue
        left, right = (_shared_constant(module, operand) for operand in node.args)
        batched = node.target == aten.bmm.default
        with module.graph.inserting_before(node):
            if right is not None and left is None:
                new = _product(module, node.args[0], right, node)
            elif left is not None and right is None:  # A b = (b^T A^T)^T
                swap = [0, 2, 1] if batched else [1, 0]
                turned = module.graph.call_function(aten.permute.default, (node.args[1], swap))
                new = _product(module, turned, left.t().contiguous(), node)
                new = module.graph.call_function(aten.permute.default, (new, swap))
            else:
                continue
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    return fx.GraphModule(module, module.graph)  # without the constants that nobody uses any more


def _product(module: fx.GraphModule, rows: Any, matrix: Tensor, node: fx.Node) -> fx.Node:
    """[..., k] by a constant [k, p] -> [..., p], with at most one leading batch axis."""
    graph, name = module.graph, f"{node.name}_matrix"
    module.register_buffer(name, matrix)
    constant = graph.get_attr(name)
    if node.target == aten.mm.default:
        return graph.call_function(aten.mm.default, (rows, constant))
    flat = graph.call_function(aten.reshape.default, (rows, [-1, matrix.shape[0]]))
    product = graph.call_function(aten.mm.default, (flat, constant))
    batch = node.meta["val"].shape[0]
    return graph.call_function(aten.reshape.default, (product, [batch, -1, matrix.shape[1]]))


def _shared_constant(module: fx.GraphModule, operand: Any) -> Tensor | None:
    """The matrix [k, p] that a constant operand is for every member of the batch; None if there is none."""
    if operand.target == aten.reshape.default and operand.args[0].op == "get_attr":
        # A batch of one, whose axis the lowering took away.
        value: Tensor = getattr(module, operand.args[0].target).reshape(operand.args[1])
    elif operand.op == "get_attr":
        value = getattr(module, operand.target)
    else:
        return None
    if value.dim() == 2:
        return value
    return value[0] if bool((value == value[:1]).all()) else None
