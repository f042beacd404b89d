"""What a terminal would obey is seen and not obeyed."""

import pytest

from pocketfed.core.visible import visible


@pytest.mark.parametrize("text", ["bark, Größe [x]", "犬　猫", "9.41.00\u202fAM.png", "─ ⠋ 🐕"])
def test_words_stay_as_they_are(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    "sign", ["\x1b", "\x07", "\r", "\n", "\b", "\x7f", "\x9b", "\u202e", "\u2028", "\ud800", "\u200b", "\0"]
)
def test_what_shows_nothing_is_replaced(sign: str) -> None:
    assert visible(f"a{sign}b") == "a\ufffdb"
    assert visible(f"a{sign}\nb", keep="\n").endswith("\nb")
