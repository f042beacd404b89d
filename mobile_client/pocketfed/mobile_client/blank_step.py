"""A step without captures' content: it costs the same, and shows whether a program runs at all."""

from collections.abc import Sequence

import numpy as np

from pocketfed.core.errors import ProgramError
from pocketfed.core.hyper import Hyper
from pocketfed.core.modality import Modality
from pocketfed.core.program_spec import ProgramSpec
from pocketfed.mobile_client.runtime import Array, Runtime


def blank_step(spec: ProgramSpec, modalities: Sequence[Modality]) -> tuple[str, list[Array]]:
    """The step for a batch of these modalities, and inputs for it."""
    method, size = spec.step(modalities)
    inputs = [np.zeros(length, dtype=np.float32) for length in (spec.weights, spec.state, spec.weights)]
    for modality in modalities:
        wanted = spec.inputs[modality]
        inputs.append(np.zeros((size, *wanted.shape), dtype=wanted.dtype))
        inputs.append(np.full((size, 2, wanted.noise), 0.5, dtype=np.float32))
    return method, [*inputs, Hyper().vector([size] * len(modalities))]


def try_steps(runtime: Runtime, spec: ProgramSpec) -> None:
    """Run each step that a phone may be asked for once, which is as much work as a batch of each kind.

    Raises:
        ProgramError: there is no such step, it refuses what the spec says that it takes, or gives something else back.
    """
    kinds = [[modality] for modality in spec.inputs] + ([list(spec.inputs)] if spec.mixed else [])
    for modalities in kinds:
        try:
            method, inputs = blank_step(spec, modalities)
        except (MemoryError, ValueError) as error:
            raise ProgramError(f"its inputs are larger than this phone's memory: {error}") from error
        found = [output.shape for output in runtime.run(method, inputs)]
        if len(found) != 3 or found[1:] != [(spec.weights,), (spec.state,)]:
            raise ProgramError(f"{method} gives {found}, and not loss, weights and state")
