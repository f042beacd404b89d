"""A deployed server from bundle to last round, whatever happens to its disk, its phones and itself."""

import errno
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Message

from pocketfed.core import atomic
from pocketfed.core import bundle as core_bundle
from pocketfed.core.errors import ConfigError, RunFolderError, UserError
from pocketfed.core.formats import Format
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.export import program
from pocketfed.server import checkpoint as checkpoints
from pocketfed.server.aggregators import GlobalModel
from pocketfed.server.checkpoint import load_checkpoint, newest, path_of, saved_rounds
from pocketfed.server.flower_private import DatabaseError, Fleet
from pocketfed.server.outcome import Kind, Outcome
from pocketfed.server.roster import Roster
from pocketfed.server.watch.snapshot import Stage
from pocketfed.simulator import deployment, metrics_file, run_folder
from pocketfed.simulator.config import Config, ExchangeConfig
from pocketfed.simulator.keeper import Keeper
from pocketfed.simulator.run_folder import RunFolder, read_metrics
from pocketfed.simulator.server_run import open_run
from pocketfed.simulator.state_bundle import BUNDLE
from tests.simulator.deployed import (
    FEW,
    SIZE,
    START,
    Diary,
    Server,
    assert_close,
    bundle,
    expected,
    fleet,
    settings,
    wait_for,
)


def silent(text: str) -> None: ...


def rounds_in(state: Path) -> list[int]:
    return [int(path.stem.removeprefix("round-")) for path in saved_rounds(RunFolder(state).checkpoints)]


def test_a_run_leaves_all_that_a_restart_needs_and_a_restart_adds_rounds(tmp_path: Path) -> None:
    made, state = bundle(tmp_path / "bundle", settings(4, keep_checkpoints=2)), tmp_path / "state"
    with fleet(tmp_path) as phones:
        with Server(state, made) as server:
            for phone in phones:
                phone.start(server.url)
            assert_close(server.result(), expected(4))
            assert server.shown.stage is Stage.FINISHED
        assert server.diary.saves == [1, 2, 3, 4]
        assert rounds_in(state) == [0, 3, 4]  # the untrained one stays
        last = load_checkpoint(path_of(state / "checkpoints", 4))
        assert sorted(status.number for status in last.statuses.values()) == [0, 1, 2]
        assert [record["round"] for record in read_metrics(RunFolder(state), 9)] == [0, 1, 2, 3, 4]

        # Finished is finished: the same command again does nothing, and asks nobody.
        with Server(state, made) as again:
            assert_close(again.result(), expected(4))
        assert again.diary.outcomes == []

        # Nobody says anew who it is before being asked: what they said is in the checkpoint, the nodes in the database.
        longer = settings(6, keep_checkpoints=2)
        with Server(state, made, longer, port=server.port) as more:
            assert_close(more.run.last.weights, expected(4))
            assert_close(more.result(), expected(6))
        assert [outcome.round for outcome in more.diary.outcomes] == [5, 6]
    assert more.diary.outcomes[0].phases["waiting"] < 0.5  # one look
    assert run_folder.read_config(RunFolder(state)).rounds == 6


class Crash(BaseException):
    """What SIGKILL does, as far as files can tell."""


