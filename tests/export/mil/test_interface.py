"""A package is refused that an app would have to feed in another way than its manifest says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from pocketfed.core.backbones import BACKBONES
from pocketfed.core.errors import BundleError
from pocketfed.core.learning_task import initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.views import PhotoView, SoundView, View
from pocketfed.export.coreml.compression import Weights
from pocketfed.export.mil import Program, read_package
from pocketfed.export.mil.interface import check_interface
from pocketfed.simulator.coreml_parts import embedding_part

Made = tuple[Program, dict[str, Any]]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[Modality, Path]:
    """Of a tiny network, photos as images and sounds in three sizes of a batch."""
    folder = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patched:
        build = lambda: nn.Sequential(nn.Conv2d(3, 8, 3, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        patched.setitem(BACKBONES, "tiny", (build, 8))
        views: dict[Modality, View] = {
            Modality.PHOTO: PhotoView(side=16),
            Modality.SOUND: SoundView(samples=4000, height=16, width=16),
        }
        task = learning_task("tiny", views, batch=4)
        for modality in Modality:
            part = embedding_part(task, initial_weights(task, 0), modality, Weights.FLOAT16)
            for name, content in part.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            ((name, entry),) = part.about.items()
            ABOUT[modality] = entry
    return {modality: folder / f"Embed{str(modality).capitalize()}.mlpackage" for modality in Modality}


ABOUT: dict[Modality, dict[str, Any]] = {}


def described(program: Program) -> Any:
    return program.model.description


def blue_first(program: Program) -> None:
    image = described(program).input[0].type.imageType
    image.colorSpace = type(image).ColorSpace.Value("BGR")


def numbers(program: Program) -> None:
    described(program).input[0].type.multiArrayType.shape.extend([1, 3, 16, 16])


def smaller(program: Program) -> None:
    described(program).input[0].type.imageType.width = 15


def later_system(program: Program) -> None:
    program.model.specificationVersion = 9


def half(program: Program) -> None:
    array = described(program).output[0].type.multiArrayType
    array.dataType = array.FLOAT16


def another_name(program: Program) -> None:
    described(program).output[0].name = "features"


def one_size(program: Program) -> None:
    array = described(program).input[0].type.multiArrayType
    del array.enumeratedShapes.shapes[1:]


@pytest.mark.parametrize("modality", list(Modality))
def test_a_package_is_what_its_manifest_says(modality: Modality, packages: dict[Modality, Path]) -> None:
    check_interface(read_package(packages[modality]), ABOUT[modality])


@pytest.mark.parametrize(
    ("modality", "spoil", "said"),
    [
        (
            Modality.PHOTO,
            blue_first,
            "input 'captures' is .'BGR image', .16, 16.., the manifest says .'RGB image'",
        ),
        (Modality.PHOTO, numbers, "input 'captures' is .'invalid_array_data_type'"),
        (Modality.PHOTO, smaller, r"is \('RGB image', \(16, 15\)\), the manifest says"),
        (Modality.PHOTO, later_system, "version of its specification is 9, the manifest says 8"),
        (Modality.SOUND, half, "output 'embedding' is float16, the manifest says float32"),
        (Modality.SOUND, another_name, r"outputs is \['features'\], the manifest says \['embedding'\]"),
        (Modality.SOUND, one_size, r"is \('float32', \(1, 4000\)\), the manifest says .*\(8, 4000\)"),
    ],
)
def test_what_differs_is_said(
    modality: Modality, spoil: Callable[[Program], None], said: str, packages: dict[Modality, Path]
) -> None:
    program = read_package(packages[modality])
    spoil(program)
    with pytest.raises(BundleError, match=said):
        check_interface(program, ABOUT[modality])


@pytest.mark.parametrize("batches", [[1, 8], [32], [1, 8, 32, 64]])
def test_sizes_of_a_batch_are_all_said_and_no_others(
    batches: list[int], packages: dict[Modality, Path]
) -> None:
    with pytest.raises(BundleError, match=r"the input 'captures' is .*\(32, 4000\)\), the manifest says"):
        check_interface(read_package(packages[Modality.SOUND]), {**ABOUT[Modality.SOUND], "batches": batches})
