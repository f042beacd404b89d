"""The shipped descriptors are the installed Flower's, and the `.proto` files say the same."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.proto import fleet_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from pocketfed.mobile_client.flower import descriptors
from tests.mobile_client.flower.scripts import load_script

SCRIPT = load_script("mobile_client/proto/regenerate.py")


@pytest.mark.parametrize("path", SCRIPT.files(), ids=lambda path: path.name)
def test_a_file_is_what_the_installed_flower_makes_it(path: Path) -> None:
    expected = SCRIPT.files()[path]
    assert path.exists(), f"{path} is missing; run mobile_client/proto/regenerate.py"
    assert path.read_bytes() == expected, (
        f"{path.name} differs from the installed Flower's: the wire has changed. Look at the difference, "
        "then run mobile_client/proto/regenerate.py and mobile_client/golden/write.py"
    )


def test_no_file_is_left_over() -> None:
    assert set(SCRIPT.FOLDER.rglob("*.proto")) | {SCRIPT.BINARY} == set(SCRIPT.files())


def essential(file: Any) -> Any:
    """Without names that follow from others, and without options that are there but empty: compilers differ in them."""

    def strip(message: Any) -> None:
        for field in message.field:
            field.ClearField("json_name")
        for nested in message.nested_type:
            strip(nested)

    for message in file.message_type:
        strip(message)
    for service in file.service:
        for method in service.method:
            if not method.options.ByteSize():
                method.ClearField("options")
    return file


def test_a_compiler_reads_the_files_as_the_shipped_descriptors(tmp_path: Path) -> None:
    compiler = Path(torch.__file__).parent / "bin" / "protoc"
    if not compiler.exists():
        pytest.skip("this torch comes without protoc")
    out = tmp_path / "compiled.binpb"
    subprocess.run(
        [compiler, "--experimental_allow_proto3_optional", "--include_imports", f"--descriptor_set_out={out}",
         f"-I{SCRIPT.FOLDER}", "flwr/proto/fleet.proto"],
        check=True,
    )  # fmt: skip
    compiled = {f.name: essential(f) for f in FileDescriptorSet.FromString(out.read_bytes()).file}
    shipped = {f.name: essential(f) for f in FileDescriptorSet.FromString(descriptors.FILE.read_bytes()).file}
    assert compiled == shipped


def test_own_classes_live_beside_flowers() -> None:
    ours = descriptors.PullMessagesRequest(node=descriptors.Node(node_id=7))
    theirs = fleet_pb2.PullMessagesRequest.FromString(ours.SerializeToString())
    assert theirs.node.node_id == 7
    assert type(ours) is not type(theirs)