def crash_at(write: int, monkeypatch: pytest.MonkeyPatch, after: bool) -> None:
    """Die in or after the write with this number, from 0; one that began leaves a temporary file, or half a line."""
    count = 0

    def dying(path: Path, content: bytes, mode: int = 0o644) -> None:
        nonlocal count
        count += 1
        if count - 1 == write and not after:
            (path.parent / f".{path.name}.litter").write_bytes(content[: len(content) // 2])
            raise Crash
        atomic.write_atomically(path, content, mode)
        if count - 1 == write:
            raise Crash

    def tearing(path: Path, size: int, content: bytes) -> int:
        nonlocal count
        count += 1
        dies = count - 1 == write
        end = atomic.append_durably(
            path, size, content if after or not dies else content[: len(content) // 2]
        )
        if dies:
            raise Crash
        return end

    for module in (core_bundle, checkpoints, run_folder):
        monkeypatch.setattr(module, "write_atomically", dying)
    monkeypatch.setattr(metrics_file, "append_durably", tearing)


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_of_a_first_start_leaves_a_folder_that_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    made, write = bundle(tmp_path / "bundle", settings(4)), 0
    while True:
        state = tmp_path / f"state-{write}"
        with monkeypatch.context() as patch:
            crash_at(write, patch, after)
            try:
                open_run(state, made, None, None, silent)
                break
            except Crash:
                write += 1
        run = open_run(state, made, None, None, silent)
        assert (run.last.round, run.problems) == (0, ())
        assert np.array_equal(run.last.weights, START)
    assert write == 8  # five files of the bundle, round 0, the run's id, the configuration


def test_phones_can_tell_a_run_from_one_that_begins_anew_with_the_same_bundle(tmp_path: Path) -> None:
    made = bundle(tmp_path / "bundle", settings(4))

    def said(state: str, config: Config | None = None) -> str:
        return open_run(tmp_path / state, made, config, None, silent).rounds().plan(3).run

    first = said("one")
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert said("one") == said("one", settings(9)) == first
    assert said("other") != first
    (tmp_path / "one" / "run-id").write_text("")
    with pytest.raises(RunFolderError, match=r"run-id cannot be read \(damaged\).*restore it from a copy"):
        said("one")
    (tmp_path / "one" / "run-id").unlink()
    with pytest.raises(RunFolderError, match=r"run-id cannot be read \(No such file"):
        said("one")


def test_what_travels_cannot_change_in_the_middle_of_a_run_but_how_it_travels_can(tmp_path: Path) -> None:
    """What a rule remembers belongs to the part that travels."""
    config = settings(4)
    made, state = bundle(tmp_path / "bundle", config), tmp_path / "state"
    open_run(state, made, None, None, silent)
    smaller = ExchangeConfig(update_format=Format.INT8)
    assert open_run(state, made, config.model_copy(update={"exchange": smaller}), None, silent)
    other = ExchangeConfig(travels=(Role.BACKBONE,))
    with pytest.raises(ConfigError, match=r"begun with backbone, projector, buffer \(got backbone\)"):
        open_run(state, made, config.model_copy(update={"exchange": other}), None, silent)


def outcome(round_number: int) -> Outcome:
    return Outcome(round_number, GlobalModel(START + np.float32(round_number)), {}, 3, (), 0, 0, 0.1)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("write", [0, 1])
def test_a_crash_at_any_write_of_a_round_costs_no_other_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int, after: bool
) -> None:
    """The checkpoint first, then the metrics: what is on disk says which of them came about."""
    made, state = bundle(tmp_path / "bundle", settings(4)), tmp_path / "state"
    keeper = Keeper(open_run(state, made, None, None, silent), Roster(), Diary())
    for number in (1, 2):
        keeper.finished(outcome(number))
    with monkeypatch.context() as patch:
        crash_at(write, patch, after)
        with pytest.raises(Crash):
            keeper.finished(outcome(3))
    run = open_run(state, made, None, None, silent)
    reached = 2 if (write, after) == (0, False) else 3
    assert (run.last.round, run.problems) == (reached, ())
    again = Keeper(run, Roster(), Diary())
    assert [record["round"] for record in again.records()] == list(range(reached + 1))
    # Also on disk, since no round may follow.
    assert [record["round"] for record in read_metrics(run.folder, 9)] == list(range(reached + 1))
    again.finished(outcome(reached + 1))
    assert not list((state / "checkpoints").glob(".*"))


def full(monkeypatch: pytest.MonkeyPatch, name: str, error: int = errno.ENOSPC) -> None:
    """No file of this name can be written."""

    def write(path: Path, content: bytes, mode: int = 0o644) -> None:
        if path.name.startswith(name):
            raise OSError(error, "No space left on device")
        atomic.write_atomically(path, content, mode)

    monkeypatch.setattr(checkpoints, "write_atomically", write)
    monkeypatch.setattr(run_folder, "write_atomically", write)


def test_a_full_disk_costs_a_checkpoint_and_no_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, state = bundle(tmp_path / "bundle", settings(4)), tmp_path / "state"

    def health() -> tuple[int, str]:
        answer = httpx.get(f"{server.url}/healthz", trust_env=False)
        return answer.status_code, answer.json()["status"]

    with fleet(tmp_path) as phones, Server(state, made) as server:
        full(monkeypatch, "round-00002")
        phones[0].stop_at(3)
        for phone in phones:
            phone.start(server.url)
        assert phones[0].stopped.wait(30)
        assert health() == (503, "degraded")
        assert rounds_in(state) == [0, 1]  # the last good one is there still
        phones[0].go_on()
        phones[0].stop_at(4)
        assert phones[0].stopped.wait(30)
        assert health() == (200, "ok")
        phones[0].go_on()
        assert_close(server.result(), expected(4))
    assert server.diary.saves == [1, 3, 4]
    (trouble,) = server.diary.troubles
    assert "round 2 is not on disk (No space left on device); make room in" in trouble
    assert [record["round"] for record in read_metrics(RunFolder(state), 9)] == [0, 1, 2, 3, 4]


def test_a_full_disk_makes_room_by_giving_up_old_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, state = bundle(tmp_path / "bundle", settings(9)), tmp_path / "state"
    diary = Diary()
    keeper = Keeper(open_run(state, made, None, None, silent), Roster(), diary)
    for number in (1, 2, 3):
        keeper.finished(outcome(number))

    def write(path: Path, content: bytes, mode: int = 0o644) -> None:
        if len(rounds_in(state)) > 2:  # room for two checkpoints, and a third
            raise OSError(errno.ENOSPC, "No space left on device")
        atomic.write_atomically(path, content, mode)

    monkeypatch.setattr(checkpoints, "write_atomically", write)
    keeper.finished(outcome(4))
    assert rounds_in(state) == [0, 3, 4]
    assert (diary.saves, diary.troubles, keeper.problem) == ([1, 2, 3, 4], [], None)


def test_what_is_no_full_disk_removes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, state = bundle(tmp_path / "bundle", settings(9)), tmp_path / "state"
    diary = Diary()
    keeper = Keeper(open_run(state, made, None, None, silent), Roster(), diary)
    for number in (1, 2):
        keeper.finished(outcome(number))
    full(monkeypatch, "round-00003", errno.EROFS)
    keeper.finished(outcome(3))
    assert rounds_in(state) == [0, 1, 2]
    assert "look after" in diary.troubles[0]


def test_a_last_round_that_is_not_on_disk_is_said_and_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, state = bundle(tmp_path / "bundle", settings(2)), tmp_path / "state"
    with fleet(tmp_path) as phones:
        with monkeypatch.context() as patch:
            full(patch, "round-00002")
            with Server(state, made) as server:
                for phone in phones:
                    phone.start(server.url)
                with pytest.raises(RunFolderError, match=r"round 2 is not on disk .* start again to repeat"):
                    server.result()
        with Server(state, made, port=server.port) as again:
            assert_close(again.result(), expected(2))
    assert [outcome.round for outcome in again.diary.outcomes] == [2]


def test_a_database_that_cannot_be_written_pauses_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk that is full for checkpoints is full for Flower's database too."""
    monkeypatch.setattr(deployment, "AGAIN", 0.2)
    made = bundle(tmp_path / "bundle", settings(3))
    failing = threading.Event()
    post = Fleet.post

    def posting(fleet: Fleet, messages: Iterable[Message]) -> Iterator[str]:
        if failing.is_set():
            raise DatabaseError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
        return post(fleet, messages)

    monkeypatch.setattr(Fleet, "post", posting)
    with fleet(tmp_path) as phones, Server(tmp_path / "state", made) as server:
        server.diary.on_finished = lambda outcome: failing.set() if outcome.round == 1 else None
        for phone in phones:
            phone.start(server.url)
        wait_for(lambda: len(server.diary.troubles) > 1, "it tries again")
        assert httpx.get(f"{server.url}/healthz", trust_env=False).status_code == 503
        failing.clear()
        assert_close(server.result(), expected(3))
    assert "database or disk is full; make room in" in server.diary.troubles[0]
    assert server.diary.saves == [1, 2, 3]
    assert server.shown.trouble is None


def truncate(content: bytearray) -> bytearray:
    return content[: len(content) // 2]


def flip_a_weight(content: bytearray) -> bytearray:
    """The exponent of one number: a valid file with another weight."""
    content[-1] ^= 0x40
    return content


def empty(content: bytearray) -> bytearray:
    return bytearray()


@pytest.mark.parametrize("harm", [truncate, flip_a_weight, empty])
def test_the_checkpoint_before_a_damaged_one_is_used(
    tmp_path: Path, harm: Callable[[bytearray], bytearray]
) -> None:
    made, state = bundle(tmp_path / "bundle", settings(9)), tmp_path / "state"
    keeper = Keeper(open_run(state, made, None, None, silent), Roster(), Diary())
    for number in (1, 2, 3):
        keeper.finished(outcome(number))
    for number in (3, 2):
        path = path_of(state / "checkpoints", number)
        path.write_bytes(harm(bytearray(path.read_bytes())))
    run = open_run(state, made, None, None, silent)
    assert run.last.round == 1
    assert [f"round-0000{n}" in problem for n, problem in zip((3, 2), run.problems, strict=True)] == [
        True,
        True,
    ]
    again = Keeper(run, Roster(), Diary())
    again.finished(outcome(2))
    assert [record["round"] for record in read_metrics(run.folder, 9)] == [0, 1, 2]


def test_a_round_is_on_disk_before_anybody_sees_it_and_said_to_be_so_after(tmp_path: Path) -> None:
    made, state = bundle(tmp_path / "bundle", settings(9)), tmp_path / "state"
    heard: list[str] = []

    class Page(Diary):
        def finished(self, outcome: Outcome) -> None:
            heard.append(f"finished, on disk {rounds_in(state)}")
            if outcome.round == 2:
                raise ZeroDivisionError("a page that cannot be drawn")

        def saved(self, round_number: int, seconds: float) -> None:
            heard.append("saved")

    keeper = Keeper(open_run(state, made, None, None, silent), Roster(), Page())
    keeper.finished(outcome(1))
    with pytest.raises(ZeroDivisionError):
        keeper.finished(outcome(2))
    assert heard == ["finished, on disk [0, 1]", "saved", "finished, on disk [0, 1, 2]"]
    assert open_run(state, made, None, None, silent).last.round == 2


def damage(state: Path, round_number: int) -> None:
    path_of(state / "checkpoints", round_number).write_bytes(b"")


def test_a_full_disk_after_a_damaged_checkpoint_leaves_the_one_that_the_run_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, state = bundle(tmp_path / "bundle", settings(9)), tmp_path / "state"
    keeper = Keeper(open_run(state, made, None, None, silent), Roster(), Diary())
    for number in range(1, 8):
        keeper.finished(outcome(number))
    damage(state, 7)
    again = Keeper(open_run(state, made, None, None, silent), Roster(), Diary())
    full(monkeypatch, "round-")
    for number in (7, 8):
        again.finished(outcome(number))
        assert rounds_in(state) == [0, 6]
    run = open_run(state, made, None, None, silent)
    assert (run.last.round, run.problems) == (6, ())


def test_rounds_after_a_damaged_checkpoint_with_a_higher_number_are_kept(tmp_path: Path) -> None:
    made, state = bundle(tmp_path / "bundle", settings(9, keep_checkpoints=1)), tmp_path / "state"
    keeper = Keeper(open_run(state, made, None, None, silent), Roster(), Diary())
    for number in range(1, 6):
        keeper.finished(outcome(number))
    damage(state, 5)
    run = open_run(state, made, None, None, silent)
    assert run.last.round == 0
    again = Keeper(run, Roster(), Diary())
    for number in (1, 2):
        again.finished(outcome(number))
        assert rounds_in(state) == [0, number]
        assert open_run(state, made, None, None, silent).last.round == number
    assert (state / "checkpoints" / f"{path_of(state, 5).name}{checkpoints.DAMAGED}").is_file()


def test_a_damaged_checkpoint_is_said_and_the_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    made, state = bundle(tmp_path / "bundle", settings(3)), tmp_path / "state"
    with fleet(tmp_path) as phones:
        with Server(state, made) as server:
            for phone in phones:
                phone.start(server.url)
            server.result()
        damaged = path_of(state / "checkpoints", 3)
        damaged.write_bytes(flip_a_weight(bytearray(damaged.read_bytes())))
        with Server(state, made, port=server.port) as again:
            assert_close(again.result(), expected(3))
    assert [outcome.round for outcome in again.diary.outcomes] == [3]
    (trouble,) = again.diary.troubles
    assert trouble.startswith("a checkpoint is damaged, the one before is used: ")
    assert str(damaged) in trouble
    assert_close(load_checkpoint(damaged).weights, expected(3))


def test_without_a_whole_checkpoint_nothing_is_begun_anew_over_a_run(tmp_path: Path) -> None:
    made, state = bundle(tmp_path / "bundle", settings(3)), tmp_path / "state"
    open_run(state, made, None, None, silent)
    path_of(state / "checkpoints", 0).write_bytes(b"")
    with pytest.raises(RunFolderError, match=r"no checkpoint .* can be read"):
        open_run(state, made, None, None, silent)


def test_rounds_wait_while_there_is_no_phone_at_all(tmp_path: Path) -> None:
    """Nobody comes at first; all go in round 2, without a word; they come back, and are the nodes that they were."""
    config = settings(3, deadline=1.0)
    made = bundle(tmp_path / "bundle", config)
    with fleet(tmp_path) as phones, Server(tmp_path / "state", made) as server:
        wait_for(lambda: server.shown.stage is Stage.WAITING, "waiting for the first phones")
        for phone in phones:
            phone.stop_at(2)
            phone.start(server.url)
        wait_for(lambda: all(phone.stopped.is_set() for phone in phones), "all at work on round 2")
        nodes = [phone.agent.node for phone in phones if phone.agent]
        for phone in phones:
            phone.vanish()
        wait_for(lambda: server.shown.stage is Stage.WAITING, "waiting again")
        assert server.shown.phones.benched == FEW
        time.sleep(0.6)  # one more look for phones
        assert server.shown.round == 2
        for phone in phones:
            phone.start(server.url)
        assert_close(server.result(), expected(3))
        assert [phone.agent.node for phone in phones if phone.agent] == nodes
    assert [outcome.round for outcome in server.diary.outcomes] == [1, 2, 3]
    assert server.diary.outcomes[1].attempt > 0  # the others may need a second one on a busy machine
    assert server.shown.totals.failures[Kind.SILENT] >= FEW


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_phone_whose_clock_is_ten_minutes_off_takes_part(tmp_path: Path, minutes: int) -> None:
    made = bundle(tmp_path / "bundle", settings(2))
    with fleet(tmp_path) as phones, Server(tmp_path / "state", made) as server:
        phones[1].now = lambda: time.time() + 60 * minutes
        for phone in phones:
            phone.start(server.url)
        assert_close(server.result(), expected(2))
    assert [outcome.phones for outcome in server.diary.outcomes] == [FEW, FEW]
    assert [outcome.attempt for outcome in server.diary.outcomes] == [0, 0]


def test_stopping_in_mid_round_is_quick_and_the_round_is_begun_again(tmp_path: Path) -> None:
    made, state = bundle(tmp_path / "bundle", settings(2)), tmp_path / "state"
    with fleet(tmp_path) as phones, ExitStack() as stack:
        server = stack.enter_context(Server(state, made))
        phones[0].stop_at(2)
        for phone in phones:
            phone.start(server.url)
        assert phones[0].stopped.wait(30)
        server.stop.set()
        server.result(within=15)
        assert rounds_in(state) == [0, 1]
        phones[0].go_on()
        again = stack.enter_context(Server(state, made, port=server.port))
        assert_close(again.result(), expected(2))


def other_network(folder: Path) -> list[Any]:
    open_run(folder / "state", bundle(folder / "bundle", settings(2)), None, None, silent)
    layout = Layout((Slice("backbone.other", (SIZE - 1,), Role.BACKBONE, 0),))
    return [folder / "state", bundle(folder / "other", settings(2), layout), None]


def simulation(folder: Path) -> list[Any]:
    run_folder.create(folder / "run", settings(2))
    return [folder / "run", bundle(folder / "bundle", settings(2)), None]


def other_learning(folder: Path) -> list[Any]:
    made = bundle(folder / "bundle", settings(2))
    learning = settings(2).learning.model_copy(update={"batch": 4, "mode": "mixed"})
    return [folder / "state", made, settings(2).model_copy(update={"learning": learning})]


def no_bundle_any_more(folder: Path) -> list[Any]:
    made = bundle(folder / "bundle", settings(2))
    open_run(folder / "state", made, None, None, silent)
    (folder / "state" / BUNDLE / "train.pte").write_bytes(b"another program")
    return [folder / "state", made, None]


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (other_network, "belongs to a run of another network"),
        (simulation, "is the folder of a simulation"),
        (other_learning, "learning.batch: the bundle was made with 32 .*\n.*learning.mode"),
        (
            no_bundle_any_more,
            r"train.pte is not the file that the manifest describes.*\); put a copy of the release",
        ),
    ],
)
def test_a_state_folder_is_not_mixed_up_with_another(
    tmp_path: Path, make: Callable[[Path], list[Any]], problem: str
) -> None:
    state, made, config = make(tmp_path)
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    with pytest.raises(UserError, match=problem):
        open_run(state, made, config, None, silent)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != BUNDLE) == [
        path for path in before if path.parent.name != BUNDLE
    ]


