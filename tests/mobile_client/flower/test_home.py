"""The home folder: private, and one process's at a time."""

import stat
from pathlib import Path

import pytest

from pocketfed.core.errors import PolicyError
from pocketfed.mobile_client.flower.home import open_home


def test_a_home_is_private_and_taken_once(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with open_home(folder) as home:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert home.key.parent == home.node.parent == home.journal.parent == home.log.parent == folder
        with pytest.raises(PolicyError, match="another phone runs in"), open_home(folder):
            pass
    with open_home(folder):
        pass


def test_a_home_that_cannot_be_made_is_an_error_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PolicyError, match="cannot be used"), open_home(tmp_path / "file"):
        pass
