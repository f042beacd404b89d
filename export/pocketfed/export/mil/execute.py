"""Running a saved program, operator by operator, each result checked against its declared shape."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from pocketfed.core.errors import ProgramError
from pocketfed.export.mil.operators import OPERATORS
from pocketfed.export.mil.package import Program, dtype_of, shape_of
from pocketfed.export.mil.values import Value, read_value

ROLES = frozenset({"name"})
"""Attributes that say nothing about the result."""


class Precision(StrEnum):
    """How numbers are rounded."""

    EXACT = "exact"
    """Everything in float32: shows errors of the program and of stored weights, not those of half precision."""

    DECLARED = "declared"
    """Each result is rounded to the type that the program declares; sums inside an operator stay in float32."""


def execute(
    program: Program,
    inputs: Mapping[str, Tensor],
    precision: Precision = Precision.EXACT,
) -> dict[str, Tensor]:
    """Run a program.

    Args:
        program: as it was saved.
        inputs: by name, of the declared shapes.
        precision: how results are rounded.

    Returns:
        The outputs, by name.

    Raises:
        ProgramError: an input is missing or of another shape, an operator is not known, or it gives another shape than
            the program declares; the message names it.
        BundleError: the weight file is damaged.
    """
    known: dict[str, Value] = {}
    for wanted in program.function.inputs:
        if wanted.name not in inputs:
            raise ProgramError(f"the program needs an input {wanted.name!r}")
        value = inputs[wanted.name]
        if not _fits(value, shape_of(wanted.type.tensorType)):
            raise ProgramError(
                f"the input {wanted.name!r} is {list(value.shape)}, the program takes "
                f"{list(shape_of(wanted.type.tensorType))}"
            )
        known[wanted.name] = rounded(value, dtype_of(wanted.type.tensorType), precision)
    for operation, spent in zip(program.block.operations, program.spent, strict=True):
        results = _results(program, operation, known)
        for output, result in zip(operation.outputs, results, strict=True):
            if isinstance(result, Tensor):
                declared = output.type.tensorType
                if not _fits(result, shape_of(declared)):
                    raise ProgramError(
                        f"{operation.type} {output.name!r} gives {list(result.shape)}, the program declares "
                        f"{list(shape_of(declared))}"
                    )
                result = rounded(result, dtype_of(declared), precision)
            known[output.name] = result
        for name in spent:
            known.pop(name, None)
    return {name: known[name] for name in program.block.outputs}


def unknown_operators(program: Program) -> list[str]:
    """Operators of a program that have no entry in the table, in alphabetical order."""
    return sorted(
        kind for kind in {operation.type for operation in program.block.operations} if not is_known(kind)
    )


def is_known(operator: str) -> bool:
    """Whether a program with this operator can be run."""
    return operator == "const" or operator in OPERATORS


def rounded(value: Tensor, dtype: str, precision: Precision) -> Tensor:
    """A value as its declared type would hold it; floating-point numbers stay float32 in memory."""
    if dtype == "FLOAT16" and precision is Precision.DECLARED:
        return value.to(torch.float16).float()
    if dtype in ("FLOAT16", "FLOAT32"):
        return value.float()
    return value.bool() if dtype == "BOOL" else value


def _results(program: Program, operation: Any, known: Mapping[str, Value]) -> tuple[Value, ...]:
    if operation.type == "const":
        return (read_value(program, operation.attributes["val"]),)
    if operation.type not in OPERATORS:
        raise ProgramError(f"the operator {operation.type!r} ({operation.outputs[0].name}) is not known here")
    arguments = {name: _argument(program, argument, known) for name, argument in operation.inputs.items()} | {
        name: read_value(program, value)
        for name, value in operation.attributes.items()
        if name not in ROLES and name not in operation.inputs
    }
    try:
        result = OPERATORS[operation.type](**arguments)
    except (TypeError, RuntimeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise ProgramError(f"{operation.type} {operation.outputs[0].name!r} failed: {error}") from error
    return result if isinstance(result, tuple) else (result,)


def _argument(program: Program, argument: Any, known: Mapping[str, Value]) -> Value:
    values = tuple(
        known[binding.name] if binding.WhichOneof("binding") == "name" else read_value(program, binding.value)
        for binding in argument.arguments
    )
    return values[0] if len(values) == 1 else values


def _fits(value: Tensor, declared: tuple[int, ...]) -> bool:
    return value.dim() == len(declared) and all(
        size in (-1, actual) for size, actual in zip(declared, value.shape, strict=True)
    )
