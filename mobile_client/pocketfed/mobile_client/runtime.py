"""Runtimes: what a phone runs a program on. The seam is one method, arrays in and arrays out."""

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pocketfed.core.errors import ProgramError
from pocketfed.core.learning_step import Method, TensorFunction
from pocketfed.core.runtime_version import RUNTIME
from pocketfed.mobile_client.native_log import native_stderr_hidden

Array: TypeAlias = NDArray[Any]


class Runtime(Protocol):
    """Runs the methods of one program."""

    def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """Run a method. The outputs are the caller's own.

        Raises:
            ProgramError: there is no such method, or it refused its inputs.
        """
        ...


def runtime_version() -> str:
    """The version of ExecuTorch that is installed; "" if it was built without saying."""
    try:
        return version(RUNTIME)
    except PackageNotFoundError:
        return ""


def import_runtime() -> Any:
    """ExecuTorch's bindings. Loading them says things about processors and threads as if those were errors.

    The public name of these bindings, `portable_lib`, imports the whole exporter for the class of one warning, which
    would be most of the time that a phone takes to start.
    """
    with warnings.catch_warnings(), native_stderr_hidden():
        warnings.simplefilter("ignore")  # their own imports use deprecated functions
        try:
            from executorch.extension.pybindings import _portable_lib as bindings
        except ImportError:  # on Windows, the public name says first where libraries are
            from executorch.extension.pybindings import portable_lib as bindings
    return bindings


class ExecutorchRuntime:
    """A `.pte` on the ExecuTorch runtime, the one that phones use."""

    def __init__(self, program: bytes, threads: int | None = 1) -> None:
        """Load a program.

        Args:
            program: a `.pte`.
            threads: that every program of this process runs on from now on; None leaves them as they are. Another
                number than before must not meet a program that runs: it would never end.

        Raises:
            ProgramError: the bytes are no ExecuTorch program.
        """
        self._bytes = program  # the runtime reads from this memory as long as it lives
        bindings = import_runtime()
        with native_stderr_hidden():
            if threads not in (None, bindings._threadpool_get_thread_count()):
                bindings._unsafe_reset_threadpool(threads)
            try:
                self._module = bindings._load_for_executorch_from_buffer(program)
                self._module.method_names()  # loading is lazy; this reads the header
            except RuntimeError as error:
                raise ProgramError(f"the program cannot be loaded: {error}") from error

    def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """See `Runtime`."""
        tensors = [torch.from_numpy(array) for array in inputs]
        try:
            outputs = self._module.run_method(method, tensors, clone_outputs=True)
        except (RuntimeError, ValueError) as error:
            raise ProgramError(f"{method} failed: {error}") from error
        return tuple(output.numpy() for output in outputs)


class TorchRuntime:
    """The eager twin: the same functions, run by PyTorch."""

    def __init__(self, methods: Sequence[Method]) -> None:
        self._functions: Mapping[str, TensorFunction] = {m.name: m.function for m in methods}

    def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
        """See `Runtime`."""
        if method not in self._functions:
            raise ProgramError(f"the program has no method {method!r}")
        outputs = self._functions[method](*(torch.from_numpy(array) for array in inputs))
        return tuple(np.asarray(output.detach().numpy()) for output in outputs)
