"""What an exported program is made of, read from its bytes alone.

The reader of the file format is private to ExecuTorch; tests/export/test_inspection.py says when it changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pocketfed.core.errors import ExportError
from pocketfed.export.delegation import CHEAP
from pocketfed.export.executorch import exporting


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
        from executorch.exir._serialize._program import deserialize_pte_binary
        from executorch.exir.schema import DelegateCall, KernelCall

    try:
        plans = deserialize_pte_binary(program).program.execution_plan
    except Exception as error:
        raise ExportError(f"these {len(program)} bytes are no ExecuTorch program: {error}") from error
    parts = {}
    for plan in plans:
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
