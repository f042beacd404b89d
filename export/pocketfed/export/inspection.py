"""What an exported program is made of, read from its bytes alone.

The reader of the file format is private to ExecuTorch; tests/export/test_inspection.py says when it changed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pocketfed.core.errors import ExportError
from pocketfed.export.delegation import CHEAP
from pocketfed.export.executorch import exporting
from pocketfed.export.xnnpack_operators import BACKEND, xnnpack_operators


@dataclass(frozen=True)
class MethodParts:
    """One method of a program.

    Attributes:
        delegates: backends, one entry for each piece that a backend runs.
        kernels: how often each operator runs outside a backend, as a portable kernel.
        arena_bytes: memory that ExecuTorch plans for it; a backend's own workspace comes on top.
        inside: how often each operator occurs in XNNPACK's pieces, by XNNPACK's names, if they were opened.
    """

    delegates: tuple[str, ...]
    kernels: Mapping[str, int]
    arena_bytes: int
    inside: Mapping[str, int] = field(default_factory=dict)

    @property
    def operators(self) -> dict[str, int]:
        """All of which it is known how often they run, most frequent first."""
        return dict((Counter(self.kernels) + Counter(self.inside)).most_common())

    @property
    def slow(self) -> dict[str, int]:
        """The portable kernels that are not cheap."""
        return {name: count for name, count in self.kernels.items() if name not in CHEAP}


def slow_operators(program: bytes) -> list[str]:
    """One line for each method and operator that a slow portable kernel runs, with how often."""
    return [
        f"{method}: {operator}, {count} times"
        for method, parts in inspect_program(program).items()
        for operator, count in parts.slow.items()
    ]


def inspect_program(program: bytes, open_pieces: bool = False) -> dict[str, MethodParts]:
    """Every method of a program, by name.

    Args:
        program: a `.pte`.
        open_pieces: whether to look into XNNPACK's pieces, too, which takes longer. Other backends' stay closed.

    Raises:
        ExportError: the bytes are no ExecuTorch program, or one that refers to what it does not have.
    """
    with exporting():
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.exir.schema import DelegateCall, KernelCall

    parts = {}
    try:
        whole = deserialize_pte_binary(program).program
        for plan in whole.execution_plan:
            calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
            names = [
                _at(plan.operators, call.op_index).name for call in calls if isinstance(call, KernelCall)
            ]
            delegates = [
                _at(plan.delegates, call.delegate_index).id
                for call in calls
                if isinstance(call, DelegateCall)
            ]
            parts[plan.name] = MethodParts(
                tuple(delegates),
                {name: names.count(name) for name in dict.fromkeys(names)},
                sum(plan.non_const_buffer_sizes),
                _inside(whole, plan) if open_pieces else {},
            )
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"these {len(program)} bytes are no ExecuTorch program: {error}") from error
    return parts


def _at(table: Sequence[Any], index: int) -> Any:
    """An entry of one of a program's tables; an index from the end, as Python has them, is none of ExecuTorch's."""
    if not 0 <= index < len(table):
        raise IndexError(f"it refers to entry {index} of {len(table)}")
    return table[index]


def _inside(program: Any, plan: Any) -> Counter[str]:
    """Of ExecuTorch's own objects for a program and one of its methods."""
    found = Counter[str]()
    for piece in plan.delegates:
        if piece.id == BACKEND:
            content = _at(program.backend_delegate_data, piece.processed.index).data
            found.update(xnnpack_operators(bytes(content)))
    return found
