"""Logs: one line each with its fields, for people and for machines, and nobody else's chatter."""

import dataclasses
import io
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketfed.core.errors import ServerError
from pocketfed.server.logs import TALKATIVE, LogFormat, structured_logs
from pocketfed.server.outcome import Failure, Kind
from pocketfed.server.privacy.spent import Spent
from pocketfed.server.watch.round_log import RoundLog
from tests.server.watch.example import EVIL, busy, outcome


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_have_fields() -> None:
    stream = io.StringIO()
    with structured_logs(LogFormat.JSON, stream=stream) as log:
        log.info(
            "round %s",
            "finished",
            extra={"round": 7, "loss": float("nan"), "folder": Path("x"), "level": "mine", "_rays": 1},
        )
    (line,) = lines(stream.getvalue())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info", "logger": "pocketfed", "message": "round finished", "round": 7, "loss": "nan",
        "folder": "x",
    }  # fmt: skip


def test_an_exception_is_part_of_its_line() -> None:
    for style in LogFormat:
        stream = io.StringIO()
        with structured_logs(style, stream=stream) as log:
            try:
                raise ValueError("no\x1b[31m\nway")
            except ValueError:
                log.exception("it broke")
        text = stream.getvalue()
        assert "\x1b" not in text
        if style is LogFormat.JSON:
            assert "ValueError: no" in lines(text)[0]["error"]
        else:
            assert "Traceback" in text
            assert "ValueError: no" in text


def test_text_is_one_line_whatever_phones_say() -> None:
    stream = io.StringIO()
    with structured_logs(LogFormat.TEXT, stream=stream):
        log = RoundLog()
        log.abandoned(3, 0, [Failure(4, f"one\ntwo \x1b]0;title\x07 [red]{EVIL}" + "x" * 500, Kind.REFUSED)])
    first, second = stream.getvalue().splitlines()
    assert "warning" in first
    assert "round=3 phone=4 kind=refused" in first
    assert "one two" in first
    assert "[red]<script>" in first  # neither markup nor cut off at the width of a terminal
    assert first.isprintable()
    assert "attempt abandoned" in second


def test_rounds_are_logged_once_each() -> None:
    stream = io.StringIO()
    with structured_logs(LogFormat.JSON, stream=stream):
        busy(RoundLog(), 3)
        log = RoundLog()
        for _ in range(5):
            log.waiting(1, 2)
        log.trouble("disk full")
    found = lines(stream.getvalue())
    messages = [line["message"] for line in found]
    assert messages.count("round finished") == messages.count("round saved") == 3
    assert messages.count("waiting for phones") == 3 + 1
    left_out = [line["reasons"] for line in found if line["message"] == "phones left out"]
    assert left_out == [reasons for reasons, _ in itertools.groupby(left_out)]
    assert "rests, because its last answer was a no (3)" in left_out[0]
    finished = next(line for line in found if line["message"] == "round finished")
    assert {
        "round",
        "updates",
        "failures",
        "loss_photo",
        "loss_sound",
        "bytes_up",
        "seconds_collecting",
    } <= set(finished)
    failed = [line for line in found if line["message"] == "update did not count"]
    assert failed[-1]["phone"] == 13
    assert failed[-1]["reason"] == EVIL
    assert found[-1] | {"level": "error", "message": "degraded", "reason": "disk full"} == found[-1]


def test_others_are_heard_when_something_is_wrong() -> None:
    stream = io.StringIO()
    with structured_logs(LogFormat.JSON, stream=stream):
        for name in TALKATIVE:
            logging.getLogger(name).info("chatter")
            logging.getLogger(name).error("error of %s", name)
            logging.getLogger(f"{name}.child").warning("warning of %s", name)
    messages = [line["message"] for line in lines(stream.getvalue())]
    assert messages == [f"{kind} of {name}" for name in TALKATIVE for kind in ("error", "warning")]


def test_the_real_flower_is_quiet_and_keeps_its_errors(capfd: pytest.CaptureFixture[str]) -> None:
    from flwr.common.logger import log

    stream = io.StringIO()
    with structured_logs(LogFormat.JSON, stream=stream):
        log(logging.INFO, "aggregate_fit: received %s results", 3)
        log(logging.ERROR, "lost %s", "the database")
    assert [line["message"] for line in lines(stream.getvalue())] == ["lost the database"]
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""


def test_everything_is_as_it_was_afterwards() -> None:
    names = ("", "pocketfed", *TALKATIVE)

    def state() -> list[object]:
        loggers = [logging.getLogger(name) for name in names]
        return [(log.handlers[:], log.level, log.propagate, log.disabled) for log in loggers]

    before = state()
    with structured_logs(stream=io.StringIO()):
        assert state() != before
    assert state() == before


def test_the_file_is_json_whatever_the_terminal_shows(tmp_path: Path) -> None:
    stream = io.StringIO()
    with structured_logs(LogFormat.TEXT, tmp_path / "state" / "logs", stream=stream) as log:
        log.info("hello", extra={"round": 1})
    (line,) = lines((tmp_path / "state" / "logs" / "server.log").read_text())
    assert (line["message"], line["round"]) == ("hello", 1)
    assert "hello round=1" in stream.getvalue()


def test_what_privacy_has_cost_is_logged_with_its_round() -> None:
    stream = io.StringIO()
    protected = dataclasses.replace(
        outcome(7, np.random.default_rng(0)), privacy=Spent(2.34567, 1e-5, 8.0, 0.12345678)
    )
    with structured_logs(LogFormat.JSON, stream=stream):
        RoundLog().finished(protected)
        RoundLog().finished(dataclasses.replace(protected, privacy=None))
    told, nothing = lines(stream.getvalue())
    assert (told["epsilon"], told["delta"], told["clip"]) == (2.3457, 1e-5, 0.123457)
    assert not {"epsilon", "delta", "clip"} & nothing.keys()


def test_files_rotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pocketfed.server.logs.FILE_BYTES", 2000)
    with structured_logs(LogFormat.JSON, tmp_path, stream=io.StringIO()) as log:
        for number in range(300):
            log.info("hello", extra={"round": number})
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["server.log", *(f"server.log.{n}" for n in range(1, 5))]
    assert all(path.stat().st_size <= 2000 for path in files)
    assert lines(files[0].read_text())[-1]["round"] == 299


def test_a_file_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    with (
        pytest.raises(ServerError, match=r"server\.log cannot be written"),
        structured_logs(folder=tmp_path / "occupied"),
    ):
        pass


def test_a_full_disk_is_reported_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("/dev/full is of Linux")
    (tmp_path / "server.log").symlink_to(full)
    stream = io.StringIO()
    with structured_logs(LogFormat.JSON, tmp_path, stream=stream) as log:
        log.info("one")
        log.info("two")
    assert [line["message"] for line in lines(stream.getvalue())] == ["one", "two"]
    assert capsys.readouterr().err.count("No space left on device") == 1
