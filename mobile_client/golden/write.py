"""Write the golden wire vectors: what a phone's client in any language must send, read and refuse, byte by byte.

    python mobile_client/golden/write.py

The key, the times and the ids are fixed. docs/phone.md says how to use the files.
"""

import json
from pathlib import Path
from typing import Any

from golden.answers import answers
from golden.calls import calls
from golden.errors import errors
from golden.formats import formats
from golden.key import key_case
from golden.malformed import malformed
from golden.objects import objects
from golden.responses import responses
from golden.schedules import schedules
from pocketfed.mobile_client.flower.key import SIGNATURE

FOLDER = Path(__file__).resolve().parent


def vectors() -> dict[str, Any]:
    """The content of every file, by name."""
    return {
        "key.json": key_case(),
        "objects.json": objects(),
        "malformed.json": malformed(),
        "calls.json": calls(),
        "formats.json": formats(),
        "answers.json": answers(),
        "errors.json": errors(),
        "responses.json": responses(),
        "schedules.json": schedules(),
    }


def text(values: Any) -> str:
    """The text of a file."""
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _keep_signature(values: dict[str, Any]) -> None:
    """Signatures are random: keep the one that is there, unless what it signs has changed."""
    path = FOLDER / "key.json"
    if path.exists():
        old = json.loads(path.read_text())
        if {**old["headers"], SIGNATURE: ""} == {**values["headers"], SIGNATURE: ""}:
            values["headers"] = old["headers"]


if __name__ == "__main__":
    files = vectors()
    _keep_signature(files["key.json"])
    for name, values in files.items():
        (FOLDER / name).write_text(text(values))
        print(f"{name}: {len(text(values))} bytes")
