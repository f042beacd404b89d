"""What XNNPACK runs of a program, read from the bytes that the program holds for it.

They are a header, a graph as a flatbuffer, and constants. The graph is read by flatc, which ExecuTorch ships, with the
schema beside it; tests/export/test_inspection.py says when either changed.
"""

import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from pocketfed.core.errors import ExportError
from pocketfed.export.executorch import exporting

BACKEND = "XnnpackBackend"
"""Its name in a program."""


def xnnpack_operators(piece: bytes) -> list[str]:
    """The operators of a piece, in the order in which they run, by XNNPACK's names for them.

    Raises:
        ExportError: the bytes are no piece for XNNPACK.
    """
    with exporting():
        from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import (
            XNNHeader,
            _get_schema_bytes,
        )
        from executorch.exir._serialize._flatbuffer import _get_flatc_path

    try:
        header = XNNHeader.from_bytes(piece[: XNNHeader.EXPECTED_LENGTH])
        graph = piece[header.flatbuffer_offset :][: header.flatbuffer_size]
        with TemporaryDirectory() as place:
            schema, binary = Path(place, "schema.fbs"), Path(place, "graph.bin")
            schema.write_bytes(_get_schema_bytes())
            binary.write_bytes(graph)
            command = [
                _get_flatc_path(),
                "--json",
                "--defaults-json",
                "--strict-json",
                "-o",
                place,
                str(schema),
                "--",
                str(binary),
            ]
            # ExecuTorch's own call lets flatc write a page of its options to the terminal about damaged bytes.
            if subprocess.run(command, capture_output=True, check=False).returncode:
                raise ValueError("flatc cannot read them")
            text = Path(place, "graph.json").read_text()
    except Exception as error:
        raise ExportError(f"these {len(piece)} bytes are nothing that XNNPACK runs: {error}") from error
    # Not read as JSON: flatc writes bounds of a clamp as inf, which it has no word for.
    return re.findall(r'"xnode_union_type": "XNN(\w+)"', text)
