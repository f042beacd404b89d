"""What a Core ML package is kept in inside a program: read as ExecuTorch reads it, and nothing written elsewhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from pocketfed.export.coreml.payload import pack, unpack


def file(begin: int, size: int) -> dict[str, Any]:
    return {"kind": 0, "name": "file", "dataRegion": {"offset": begin, "size": size}}


def folder(name: str, **children: object) -> dict[str, Any]:
    return {"kind": 1, "name": name, "dataRegion": {"offset": 0, "size": 0}, "children": children}


def payload(*nodes: object, content: bytes = b"onetwo") -> bytes:
    return content + json.dumps({"nodes": nodes}).encode()[::-1]


def contents(place: Path) -> dict[str, bytes]:
    return {
        path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()
    }


def test_it_reads_what_executorch_writes(tmp_path: Path) -> None:
    from executorch.backends.apple.coreml import executorchcoreml

    (tmp_path / "top" / "inner").mkdir(parents=True)
    (tmp_path / "top" / "inner" / "a model.bin").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "top" / "naïve.json").write_text("{}")
    (tmp_path / "there").mkdir()
    unpack(executorchcoreml.flatten_directory_contents(str(tmp_path / "top")), tmp_path / "there")
    assert contents(tmp_path / "there" / "top") == contents(tmp_path / "top")


def test_executorch_reads_what_is_written_in_whatever_order_files_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from executorch.backends.apple.coreml import executorchcoreml

    (tmp_path / "top" / "inner" / "most").mkdir(parents=True)
    for number, name in enumerate(("b.json", "a.json", "inner/model.bin", "inner/most/x", "inner/empty")):
        (tmp_path / "top" / name).write_bytes(bytes(range(256)) * 9 * number)
    packed = pack(tmp_path / "top")
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: sorted(listed(folder), reverse=True))
    assert pack(tmp_path / "top") == packed
    monkeypatch.undo()
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    assert executorchcoreml.unflatten_directory_contents(packed, str(tmp_path / "theirs"))
    unpack(packed, tmp_path / "ours")
    assert contents(tmp_path / "ours" / "top") == contents(tmp_path / "top")
    assert contents(tmp_path / "theirs" / "top") == contents(tmp_path / "top")


def test_files_lie_where_the_folders_say(tmp_path: Path) -> None:
    unpack(payload(file(0, 3), file(3, 3), folder("in", a=0), folder("top", x=1, y=2)), tmp_path)
    assert contents(tmp_path) == {"top/x": b"two", "top/y/a": b"one"}


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/tmp/evil", "../evil", "a/b", "..\\evil", "c:evil", "a\0b", "a\nb", "\ud800"]
)
def test_names_that_lead_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for nodes in ((file(0, 3), folder("top", **{name: 0})), (file(0, 3), folder(name, x=0))):
        with pytest.raises(ValueError, match="is no name of a file"):
            unpack(payload(*nodes), tmp_path / "in")
    assert list(tmp_path.rglob("*")) == [tmp_path / "in"]


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"no json",
        payload(),
        payload(1),
        payload(file(0, 3), folder("top", x=7)),
        payload(file(0, 3), folder("top", x=-2)),
        payload(file(0, 3), folder("top", x="0")),
        payload(file(-1, 3), folder("top", x=0)),
        payload(file(4, 300), folder("top", x=0)),
        payload(file(6, 6000), folder("top", x=0)),
        payload(file(10**6, 3), folder("top", x=0)),
        payload({**file(0, 3), "kind": 2}, folder("top", x=0)),
        payload(folder("top", x=0)),  # inside itself
        payload(folder("a"), folder("b", x=0, y=0), folder("top", x=1, y=1)),  # in two places
        payload(*[file(0, 400)] * 9, folder("top", **{str(i): i for i in range(9)})),  # more than all of it
    ],
)
def test_a_damaged_payload_is_refused_before_anything_is_written(damaged: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"damaged|Expecting|node|size|beyond|larger|kind"):
        unpack(damaged, tmp_path)
    assert list(tmp_path.iterdir()) == []
