"""Whether a phone can run a program is found out before it is installed: each step once, on nothing."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from pocketfed.core.errors import ProgramError
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.program_spec import program_spec
from pocketfed.mobile_client.blank_step import try_steps
from pocketfed.mobile_client.runtime import Array

STEPS = ["step_photo", "step_sound", "step_mixed"]


class Steps:
    """A program of some methods."""

    def __init__(self, weights: int, state: int, methods: Sequence[str]) -> None:
        self.sizes, self.methods, self.ran = (weights, state), methods, list[str]()

    def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
        if method not in self.methods:
            raise ProgramError(f"the program has no method {method!r}")
        assert [array.shape for array in inputs[:3]] == [(size,) for size in (*self.sizes, self.sizes[0])]
        self.ran.append(method)
        return (np.zeros(1), *(np.zeros(size) for size in self.sizes))


@pytest.mark.parametrize("mixed", [True, False])
def test_each_step_is_run_once(mixed: bool, small_task: LearningTask) -> None:
    spec = program_spec(small_task, mixed)
    needed = STEPS if mixed else STEPS[:2]
    runtime = Steps(spec.weights, spec.state, STEPS)
    try_steps(runtime, spec)
    assert runtime.ran == needed
    for absent in needed:
        lacking = Steps(spec.weights, spec.state, [name for name in STEPS if name != absent])
        with pytest.raises(ProgramError, match=absent):
            try_steps(lacking, spec)


def test_what_a_step_gives_must_fit_the_next_one(small_task: LearningTask) -> None:
    spec = program_spec(small_task, mixed=False)

    class Short(Steps):
        def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
            return super().run(method, inputs)[:2]

    with pytest.raises(ProgramError, match=r"step_photo gives .* and not loss, weights and state"):
        try_steps(Short(spec.weights, spec.state, STEPS), spec)
    with pytest.raises(ProgramError, match="larger than this phone's memory"):
        try_steps(Steps(spec.weights, spec.state, STEPS), replace(spec, state=1 << 60))
