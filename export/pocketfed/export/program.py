"""From the methods of a learning task to one program for phones."""

from collections.abc import Sequence

from pocketfed.core.learning_step import Method, methods
from pocketfed.core.learning_task import LearningTask
from pocketfed.export.executorch import Program, build_program
from pocketfed.export.lowering import lower
from pocketfed.export.program_cache import cached_program, describe, describe_modules


def task_program(task: LearningTask, mixed: bool, allow_portable: bool = False) -> bytes:
    """The program of a learning task, from the cache if it was exported before.

    Raises:
        ExportError: the task cannot be exported; or an operator that no pass covers, unless `allow_portable` accepts
            its slow kernel.
    """
    description = (
        f"{allow_portable} {task.optimiser.name} {describe(task.multipliers)} {task.views} "
        f"{describe_modules(task.encoder)}"
    )
    return cached_program(
        description, methods(task, mixed), lambda every: export_program(every, allow_portable).buffer
    )


def export_program(methods: Sequence[Method], allow_portable: bool = False) -> Program:
    """Lower every method to matrix products, and put all of them into one `.pte`.

    Raises:
        ExportError: an operator that no pass covers, unless `allow_portable` accepts its slow kernel.
    """
    lowered = {method.name: (lower(method.function, method.example), method.example) for method in methods}
    return build_program(lowered, allow_portable)
