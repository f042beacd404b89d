"""What XNNPACK took of a graph and what it left, and the refusal of what would be slow."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from pocketfed.core.errors import ExportError
from pocketfed.export.rewrites import advice

CHEAP = frozenset({"dim_order_ops::_to_dim_order_copy", "aten::_to_copy"})
"""Portable kernels that cost next to nothing: XNNPACK knows floats only, so bytes are cast outside it."""

_PLUMBING = frozenset({"executorch_call_delegate", "getitem"})


def operator_name(node: fx.Node) -> str:
    """Of a call, like `aten.mm.default`."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    return str(getattr(target, "__name__", target))


def kernel_name(node: fx.Node) -> str:
    """Of what runs a call, as programs have it, like `aten::mm`."""
    return operator_name(node).rpartition(".")[0].replace(".", "::", 1)


def portable_nodes(graph: fx.Graph) -> list[fx.Node]:
    """What is left to portable kernels."""
    return [
        node for node in graph.nodes if node.op == "call_function" and operator_name(node) not in _PLUMBING
    ]


def refuse_slow(portable: Mapping[str, Sequence[fx.Node]], sources: Mapping[str, nn.Module]) -> None:
    """Nothing, if all these portable nodes are cheap.

    Args:
        portable: by method.
        sources: the module that each method was exported from.

    Raises:
        ExportError: with every other operator, its shape, where it comes from and what to write instead.
    """
    problems = [
        f"method {name!r}: {operator_name(node)} on {shape_of(node)}{_origin(node, sources[name])}; "
        f"{advice(operator_name(node))}"
        for name, nodes in portable.items()
        for node in nodes
        if kernel_name(node) not in CHEAP
    ]
    if problems:
        raise ExportError(
            "XNNPACK, the fast backend of phones, does not take:\n"
            + "\n".join(dict.fromkeys(problems))
            + "\nTo run these on slow kernels all the same, give --allow-portable (allow_portable=True)."
        )


def shape_of(node: fx.Node) -> str:
    """Of a node's result, for people."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return "several tensors"
    sizes = (str(size) if isinstance(size, int) else "n" for size in value.shape)  # of a batch of any size
    return f"[{', '.join(sizes)}] {value.dtype}"


def module_of(node: fx.Node) -> str:
    """` in module PATH`, if the node came from a module; otherwise nothing."""
    modules = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values() if path]
    return f" in module {modules[-1]}" if modules else ""


def _origin(node: fx.Node, source: nn.Module) -> str:
    """Where the operator comes from, if known: its module's path, or what `lowering.trace` noted of its callers.

    A lowered graph is exported anew, so a node is known by operator and shape only: callers are all that have both.
    """
    module = module_of(node)
    if module or not isinstance(source, fx.GraphModule):
        return module
    callers = dict.fromkeys(
        str(original.meta["stack_trace"]).strip()
        for original in source.graph.nodes
        if original.op == "call_function"
        and original.meta.get("stack_trace")
        and (operator_name(original), shape_of(original)) == (operator_name(node), shape_of(node))
    )
    return ", called " + " and ".join(callers) if callers else ""