def test_a_state_folder_stands_alone(tmp_path: Path) -> None:
    """The bundle that the run was begun with need not stay where it was."""
    made, state = bundle(tmp_path / "bundle", settings(2)), tmp_path / "state"
    open_run(state, made, None, None, silent)
    moved = shutil.move(made, tmp_path / "moved")
    run = open_run(state, Path(moved), None, 7, silent)
    assert run.config.rounds == 7
    assert newest(state / "checkpoints") is not None


def test_a_run_that_goes_on_exports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration is only compared by the sizes of its program."""
    exports = []

    def export(*arguments: object) -> bytes:
        exports.append(arguments)
        return b"a program"

    monkeypatch.setattr(program, "task_program", export)
    (tmp_path / "config.toml").write_text("rounds = 3")
    (tmp_path / "other.toml").write_text("[learning]\nbatch = 8")
    begun = open_run(tmp_path / "state", tmp_path / "config.toml", None, None, silent)
    again = open_run(tmp_path / "state", tmp_path / "config.toml", None, None, silent)
    assert (again.bundle.id, len(exports)) == (begun.bundle.id, 1)
    with pytest.raises(RunFolderError, match="another network"):
        open_run(tmp_path / "state", tmp_path / "other.toml", None, None, silent)


def test_mistakes_of_a_deployment_are_all_told_at_once() -> None:
    wrong = {
        "minimum": 0, "over_selection": -1, "deadline": 0, "quorum": 2, "attempts": 0, "patience": float("inf"),
        "late": "perhaps", "modalities": ["smell"], "free_memory_mb": -1, "app_version": "1" * 41,
        "most_examples": 0, "furthest": float("nan"), "keep_checkpoints": 0, "colour": "red",
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        settings(2, **wrong)
    told = caught.value.problems
    assert [
        p for name in wrong if not any(p.startswith(f"deployment.{name}") for p in told) for p in [name]
    ] == []
    assert len(told) == len(wrong)


def test_a_server_with_krum_waits_for_the_phones_that_it_needs(tmp_path: Path) -> None:
    """Three are there, which is the minimum of the configuration; nothing ends before the other two come."""
    config = settings(1).model_copy(update={"aggregator": "krum"})
    made = bundle(tmp_path / "bundle", config)
    with fleet(tmp_path, 5) as phones, Server(tmp_path / "state", made) as server:
        for phone in phones[:3]:
            phone.start(server.url)
        wait_for(lambda: (server.shown.phones.online or 0) == 3, "three are there")
        time.sleep(1.5)  # three looks at who is there
        assert (server.fault, server.shown.stage) == (None, Stage.WAITING)
        for phone in phones[3:]:
            phone.start(server.url)
        server.result()
    assert [outcome.phones for outcome in server.diary.outcomes] == [5]
    config = config.model_copy(update={"aggregation": {"byzantine": 600_000, "memory_mb": 1}})
    with (
        pytest.raises(ConfigError, match=r"aggregation\.memory_mb: .*1200003 of 0\.0 MB"),
        Server(tmp_path / "other", made, config),
    ):
        pass
