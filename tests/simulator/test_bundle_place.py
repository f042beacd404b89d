"""What `pocketfed bundle` replaces and what it makes a bundle of; what is exported plays no part here."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketfed.core.bundle import Bundle, read_bundle
from pocketfed.core.learning_task import initial_weights
from pocketfed.core.release import MANIFEST
from pocketfed.core.signing import SigningKey
from pocketfed.server.checkpoint import Checkpoint, path_of, save_checkpoint
from pocketfed.simulator import bundling, run_folder, verification
from pocketfed.simulator.bundle_place import zip_of
from pocketfed.simulator.bundling import Options
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config
from pocketfed.simulator.program import recorded, task_of
from pocketfed.simulator.run_folder import RunFolder
from tests.bundles import release
from tests.conftest import Shown

Run = Callable[..., Shown]


@dataclass
class Builder:
    """In place of `build_bundle`: remembers what it was asked for, and makes a small bundle."""

    configs: list[Config] = field(default_factory=list)
    weights: list[NDArray[np.float32] | None] = field(default_factory=list)
    meanwhile: Callable[[], object] = lambda: None

    def __call__(
        self, config: Config, weights: NDArray[np.float32] | None, folder: Path, options: Options,
        key: SigningKey | None, tell: Callable[[str], None],
    ) -> Bundle:  # fmt: skip
        self.configs.append(config)
        self.weights.append(weights)
        self.meanwhile()
        return release(folder, key, options.version)


@pytest.fixture(autouse=True)
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    builder = Builder()
    monkeypatch.setattr(bundling, "build_bundle", builder)
    monkeypatch.setattr(verification, "useless_int8", lambda bundle, task: [])
    return builder


@pytest.fixture
def make(tmp_path: Path, pocketfed: Run) -> Run:
    """Makes a bundle in a folder, of some version."""

    def make(out: Path | str, version: int, *flags: object) -> Shown:
        return pocketfed("bundle", "--out", out, "--version", version, *flags)

    return make


def version_of(folder: Path) -> int:
    return read_bundle(folder).version


def zipped(archive: Path) -> int:
    with zipfile.ZipFile(archive) as opened:
        version = json.loads(opened.read(f"{archive.stem}/{MANIFEST}"))["version"]
        assert isinstance(version, int)
        return version


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def foreign(out: Path) -> None:
    (out / "src").mkdir(parents=True)
    (out / MANIFEST).write_text('{"manifest_version": 3}')
    (out / "src" / "app.js").write_text("years of work")


def with_notes(out: Path) -> None:
    release(out, None)
    (out / "notes.txt").write_text("years of work")


def a_file(out: Path) -> None:
    out.write_text("years of work")


def a_stray_zip(out: Path) -> None:
    out.with_name("out.zip").write_text("years of work")


def another_zip(out: Path) -> None:
    with zipfile.ZipFile(out.with_name("out.zip"), "w") as archive:
        archive.writestr("out/photo.jpg", "years of work")


def a_zip_with_notes(out: Path) -> None:
    made = release(out.with_name("made"), None)
    out.with_name("out.zip").write_bytes(zip_of(made, "out"))
    with zipfile.ZipFile(out.with_name("out.zip"), "a") as archive:
        archive.writestr("out/notes.txt", "years of work")


def a_zip_that_is_a_folder(out: Path) -> None:
    out.with_name("out.zip").mkdir()


def in_circles(out: Path) -> None:
    out.symlink_to(out)


@pytest.mark.parametrize(
    ("before", "message"),
    [
        (foreign, "out exists and is no whole bundle"),
        (with_notes, "notes.txt is in no manifest"),
        (a_file, "out exists and is no whole bundle"),
        (a_stray_zip, "out.zip exists and is no .zip of a bundle"),
        (another_zip, "out.zip exists and is no .zip of a bundle"),
        (a_zip_with_notes, "out.zip exists and is no .zip of a bundle and nothing else"),
        (a_zip_that_is_a_folder, "out.zip exists and is no .zip of a bundle"),
        (in_circles, "choose another folder"),
    ],
)
def test_what_is_no_bundle_is_never_replaced(
    before: Callable[[Path], None], message: str, make: Run, builder: Builder, tmp_path: Path
) -> None:
    before(tmp_path / "out")
    there = tree(tmp_path)
    shown = make(tmp_path / "out", 1, "--force", "--zip")
    assert (shown.code, message in shown.err, len(shown.err.splitlines())) == (2, True, 1), shown.err
    assert tree(tmp_path) == there
    assert builder.configs == []  # an hour of work is not lost to it


def test_a_bundle_is_replaced_with_force_alone_and_its_zip_with_it(make: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert make(out, 1, "--zip").code == 0
    assert (version_of(out), zipped(tmp_path / "out.zip")) == (1, 1)
    for flags in ([], ["--zip"]):
        shown = make(out, 2, *flags)
        assert (shown.code, "out exists; add --force" in shown.err) == (2, True)
    shown = make(out, 2, "--force")
    assert (shown.code, "out.zip: all of it in one file" in shown.out) == (0, True)
    assert (version_of(out), zipped(tmp_path / "out.zip")) == (2, 2)
    shutil.rmtree(out)
    shown = make(out, 3, "--zip")
    assert (shown.code, "out.zip exists; add --force" in shown.err) == (2, True)
    assert make(out, 3).code == 0  # another bundle's .zip is left as it is
    assert zipped(tmp_path / "out.zip") == 2
    assert make(out, 4, "--force", "--zip").code == 0
    assert (version_of(out), zipped(tmp_path / "out.zip")) == (4, 4)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "out.zip"}


def test_the_folder_one_stands_in_and_a_link_to_one(
    make: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out", 1)
    monkeypatch.chdir(tmp_path / "out")
    assert make(".", 2, "--force").code == 0
    assert version_of(tmp_path / "out") == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "current").symlink_to("out")
    assert make(tmp_path / "current", 3, "--force").code == 0
    assert (tmp_path / "current").is_symlink()
    assert version_of(tmp_path / "out") == 3
    (tmp_path / "next").symlink_to("later")
    assert make(tmp_path / "next", 4).code == 0
    assert version_of(tmp_path / "later") == 4
    assert {path.name for path in tmp_path.iterdir()} == {"out", "current", "next", "later"}


class Killed(BaseException):
    """The process ends here."""


def test_a_process_may_end_at_any_step(make: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was moved so far, the former bundle is whole somewhere, and so is the new one if it is not at its place."""
    out, renamed, removed = tmp_path / "out", Path.rename, shutil.rmtree
    for step in range(10):
        for path in tmp_path.iterdir():
            removed(path)
        release(out, None, 1)
        left = step

        def count() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed

        def rename(path: Path, target: Path) -> Path:
            count()
            return renamed(path, target)

        def rmtree(path: Path, ignore_errors: bool = False) -> None:
            count()
            removed(path)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", rename)
            patch.setattr(shutil, "rmtree", rmtree)
            try:
                make(out, 2, "--force")
            except Killed:
                versions = {version_of(path.parent) for path in tmp_path.rglob(MANIFEST)}
                assert 1 in versions or version_of(out) == 2
                assert versions & {2} or version_of(out) == 1
            else:
                break
    assert step > 2
    assert version_of(out) == 2


