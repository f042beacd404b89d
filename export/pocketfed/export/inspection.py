"""What an exported program is made of, read from its bytes alone.

The reader of the file format is private to ExecuTorch; tests/export/test_inspection.py says when it changed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
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
    """

    delegates: tuple[str, ...]
    kernels: Mapping[str, int]
    arena_bytes: int

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


def inspect_program(program: bytes) -> dict[str, MethodParts]:
    """Every method of a program, by name.

    Raises:
        ExportError: the bytes are no ExecuTorch program.
    """
    with exporting():
        from executorch.exir.schema import DelegateCall, KernelCall

    parts = {}
    for plan in _read(program).execution_plan:
        calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
        names = [plan.operators[call.op_index].name for call in calls if isinstance(call, KernelCall)]
        delegates = [
            plan.delegates[call.delegate_index].id for call in calls if isinstance(call, DelegateCall)
        ]
        parts[plan.name] = MethodParts(
            tuple(delegates),
            {name: names.count(name) for name in dict.fromkeys(names)},
            sum(plan.non_const_buffer_sizes),
        )
    return parts


def count_inside(program: bytes) -> dict[str, dict[str, int]]:
    """How often each operator occurs in every method, most frequent first.

    Portable kernels have their own names, and what XNNPACK runs has XNNPACK's; other backends' pieces are not opened.

    Raises:
        ExportError: the bytes are no ExecuTorch program.
    """
    whole, found = _read(program), {}
    for method, parts in inspect_program(program).items():
        plan = next(plan for plan in whole.execution_plan if plan.name == method)
        inside = Counter(parts.kernels)
        for piece in plan.delegates:
            if piece.id == BACKEND:
                content = bytes(whole.backend_delegate_data[piece.processed.index].data)
                inside.update(xnnpack_operators(content))
        found[method] = dict(inside.most_common())
    return found


def _read(program: bytes) -> Any:
    """ExecuTorch's own object for a program."""
    with exporting():
        from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        return deserialize_pte_binary(program).program
    except Exception as error:
        raise ExportError(f"these {len(program)} bytes are no ExecuTorch program: {error}") from error
