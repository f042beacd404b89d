"""Whole bundles of networks that are shipped: both modalities, every kind of program, and the same bytes twice."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pocketfed.core.signing import make_signing_key
from pocketfed.export.coreml.compression import Weights
from pocketfed.simulator.bundling import Options, build_bundle
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.verification import verify_programs
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.long

PROGRAMS = {
    "train.pte", "embed_photo.pte", "embed_photo_int8.pte", "embed_photo_coreml.pte", "EmbedPhoto.mlpackage",
    "TrainPhoto.mlpackage", "embed_sound.pte", "embed_sound_int8.pte", "embed_sound_coreml.pte",
    "EmbedSound.mlpackage", "TrainSound.mlpackage",
}  # fmt: skip


LISTS_OTHERWISE = "/dev/shm"
"""A file system that lists files in another order than most."""


def small(backbone: str) -> Config:
    """Of photos and sounds that the package makes itself, small ones."""
    return build_config(
        {"captures": {"side": 16, "seconds": 0.25}, "learning": {"backbone": backbone, "batch": 8}}
    )


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("compact", Options(coreml_weights=Weights.INT8, int8=False, coreml_training=False)),
        ("compact", Options(coreml_weights=Weights.PALETTE6, int8=False, coreml_training=False)),
        # Untrained, it tells photos of 16 pixels apart by so little that int8 loses it; benchmarks/bundle_parity.py
        # verifies it with photos of the usual size.
        ("timm:mobilenetv3_small_050", Options(int8=False)),
        ("vit", Options()),
    ],
    ids=["int8", "palette6", "mobilenetv3", "vit"],
)
def test_every_program_agrees_with_eager_pytorch(backbone: str, options: Options, tmp_path: Path) -> None:
    bundle = build_bundle(small(backbone), None, tmp_path / "b", options, None, lambda what: None)
    left_out = (() if options.int8 else ("int8",)) + (() if options.coreml_training else ("Train",))
    expected = {name for name in PROGRAMS if not any(word in name for word in left_out)}
    assert set(bundle.manifest["programs"]) == expected
    rows = list(verify_programs(bundle, lambda what: None))
    assert {row.program for row in rows} == expected
    assert [row for row in rows if not row.agrees] == []


def test_two_processes_with_caches_of_their_own_make_the_same_bytes(tmp_path: Path) -> None:
    make_signing_key(tmp_path / "release")
    (tmp_path / "c.toml").write_text(
        '[captures]\nside = 16\nseconds = 0.25\n[learning]\nbackbone = "compact"\nbatch = 8\n'
    )
    digests = []
    for seed in ("1", "2"):
        place = tmp_path / seed
        command: list[str | Path] = [
            sys.executable, "-c", "from pocketfed.simulator.cli import main; main()", "bundle", tmp_path / "c.toml",
            "--key", tmp_path / "release", "--out", place / "b", "--zip",
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONHASHSEED": seed, "POCKETFED_CACHE": str(place / "cache")}
        environment |= {"TMPDIR": LISTS_OTHERWISE} if seed == "2" and Path(LISTS_OTHERWISE).is_dir() else {}
        subprocess.run(command, env=environment, check=True, capture_output=True, cwd=REPOSITORY)
        files = sorted(path for path in (place / "b").rglob("*") if path.is_file())
        digests.append(
            {
                path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in [*files, *place.glob("*.zip")]
            }
        )
    assert len(digests[0]) > len(PROGRAMS)
    assert digests[0] == digests[1]
