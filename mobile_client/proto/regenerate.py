"""Write Flower's Fleet messages anew from the installed Flower: as `.proto` files, and as `fleet.binpb`.

    python mobile_client/proto/regenerate.py

Flower does not ship its `.proto` files; its Python classes hold the same information. Only this script and tests need
Flower: a phone, in whatever language, needs the files.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flwr.proto import fleet_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

FOLDER = Path(__file__).resolve().parent
BINARY = FOLDER.parent / "pocketfed" / "mobile_client" / "flower" / "fleet.binpb"

SCALARS = {
    Field.TYPE_DOUBLE: "double", Field.TYPE_FLOAT: "float", Field.TYPE_INT64: "int64", Field.TYPE_UINT64: "uint64",
    Field.TYPE_INT32: "int32", Field.TYPE_FIXED64: "fixed64", Field.TYPE_FIXED32: "fixed32", Field.TYPE_BOOL: "bool",
    Field.TYPE_STRING: "string", Field.TYPE_BYTES: "bytes", Field.TYPE_UINT32: "uint32",
    Field.TYPE_SFIXED32: "sfixed32", Field.TYPE_SFIXED64: "sfixed64", Field.TYPE_SINT32: "sint32",
    Field.TYPE_SINT64: "sint64",
}  # fmt: skip


def installed() -> FileDescriptorSet:
    """The installed Flower's `fleet.proto` and all that it imports, dependencies first."""
    found: dict[str, Any] = {}

    def visit(file: Any) -> None:
        for dependency in file.dependencies:
            visit(dependency)
        if file.name not in found:
            found[file.name] = FileDescriptorProto.FromString(file.serialized_pb)

    visit(fleet_pb2.DESCRIPTOR)
    return FileDescriptorSet(file=found.values())


def files() -> dict[Path, bytes]:
    """Every file that this script writes, with its content."""
    every = installed()
    texts = {FOLDER / file.name: proto_text(file).encode() for file in every.file}
    return {**texts, BINARY: every.SerializeToString(deterministic=True)}


def proto_text(file: Any) -> str:
    """The text of a proto3 `FileDescriptorProto`; compiling it gives that descriptor again."""
    lines = [f'syntax = "{file.syntax}";', "", f"package {file.package};", ""]
    lines += [f'import "{name}";' for name in file.dependency]
    lines += [""] if file.dependency else []
    for enum in file.enum_type:
        lines += [*_enum(enum), ""]
    for message in file.message_type:
        lines += [*_message(message, f".{file.package}.{message.name}"), ""]
    for service in file.service:
        lines += [*_service(service), ""]
    return "\n".join(lines)


def _message(message: Any, path: str) -> list[str]:
    maps = {f"{path}.{n.name}": n for n in message.nested_type if n.options.map_entry}
    body: list[str] = []
    for enum in message.enum_type:
        body += _enum(enum)
    for nested in message.nested_type:
        if not nested.options.map_entry:
            body += _message(nested, f"{path}.{nested.name}")
    for lines in _fields(message, maps):
        body += lines
    return [f"message {message.name} {{", *_indent(body), "}"] if body else [f"message {message.name} {{}}"]


def _fields(message: Any, maps: dict[str, Any]) -> Iterator[list[str]]:
    open_oneof: list[str] = []
    for index, field in enumerate(message.field):
        group = field.oneof_index if field.HasField("oneof_index") and not field.proto3_optional else None
        if group is None:
            yield [_field(field, maps)]
            continue
        open_oneof.append(_field(field, maps))
        following = message.field[index + 1 :]
        if not any(f.HasField("oneof_index") and f.oneof_index == group for f in following):
            yield [f"oneof {message.oneof_decl[group].name} {{", *_indent(open_oneof), "}"]
            open_oneof = []


def _field(field: Any, maps: dict[str, Any]) -> str:
    if field.type_name in maps:
        key, value = maps[field.type_name].field
        return f"map<{_type(key)}, {_type(value)}> {field.name} = {field.number};"
    label = "repeated " if field.label == Field.LABEL_REPEATED else ""
    return f"{'optional ' if field.proto3_optional else label}{_type(field)} {field.name} = {field.number};"


def _type(field: Any) -> str:
    return SCALARS.get(field.type) or str(field.type_name)


def _enum(enum: Any) -> list[str]:
    return [f"enum {enum.name} {{", *_indent([f"{v.name} = {v.number};" for v in enum.value]), "}"]


def _service(service: Any) -> list[str]:
    calls = []
    for call in service.method:
        request = ("stream " if call.client_streaming else "") + call.input_type
        response = ("stream " if call.server_streaming else "") + call.output_type
        calls.append(f"rpc {call.name}({request}) returns ({response});")
    return [f"service {service.name} {{", *_indent(calls), "}"]


def _indent(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


if __name__ == "__main__":
    for path, content in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        print(path.relative_to(FOLDER.parent.parent))
