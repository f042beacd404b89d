"""Weights in each format."""

from typing import Any

import numpy as np

from golden.encoding import b64
from pocketfed.core.formats import Format, Packed, decode, encode
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.wire import weights_to_bytes


def formats() -> dict[str, Any]:
    """A layout, its part without projector, and numbers as each format writes them."""
    shapes = [("backbone.w", (2, 3), Role.BACKBONE), ("backbone.b", (2,), Role.BACKBONE),
              ("projector.w", (4,), Role.PROJECTOR), ("backbone.norm.running_var", (2,), Role.BUFFER)]  # fmt: skip
    slices, offset = [], 0
    for name, shape, role in shapes:
        slices.append(Slice(name, shape, role, offset))
        offset += slices[-1].size
    whole, roles = Layout(tuple(slices)), (Role.BACKBONE, Role.BUFFER)
    layout = whole.part(roles)
    numbers = np.array([1, -2, 0.5, 1e-3, -1.27, 2.54, 0, 0, 0.25, 3e-6], dtype=np.float32)
    uniform = np.linspace(0, 0.875, 8, dtype=np.float32)
    cases = []
    for form in Format:
        content = encode(numbers, layout, form, uniform)
        decoded = decode(Packed(form, content), layout)
        cases.append({"format": form, "content": b64(content), "decoded": b64(weights_to_bytes(decoded))})
    return {
        "layout": whole.to_json(),
        "layout_digest": whole.digest,
        "travels": ",".join(roles),
        "part": layout.to_json(),
        "part_digest": layout.digest,
        "numbers": b64(weights_to_bytes(numbers)),
        "uniform": b64(weights_to_bytes(uniform)),
        "cases": cases,
    }
