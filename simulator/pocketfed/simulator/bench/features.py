"""What an inference program makes of whole sets of captures, to judge it by."""

import numpy as np

from pocketfed.core.captures import Captures
from pocketfed.core.evaluation import Features, clip_means
from pocketfed.export.executorch import Program
from pocketfed.mobile_client.runtime import ExecutorchRuntime
from pocketfed.simulator.parity import whole_batches


def features_of(program: Program, captures: Captures, batch: int) -> Features:
    """Features of each clip, float32 [clips, features].

    Args:
        program: of one method, captures [batch, ...] -> float32 [batch, features].
        captures: of its modality.
        batch: that it takes.
    """
    (name,) = program.methods
    runtime = ExecutorchRuntime(program.buffer)
    parts = [runtime.run(name, [captures.items[rows]])[0] for rows in whole_batches(len(captures), batch)]
    return clip_means(np.concatenate(parts)[: len(captures)], captures)
