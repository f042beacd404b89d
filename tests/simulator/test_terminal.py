"""What commands show: words as they are, whoever wrote them."""

import io
import re

import numpy as np
import pytest
from rich.table import Table
from rich.text import Text

from pocketfed.core.head import Head, Trial
from pocketfed.core.modality import Modality
from pocketfed.simulator.display import Display
from pocketfed.simulator.probing import classes_table
from pocketfed.simulator.terminal import Terminal, telling
from tests.conftest import REPOSITORY

ODD = "o/b[/x] [bold]c :dog: d"


def shown(*parts: object, **options: object) -> str:
    terminal = Terminal(file=io.StringIO(), width=200)
    terminal.print(*parts, **options)  # type: ignore[arg-type]
    assert isinstance(terminal.file, io.StringIO)
    return terminal.file.getvalue()


def test_brackets_and_colons_are_no_markup() -> None:
    assert shown(ODD) == f"{ODD}\n"
    table = Table(ODD, title=ODD, caption=ODD)
    table.add_row(ODD)
    assert shown(table).count(ODD) == 4


def test_no_text_moves_the_cursor_or_sets_the_clipboard() -> None:
    evil = "\x1b[2J\x1b]52;c;aGFoYQ==\x07\x9b31m\u202eSIGNED"
    table = Table("class")
    table.add_row(evil)
    for part in (evil, Text(evil), table):
        text = shown(part, style="red")
        assert "52;c" in text
        assert text.replace("\n", "").isprintable()


def test_a_class_has_the_name_of_its_folder() -> None:
    head = Head(
        Modality.PHOTO, ("[red]a\x1b[2J", "b[/]"), np.ones((2, 3), np.float32), np.ones(2, np.float32), "ab", "compact",
        Trial((8, 4), (2, 1), (2, 0)),
    )  # fmt: skip
    for name in ("[red]a\ufffd[2J", "b[/]"):
        assert name in shown(classes_table(head))


@pytest.mark.parametrize("interactive", [True, False])
def test_progress_is_no_markup(interactive: bool) -> None:
    terminal = Terminal(file=io.StringIO(), width=200, force_terminal=interactive)
    with Display(terminal) as display:
        display.phase(ODD)
        display.note(ODD)
    with terminal.status("begun") as status:
        telling(status)(ODD)
        status.stop()
        terminal.print(status)
    assert isinstance(terminal.file, io.StringIO)
    assert terminal.file.getvalue().count(ODD) >= 3 - interactive


def test_commands_show_nothing_in_another_way() -> None:
    for path in (REPOSITORY / "simulator").rglob("*.py"):
        if path.name != "terminal.py":
            assert not re.search(r"\bConsole\(|rich\.markup|markup=True", path.read_text()), path
