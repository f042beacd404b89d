"""A name of 300 characters, which no file can have, is a mistake like any other wrong path, wherever one is given.

Looking at such a path is an error in itself, as it is where a folder may not be entered.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from pocketfed.core.errors import KeyFileError
from pocketfed.server.serving import Tls
from pocketfed.simulator.outputs import make_room
from tests.conftest import Shown

Run = Callable[..., Shown]

NAME = 300 * "x"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["keys", NAME], "cannot be written (File name too long)"),
        (["bundle", NAME], "cannot be read: File name too long"),
        (["bundle", "-o", NAME], "(File name too long); choose another place"),
        (["bundle", "-o", f"{NAME}/b"], "(File name too long); choose another place"),
        (["bundle", "--from", NAME], "is no run folder"),
        (["bundle", "--from", f"{NAME}.safetensors"], "cannot be read"),
        (["bundle", "--weights-from", NAME], "is no bundle"),
        (["bundle", "--weights-from", f"{NAME}.safetensors"], "cannot be read"),
        (["bundle", "--plugin", NAME], "is no Python file"),
        (["bundle", "--key", NAME], "cannot be read (File name too long)"),
        (["bundle", "--head", NAME], "cannot be read"),
        (["probe", NAME, "--photos", "album"], "is no bundle"),
        (["probe", "configs/demo.toml", "--photos", NAME], "does not exist; give a folder of photos"),
        (["probe", "run", "--photos", "album", "-o", NAME], "(File name too long); choose another place"),
        (["bench", "--bundle", NAME], "is no bundle"),
        (["inspect", NAME], "is no bundle"),
        (["verify", NAME], "is no bundle"),
        (["simulate", "--out", NAME], "cannot be used: File name too long"),
        (["simulate", "--resume", NAME], "is no run folder"),
        (["serve", "--bundle", NAME, "--insecure", "--state", "state"], "is no bundle"),
        (["enrol", "--state", NAME], ""),
        (["certs", NAME], "cannot be written (File name too long)"),
    ],
    ids=lambda value: " ".join(value).replace(NAME, "LONG") if isinstance(value, list) else "",
)
def test_it_is_said_in_one_sentence(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pocketfed: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.toml").write_text('[captures]\nphotos = "photos"\nside = 16\n')
    shown = pocketfed(*words)
    assert (shown.code, said in shown.err, len(shown.err.splitlines())) == (2, True, 1), shown.err
    assert not list(tmp_path.rglob("x*"))


def test_names_beside_it_fit_too(tmp_path: Path, pocketfed: Run) -> None:
    """What is built and moved aside there has longer names, which must not be found out in the end."""
    for length in range(200, 260):
        shown = pocketfed("bundle", "--backbone", "nobody", "-o", tmp_path / (length * "x"))
        assert shown.code == 2
        fits = len(f".{length * 'x'}.former.12345678") <= 255
        assert ("no such backbone" in shown.err) == fits, length
        assert ("File name too long" in shown.err) != fits, length
    make_room(tmp_path / (240 * "x"), "--json")
    assert list(tmp_path.iterdir()) == []


def test_a_certificate_of_such_a_name(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="is no file"):
        Tls(tmp_path / NAME, tmp_path / NAME).check()
