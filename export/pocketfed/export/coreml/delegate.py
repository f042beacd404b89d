"""An ExecuTorch program that is one Core ML package, for apps that have ExecuTorch with its Core ML backend.

ExecuTorch's own partitioner would convert the network anew, with a front end in half precision, and name its parts at
random. Here the payload of the backend is our package, laid out as that backend wants it. This and payload.py are the
places that know how: tests/export/coreml/test_embedding.py says when it changed.
"""

import json
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from pocketfed.core.errors import ExportError
from pocketfed.export.coreml.convert import save
from pocketfed.export.coreml.payload import pack, unpack
from pocketfed.export.executorch import exported_program, exporting
from pocketfed.export.quiet import coremltools, quiet

BACKEND, FOLDER, PACKAGE = "CoreMLBackend", "lowered_module", "model.mlpackage"
"""Names that the backend's runtime expects."""


def delegated_program(model: Any, method: str, captures: Tensor, features: int) -> bytes:
    """A `.pte` of one method, which hands its input to a Core ML package as float32.

    Args:
        model: coremltools' model, of one input float32 shaped as `captures` and one output float32 [batch, features].
        method: its name.
        captures: an example of the input, uint8 or float32.
        features: of the output.
    """
    ct = coremltools()
    with exporting(), quiet():
        from executorch.backends.apple.coreml.compiler import CoreMLBackend
        from executorch.exir import EdgeCompileConfig, to_edge
        from executorch.exir.lowered_backend_module import LoweredBackendModule

        specs = CoreMLBackend.generate_compile_specs(
            minimum_deployment_target=ct.target.iOS17, compute_precision=ct.precision.FLOAT16
        )
        stand_in = exported_program(method, _Blank(features), (captures.float(),))
        net = _Delegated(LoweredBackendModule(stand_in, BACKEND, _payload(model), specs))
        edge = to_edge(
            {method: exported_program(method, net, (captures,))},
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
        )
        return bytes(edge.to_executorch().buffer)


def embedded_package(program: bytes, folder: Path) -> Path:
    """Write the Core ML package that a program of `delegated_program` holds into an empty folder, and say where.

    Raises:
        ExportError: there is none in it, or one that is damaged or would be written elsewhere.
    """
    with exporting(), quiet():
        from executorch.exir._serialize._program import _extract_delegate_payload

        try:
            payload = _extract_delegate_payload(program, BACKEND)
        except Exception as error:
            raise ExportError(f"these {len(program)} bytes are no ExecuTorch program: {error}") from error
    if payload is None:
        raise ExportError("the program holds no Core ML package")
    try:
        unpack(payload, folder)
    except (ValueError, OSError) as error:
        raise ExportError(f"the Core ML package in the program cannot be unpacked: {error}") from error
    return folder / FOLDER / PACKAGE


class _Blank(nn.Module):
    """Shapes are all that the exporter asks of what a backend computes."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, captures: Tensor) -> tuple[Tensor]:
        """[batch, ...] -> zeros [batch, features]."""
        return (captures.new_zeros(captures.shape[0], self.features),)


class _Delegated(nn.Module):
    def __init__(self, lowered: nn.Module) -> None:
        super().__init__()
        self.lowered = lowered

    def forward(self, captures: Tensor) -> tuple[Tensor]:
        """Captures of any type, as float32, through the backend."""
        (features,) = self.lowered(captures.to(torch.float32))
        return (features,)


def _payload(model: Any) -> bytes:
    """A folder in one piece: the package, and what the backend's runtime wants to know of it."""
    description = model.get_spec().description
    with TemporaryDirectory() as place:
        folder = Path(place) / FOLDER
        folder.mkdir()
        save(model, folder / PACKAGE)
        # The runtime keeps compiled models by this name; the same package has the same name, another one another.
        content = b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())
        about = {
            "inputNames": [value.name for value in description.input],
            "outputNames": [value.name for value in description.output],
            "identifier": f"executorch_{uuid.uuid5(uuid.NAMESPACE_OID, content.hex())}",
        }
        (folder / "metadata.json").write_text(json.dumps(about))
        return pack(folder)
