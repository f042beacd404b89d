"""A re-executor of Core ML programs: reads a saved `.mlpackage` and runs its operators in torch, on any system.

    Model.mlmodel + weight.bin -> package.py -> values.py -> execute.py, which looks operators up in operators/

Nothing of the converter is used: what runs is what was saved, read from the protobuf and the weight file. That finds
wrong padding, strides, axes, lost weights and bad serialisation. It does not prove that Apple's compiler accepts a
program, where it would run, or how an accelerator rounds.
"""

from pocketfed.export.mil.execute import Precision, execute
from pocketfed.export.mil.package import Program, read_package

__all__ = ["Precision", "Program", "execute", "read_package"]
