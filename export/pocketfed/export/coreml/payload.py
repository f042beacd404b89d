"""What ExecuTorch's Core ML backend keeps a package in: a folder in one piece of bytes.

    content of file, content of file, ..., a JSON text written backwards

`{"nodes": [...]}` has files (`kind` 0, their content is at `dataRegion`) and folders (1, with `children`, indices by
name), the outermost last. ExecuTorch has a reader of its own, which puts files wherever their names say; a bundle may
be from anywhere, so this one believes nothing.
"""

import json
from pathlib import Path
from typing import Any

FILE, FOLDER = 0, 1
"""Kinds of nodes."""


def pack(folder: Path) -> bytes:
    """All of a folder in one piece. The same files give the same bytes; ExecuTorch's own writer takes them in the order in
    which the file system happens to list them.

    Args:
        folder: of files and folders, none of them empty folders.
    """
    content = bytearray()
    nodes: list[dict[str, Any]] = []

    def add(path: Path) -> int:
        children, begin = {}, 0
        if path.is_dir():
            children = {child.name: add(child) for child in sorted(path.iterdir())}
        else:
            begin = len(content)
            content.extend(path.read_bytes())
        kind, size = (FOLDER, 0) if path.is_dir() else (FILE, len(content) - begin)
        region = {"offset": begin, "size": size}
        nodes.append({"children": children, "dataRegion": region, "kind": kind, "name": path.name})
        return len(nodes) - 1

    add(folder)
    described = json.dumps({"nodes": nodes}, separators=(",", ":")).encode()
    return bytes(content) + described[::-1]


def unpack(payload: bytes, folder: Path) -> None:
    """Write the outermost folder of a payload, which keeps its name, into an empty folder, and nothing anywhere else.

    Raises:
        ValueError: it is no such payload, or has a name that leads elsewhere; nothing has been written.
        OSError: it cannot be written.
    """
    try:
        described, _ = json.JSONDecoder().raw_decode(payload[::-1].decode(errors="replace"))
        nodes = described["nodes"]
        if sum(_whole(node["dataRegion"].get("size", 0)) for node in nodes) > len(payload):
            raise ValueError("its files are larger than all of it")
        files = _files(payload, nodes, len(nodes) - 1, Path(_plain(nodes[-1]["name"])))
    except (KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"damaged: {error!r}") from error
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def _files(payload: bytes, nodes: list[dict[str, Any]], index: int, path: Path) -> dict[Path, bytes]:
    """Contents of the files in one node."""
    if type(index) is not int or not 0 <= index < len(nodes):
        raise ValueError(f"{path} is node {index!r}, and there are {len(nodes)}")
    node, nodes[index] = (
        nodes[index],
        {},
    )  # a node has one place: those with more, or inside themselves, could fill a disk
    if node["kind"] == FILE:
        begin, size = (_whole(node["dataRegion"][key]) for key in ("offset", "size"))
        if begin + size > len(payload):
            raise ValueError(f"{path} lies beyond the end")
        return {path: payload[begin : begin + size]}
    if node["kind"] != FOLDER:
        raise ValueError(f"{path} is of kind {node['kind']!r}")
    files: dict[Path, bytes] = {}
    for name, child in node["children"].items():
        files |= _files(payload, nodes, child, path / _plain(name))
    return files


def _plain(name: str) -> str:
    """The name of something in a folder, and not of something elsewhere."""
    if name in ("", ".", "..") or not name.isprintable() or any(sign in name for sign in "/\\:"):
        raise ValueError(f"{name!r} is no name of a file")
    return name


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value
