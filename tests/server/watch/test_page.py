"""The live page: what it says is what happened, and nothing in it can run or be fetched."""

import dataclasses
import re
from datetime import UTC, datetime

import pytest

from pocketfed.core.modality import Modality
from pocketfed.server.outcome import Failure, Kind
from pocketfed.server.privacy.spent import Spent
from pocketfed.server.watch.bars import SHOWN, stack
from pocketfed.server.watch.page import live_page, refused_page, state_line
from pocketfed.server.watch.scoreboard import Scoreboard
from pocketfed.server.watch.snapshot import Phones, Snapshot, Stage
from tests.server.watch.example import EVIL, busy
from tests.simulator.test_report import Checked

NOW = datetime(2026, 3, 1, 14, 3, 12, tzinfo=UTC)


class Linked(Checked):
    """As for the report, but the page may link to itself and to what is for machines."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            assert attrs[0][1] in {"?", "?refresh=0", "metrics", "healthz"}
            attrs = []
        super().handle_starttag(tag, attrs)


def page(shown: Snapshot, refreshes: bool = True) -> str:
    text = live_page(shown, NOW, refreshes)
    Linked().feed(text)
    assert not re.search(r"https?://|//\w|url\(|@import|<script|<link|<img", text)
    return text


@pytest.fixture
def board() -> Scoreboard:
    board = Scoreboard(planned=100, deadline=120.0, clock=lambda: 0.0)
    busy(board)
    return board


def test_everything_is_there(board: Scoreboard) -> None:
    shown = board.snapshot()
    text = page(shown)
    for expected in (
        "Round 37 of 100, attempt 2: 12 of 20 answered; waits 2 min more at most",
        "2026-03-01 14:03:12 UTC",
        "Training loss of photos by round.",
        "Training loss of sounds by round.",
        "Seconds of the last 36 rounds",
        "battery at 31 %",
        f"{shown.totals.updates} updates were folded.",
        "1 attempt was begun anew",
    ):
        assert expected in text
    for phase in ("waiting for phones", "sending", "collecting answers", "folding", "saving"):
        assert f"<span>{phase} <small>" in text
    for name, count in (("Seen", 64), ("Eligible", 33), ("Chosen", 20), ("Benched", 2)):
        assert re.search(rf"<dt>{name} <span>[^<]*</span></dt><dd>{count}</dd>", text)
    for kind, total in shown.totals.failures.items():
        assert re.search(rf"<dt>{kind.capitalize()} <span>[^<]*</span></dt><dd>{total}</dd>", text)
    for line in shown.rounds:
        row = f"<td>{line.loss[Modality.PHOTO]:.3f}</td><td>{line.loss[Modality.SOUND]:.3f}</td><td>{line.phones}</td>"
        assert row in text


def test_what_phones_say_is_escaped(board: Scoreboard) -> None:
    board.trouble(EVIL)
    text = page(board.snapshot())
    assert EVIL not in text
    assert text.count("&lt;script&gt;alert(&#39;phone&#39;)&lt;/script&gt; &amp; &#34;more&#34;") == 2


@pytest.mark.parametrize("stage", Stage)
def test_why_phones_are_left_out_is_said_once(stage: Stage) -> None:
    phones = Phones(2, 2, 0, left_out={EVIL: 1, "has another bundle": 1})
    text = page(Snapshot(stage, needed=2, phones=phones))
    assert text.count("There, and left out") == text.count("has another bundle") == 1
    assert EVIL not in text
    waits = text.index("There, and left out") < text.index("<h2>Phones and time</h2>")
    assert waits is (stage is Stage.WAITING)


def test_text_that_is_not_text_does_no_harm() -> None:
    board = Scoreboard()
    board.abandoned(1, 0, [Failure(1, "caf\udce9 \u202e\x00")])
    assert "caf\ufffd \ufffd\ufffd" in page(board.snapshot())


def test_it_refreshes_unless_paused(board: Scoreboard) -> None:
    assert '<meta http-equiv="refresh" content="5">' in page(board.snapshot())
    paused = page(board.snapshot(), refreshes=False)
    assert "http-equiv" not in paused
    assert '<a href="?">go on</a>' in paused


def test_before_the_first_round() -> None:
    text = page(Scoreboard().snapshot())
    assert "No phone has been seen yet." in text
    assert "<svg" not in text


def test_the_page_of_a_long_run_is_bounded() -> None:
    board = Scoreboard()
    busy(board, 700)
    text = page(board.snapshot())
    assert "The last 50 of 700 rounds." in text
    assert len(text) < 120_000
    assert (
        re.findall(r'<text class="across"[^>]*>(\d+)</text>', text)[0] == "200"
    )  # the plot begins where memory does


def test_without_the_token() -> None:
    text = refused_page()
    Linked().feed(text)
    assert "?token=" in text
    assert "Authorization: Bearer" in text


@pytest.mark.parametrize(
    ("shown", "text", "tone"),
    [
        (Snapshot(), "Starting", "idle"),
        (Snapshot(Stage.WAITING, present=2, needed=5), "Waiting for phones: 2 of 5", "idle"),
        (Snapshot(Stage.WAITING), "Waiting for phones: 0 of 0", "idle"),
        (Snapshot(Stage.COLLECTING, 7, done=12, cohort=20), "Round 7: 12 of 20 answered", "busy"),
        (Snapshot(Stage.COLLECTING, 7, cohort=0), "Round 7: 0 of 0 answered", "busy"),
        (
            Snapshot(Stage.COLLECTING, 7, done=1, cohort=2, left=8000.0),
            "Round 7: 1 of 2 answered; waits 2 h 13 min more at most",
            "busy",
        ),
        (Snapshot(Stage.SAVING, 7, planned=9), "Round 7 of 9: saving", "busy"),
        (Snapshot(Stage.CHOOSING, 7), "Choosing phones; the last round was 7", "busy"),
        (Snapshot(Stage.FINISHED, 9, planned=9), "Finished: 9 rounds", "good"),
    ],
)
def test_the_state_in_one_line(shown: Snapshot, text: str, tone: str) -> None:
    line = state_line(shown)
    assert (line.text, line.tone) == (text, tone)
    assert line.share is None or 0 <= line.share <= 1
    page(shown)


def test_bars_are_as_high_as_rounds_were_long(board: Scoreboard) -> None:
    rounds = board.snapshot().rounds
    drawn = stack(rounds)
    assert drawn is not None
    for line, bar in zip(rounds[-SHOWN:], drawn.bars, strict=True):
        assert [piece.phase for piece in bar.pieces] == list(line.phases)
        assert bar.pieces[-1].top == pytest.approx(drawn.y(sum(line.phases.values())))
        assert sum(piece.height for piece in bar.pieces) == pytest.approx(drawn.y(0) - bar.pieces[-1].top)
    assert drawn.bars[-1].left + drawn.width <= 388


def test_rounds_without_phases_have_no_bars(board: Scoreboard) -> None:
    assert stack([]) is None
    assert stack([dataclasses.replace(line, phases={}) for line in board.snapshot().rounds]) is None


def test_losses_that_cannot_be_drawn_are_named(board: Scoreboard) -> None:
    shown = board.snapshot()
    lines = [dataclasses.replace(line, loss={Modality.PHOTO: float("nan")}) for line in shown.rounds]
    text = page(dataclasses.replace(shown, rounds=tuple(lines)))
    assert text.count("<td>not finite</td>") == len(lines)
    assert "Training loss of" not in text


def test_what_privacy_has_cost_is_shown_with_its_budget(board: Scoreboard) -> None:
    shown = board.snapshot()
    assert "Epsilon" not in page(shown)
    spent = [Spent(0.125 * line.round + 1 / 3, 1e-5, 8.0, 0.75) for line in shown.rounds]
    lines = [dataclasses.replace(line, privacy=cost) for line, cost in zip(shown.rounds, spent, strict=True)]
    text = page(dataclasses.replace(shown, rounds=tuple(lines)))
    assert (
        '<dt>Epsilon, at delta 1e-05</dt><dd>4.83 <small class="soft">of 8</small></dd>' in text
    )  # of round 36
    assert '<th scope="col">Epsilon</th>' in text
    rows = re.findall(r'<tr><th scope="row">(\d+)\b.*<td>([\d.]+)</td></tr>', text)
    shown_costs = {int(number): cost for number, cost in rows if int(number) in (35, 36)}
    assert shown_costs == {35: "4.708", 36: "4.833"}
    mixed = page(dataclasses.replace(shown, rounds=(shown.rounds[-2], lines[-1])))  # before it was protected
    assert "4.833</td></tr>" in mixed


def test_every_kind_is_explained() -> None:
    board = Scoreboard()
    board.abandoned(1, 0, [Failure(1, "x", kind) for kind in Kind])
    text = page(board.snapshot())
    assert all(f"<dt>{kind.capitalize()} <span>" in text for kind in Kind)
