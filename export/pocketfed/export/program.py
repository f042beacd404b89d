"""From the methods of a learning task to one program for phones."""

from collections.abc import Sequence

from pocketfed.core.learning_step import Method
from pocketfed.export.executorch import Program, build_program
from pocketfed.export.lowering import lower


def export_program(methods: Sequence[Method], allow_portable: bool = False) -> Program:
    """Lower every method to matrix products, and put all of them into one `.pte`.

    Raises:
        ExportError: an operator that no pass covers, unless `allow_portable` accepts its slow kernel.
    """
    lowered = {method.name: (lower(method.function, method.example), method.example) for method in methods}
    return build_program(lowered, allow_portable)
