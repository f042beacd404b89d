"""Which nodes of a graph depend on which, in a bit for each pair.

Both partitioners that share a graph out to backends, PyTorch's and ExecuTorch's over it, keep a set of all that depends on a
node for every node: of a published network with branches that takes more than 20 GB. Private to PyTorch and ExecuTorch;
tests/export/test_dependencies.py says when it changed.
"""

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from unittest.mock import patch

from torch import fx


@contextmanager
def dependencies_in_bits() -> Iterator[None]:
    """While this is open, partitioners look dependencies up in `Dependencies`."""
    from executorch.exir.backend.canonical_partitioners import group_partitioner
    from torch.fx.passes.infra import partitioner

    with (
        patch.object(partitioner, "_DependencyViewer", Dependencies),
        patch.object(group_partitioner, "_DependencyViewer", Dependencies),
    ):
        yield


class Dependencies:
    """What a partitioner asks of a graph's dependencies."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        """Of the graph as it is now."""
        self._nodes = list(graph_module.graph.nodes)
        self._places = {node: place for place, node in enumerate(self._nodes)}
        self._bits: dict[fx.Node, int] = {}
        for node in reversed(self._nodes):
            bits = 0
            for user in node.users:
                bits |= self._bits[user] | 1 << self._places[user]
            self._bits[node] = bits

    def downstreams_of(self, node: fx.Node) -> AbstractSet[fx.Node]:
        """All that depends on a node, which is not among them."""
        return _Chosen(self._nodes, self._places, self._bits.get(node, 0))


class _Chosen(AbstractSet[fx.Node]):
    """Nodes by a bit each: the n-th has 2^n."""

    def __init__(self, nodes: Sequence[fx.Node], places: dict[fx.Node, int], bits: int) -> None:
        self._nodes, self._places, self._bits = nodes, places, bits

    def __contains__(self, node: object) -> bool:
        place = self._places.get(node)  # type: ignore[call-overload]
        return place is not None and bool(self._bits >> place & 1)

    def __iter__(self) -> Iterator[fx.Node]:
        digits = f"{self._bits:b}"[::-1]
        place = digits.find("1")
        while place >= 0:
            yield self._nodes[place]
            place = digits.find("1", place + 1)

    def __len__(self) -> int:
        return self._bits.bit_count()