def test_a_move_that_fails_leaves_what_was_there(
    make: Run, builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, renamed = tmp_path / "out", Path.rename
    make(out, 1)

    def rename(path: Path, target: Path) -> Path:
        if path.name == "bundle":
            raise OSError(28, "No space left on device")
        return renamed(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        shown = make(out, 2, "--force")
    assert (shown.code, "(No space left on device); make room there" in shown.err) == (2, True)
    assert version_of(out) == 1
    assert os.listdir(tmp_path) == ["out"]
    builder.meanwhile = lambda: with_notes(tmp_path / "other")
    shown = make(tmp_path / "other", 2)  # somebody was faster
    assert shown.code == 2
    assert (tmp_path / "other" / "notes.txt").exists()


def notes_in_it(out: Path) -> None:
    (out / "notes.txt").write_text("years of work")


def another_release(out: Path) -> None:
    release(out, None, 7)


def a_folder_of_ones_own(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    foreign(out)


@pytest.mark.parametrize(
    ("there", "flags", "meanwhile", "said"),
    [
        (True, ["--force"], notes_in_it, "out/notes.txt is in no manifest"),
        (True, ["--force"], another_release, "something else came there"),
        (True, ["--force"], a_folder_of_ones_own, "the manifest.json of"),
        (True, ["--force", "--zip"], a_zip_with_notes, "out.zip changed while"),
        (True, ["--force", "--zip"], a_stray_zip, "out.zip changed while"),
        (False, ["--zip"], a_stray_zip, "out.zip changed while"),
        (False, ["--zip"], in_circles, "out changed while"),
        (False, ["--force", "--zip"], a_zip_with_notes, "out.zip changed while"),
        (False, [], a_folder_of_ones_own, "out changed while"),
        (False, [], a_file, "out changed while"),
        (False, ["--force"], another_release, "out changed while"),
    ],
)
def test_what_comes_there_while_it_builds_stays(
    there: bool, flags: list[object], meanwhile: Callable[[Path], None], said: str, make: Run, builder: Builder,
    tmp_path: Path,
) -> None:  # fmt: skip
    """Between the look at the place and the bundle's coming there may be an hour."""
    out, wanted = tmp_path / "work" / "out", {}
    out.parent.mkdir()
    if there:
        make(out, 1, *flags)

    def come() -> None:
        meanwhile(out)
        wanted.update(tree(out.parent))

    builder.meanwhile = come
    shown = make(out, 2, *flags)
    assert (shown.code, said in shown.err, len(shown.err.splitlines())) == (2, True, 1), shown.err
    assert f"{out.parent}/.out" not in shown.err  # it is where it was, whatever it was moved to
    assert tree(out.parent) == {name: content for name, content in wanted.items() if not name.startswith(".")}


def test_a_bundle_that_is_gone_meanwhile_is_not_missed(make: Run, builder: Builder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, 1, "--zip")

    def removed() -> None:
        shutil.rmtree(out)
        out.with_name("out.zip").unlink()

    builder.meanwhile = removed
    assert make(out, 2, "--force").code == 0
    assert (version_of(out), zipped(tmp_path / "out.zip")) == (2, 2)


@pytest.mark.parametrize("below", ["in", "deeper/in", "Embed.mlpackage/Data/in", "../o/in"])
def test_a_place_in_a_bundle_is_none(below: str, make: Run, builder: Builder, tmp_path: Path) -> None:
    release(tmp_path / "o", None)
    there = tree(tmp_path)
    shown = make(tmp_path / "o" / below, 1)
    assert (shown.code, f"is inside the bundle {tmp_path / 'o'}, " in shown.err) == (2, True), shown.err
    assert (tree(tmp_path), builder.configs) == (there, [])
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / MANIFEST).write_text('{"manifest_version": 3}')  # another tool's
    assert make(tmp_path / "app" / "bundle", 1).code == 0


def test_a_zip_that_cannot_be_moved_leaves_the_former_bundle_and_its_zip(
    make: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    make(out, 1, "--zip")
    there = tree(tmp_path)
    full = OSError(28, "No space left on device")
    for failing in ("rename", "replace"):
        real = getattr(Path, failing)

        def moved(path: Path, target: Path, real: Callable[[Path, Path], Path] = real) -> Path:
            if path.name == "archive":
                raise full
            return real(path, target)

        monkeypatch.setattr(Path, failing, moved)
    shown = make(out, 2, "--force")
    assert (shown.code, "(No space left on device); make room there" in shown.err) == (2, True), shown.err
    assert tree(tmp_path) == there


def test_what_cannot_be_moved_back_is_named(
    make: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as when somebody makes a folder there in the moment in which there is none."""
    out, renamed = tmp_path / "out", Path.rename
    make(out, 1)

    def rename(path: Path, target: Path) -> Path:
        if path.name == "bundle":
            a_folder_of_ones_own(out)
        return renamed(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    shown = make(out, 2, "--force")
    (aside,) = tmp_path.glob(".out.former.*/out")
    assert (shown.code, f"{aside} cannot be moved back to {out} (" in shown.err) == (2, True), shown.err
    assert version_of(aside) == 1
    assert (out / "src" / "app.js").exists()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of small captures with two rounds, the later of which is not the best."""
    config = build_config(
        {"captures": {"photos": str(tmp_path / "photos"), "side": 16}, "learning": {"batch": 4}}
    )
    task = task_of(config, recorded(config))
    folder = RunFolder(tmp_path / "run")
    run_folder.begin(folder, config)
    begun = initial_weights(task, 0)
    for number in (0, 3):
        weights = begun + np.float32(number)
        checkpoint = Checkpoint(number, 0, weights, task.layout, {"round": number})
        save_checkpoint(folder.checkpoints, checkpoint)
    shutil.copy(path_of(folder.checkpoints, 0), folder.checkpoints / "best-photo-probe.safetensors")
    return folder.path


def test_from_a_run_its_newest_weights_and_from_a_checkpoint_its_own(
    run: Path, make: Run, builder: Builder, tmp_path: Path
) -> None:
    for number, (path, said) in enumerate(
        [
            (run, "run: round 3\n"),
            (run / "checkpoints" / "best-photo-probe.safetensors", ": round 0, before its first round"),
        ]
    ):
        shown = make(tmp_path / f"out{number}", 1, "--from", path)
        assert (shown.code, said in shown.out) == (0, True), shown.err
    (newest, best), (config, _) = builder.weights, builder.configs
    assert newest is not None
    assert best is not None
    assert np.array_equal(newest, best + np.float32(3))
    assert (config.captures.side, config.learning.batch) == (16, 4)


def test_from_what_has_no_weights_of_its_own(run: Path, make: Run, builder: Builder, tmp_path: Path) -> None:
    release(tmp_path / "bundle", None)
    shutil.rmtree(run / "checkpoints")
    for path, message in (
        (tmp_path / "bundle", f"give a configuration, and --weights-from {tmp_path / 'bundle'}"),
        (run, f"no round is finished; let one finish, or give {run / 'config.toml'} in place of --from"),
        (tmp_path, "is no run folder"),
    ):
        shown = make(tmp_path / "out", 1, "--from", path)
        assert (shown.code, message in shown.err) == (2, True), shown.err
    assert builder.configs == []


def test_a_version_that_no_phone_would_read_is_refused_before_anything_is_made(
    make: Run, builder: Builder, tmp_path: Path
) -> None:
    for version in (0, 2**53, 2**64):
        shown = make(tmp_path / "out", version)
        assert (shown.code, "--version" in shown.err, f"{version} is not in" in shown.err) == (2, True, True)
    assert builder.configs == []
    assert make(tmp_path / "out", 2**53 - 1).code == 0


def test_a_backbone_by_name_takes_the_place_of_the_configurations(
    run: Path, make: Run, builder: Builder, tmp_path: Path
) -> None:
    assert make(tmp_path / "a", 1, "--backbone", "repvgg").code == 0
    assert make(tmp_path / "b", 1, run / "config.toml", "--backbone", "resnet").code == 0
    assert make(tmp_path / "c", 1, run / "config.toml").code == 0
    assert [config.learning.backbone for config in builder.configs] == ["repvgg", "resnet", "compact"]
    assert [config.captures.side for config in builder.configs] == [32, 16, 16]
    assert builder.weights == [None, None, None]


def test_weights_carried_over_from_a_run(run: Path, make: Run, builder: Builder, tmp_path: Path) -> None:
    for name, path in (("a", run), ("b", run / "checkpoints" / "best-photo-probe.safetensors")):
        assert make(tmp_path / name, 1, run / "config.toml", "--weights-from", path).code == 0
    newest, best = builder.weights
    assert newest is not None
    assert best is not None
    assert np.array_equal(newest, best + np.float32(3))
