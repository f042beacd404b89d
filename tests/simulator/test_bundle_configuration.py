"""What bundles say of the configuration that they were made from: how phones learn, and nobody's folders."""

from pathlib import Path

import numpy as np
import pytest

from pocketfed.core.bundle import read_bundle
from pocketfed.core.errors import CaptureError
from pocketfed.core.modality import Modality
from pocketfed.core.release import CONFIG
from pocketfed.simulator.bundles import config_of, make_bundle, read_model
from pocketfed.simulator.bundling import Options, build_bundle
from pocketfed.simulator.config import Config
from pocketfed.simulator.config_file import build_config, to_toml
from pocketfed.simulator.program import recorded
from pocketfed.simulator.server_run import open_run


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs play no part here."""
    for module in ("export.program", "simulator.bundling"):
        monkeypatch.setattr(f"pocketfed.{module}.task_program", lambda *arguments: b"program")


def config(folder: Path) -> Config:
    captures = {"photos": str(folder / "photos"), "side": 16}
    return build_config({"captures": captures, "learning": {"batch": 4}, "rounds": 7})


def test_the_same_inputs_in_another_folder_give_the_same_bundle(tmp_path: Path) -> None:
    made = [
        make_bundle(config(tmp_path / name), None, tmp_path / name / "bundle", lambda what: None)
        for name in ("anne", "bert")
    ]
    assert made[0].id == made[1].id
    assert str(tmp_path) not in (made[0].folder / CONFIG).read_text()
    found = config_of(made[0])
    assert recorded(found) == [Modality.PHOTO]
    assert (found.rounds, found.captures.side, found.learning.batch) == (7, 16, 4)


def test_a_server_knows_where_captures_are_if_what_it_was_begun_with_does(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(to_toml(config(tmp_path)))
    begun = open_run(tmp_path / "state", tmp_path / "config.toml", None, None, lambda what: None)
    assert begun.config.captures.photos == tmp_path / "photos"
    assert str(tmp_path) not in (begun.bundle.folder / CONFIG).read_text()
    again = open_run(tmp_path / "second", begun.bundle.folder, None, None, lambda what: None)
    assert again.bundle.id == begun.bundle.id
    assert again.config.learning == begun.config.learning


def test_int8_without_captures_says_what_to_do(tmp_path: Path) -> None:
    bundle = make_bundle(config(tmp_path), None, tmp_path / "bundle", lambda what: None)
    model = read_model(bundle.folder)
    assert model.weights is not None
    assert np.array_equal(model.weights, read_bundle(bundle.folder).weights)
    with pytest.raises(CaptureError, match=r"photos does not exist; .* Add --no-int8"):
        build_bundle(model.config, model.weights, tmp_path / "next", Options(), None, lambda what: None)
    assert not (tmp_path / "next").exists()
