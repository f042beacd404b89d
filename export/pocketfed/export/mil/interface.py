"""What a package shows to an app, its kinds of inputs and outputs and its least system, against what a manifest says.

The function that is run here knows tensors only: it would give the same for an image with its colours exchanged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from pocketfed.core.errors import BundleError
from pocketfed.export.mil.package import Program
from pocketfed.export.quiet import coremltools

VERSIONS = {"iOS 16": 7, "iOS 17": 8, "iOS 18": 9}
"""Of Core ML's specification, by the least system that knows it."""

IMAGE = "RGB image"
"""How a manifest calls what comes as an image."""


def check_interface(program: Program, about: Mapping[str, Any]) -> None:
    """Nothing, if a package is what its entry in the manifest says.

    Args:
        program: as it was saved.
        about: `least`; `inputs` and `outputs` with `name`, `shape` and `dtype`; `batches`, if it takes several sizes.

    Raises:
        BundleError: it is not; the message has what differs.
    """
    description, batches = program.model.description, about.get("batches")
    said: list[tuple[str, object, object]] = [
        ("version of its specification", program.model.specificationVersion, VERSIONS.get(about["least"]))
    ]
    for side, found in (("inputs", description.input), ("outputs", description.output)):
        said.append((side, [part.name for part in found], [value["name"] for value in about[side]]))
    for part, value in zip(description.input, about["inputs"], strict=False):
        said.append((f"input {part.name!r}", _kind(part.type), _input(value, batches)))
    for part, value in zip(description.output, about["outputs"], strict=False):
        said.append((f"output {part.name!r}", _kind(part.type)[0], value["dtype"]))
    for what, found, stated in said:
        if found != stated:
            raise BundleError(
                f"{program.path}: the {what} is {found}, the manifest says {stated}; make the bundle anew"
            )


def _input(value: Mapping[str, Any], batches: Sequence[int] | None) -> tuple[object, ...]:
    """As `_kind` puts it."""
    shape = tuple(value["shape"])
    if value["dtype"] == IMAGE:
        return (IMAGE, shape[:2])
    return (value["dtype"], *((batch, *shape[1:]) for batch in batches or shape[:1]))


def _kind(kind: Any) -> tuple[object, ...]:
    """What it is, and its shapes; of outputs Core ML may know none."""
    if kind.WhichOneof("Type") == "imageType":
        colours = coremltools().proto.FeatureTypes_pb2.ImageFeatureType.ColorSpace
        return (
            f"{colours.Name(kind.imageType.colorSpace)} image",
            (kind.imageType.height, kind.imageType.width),
        )
    array = kind.multiArrayType
    dtype = type(array).ArrayDataType.Name(array.dataType).lower()
    several = array.enumeratedShapes.shapes
    shapes = [tuple(shape.shape) for shape in several] if several else [tuple(array.shape)]
    return (dtype, *shapes)
