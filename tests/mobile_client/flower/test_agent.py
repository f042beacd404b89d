"""The agent at a real SuperLink: a round, and every way in which either side may be gone for a while."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from errno import ENOSPC
from pathlib import Path
from typing import Any

import httpx
import pytest

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import CallRefused, Declined, ProgramError, ServerError, Unreachable
from pocketfed.core.wire import DECLINED, FAILED
from pocketfed.mobile_client.flower.agent import MAX_REFUSALS, MAX_TRIES, Pace
from pocketfed.mobile_client.flower.journal import Entry, Journal, State
from pocketfed.mobile_client.flower.task import Task
from tests.mobile_client.flower.conftest import WEIGHTS, Crash, Start, echo
from tests.mobile_client.flower.superlink import SuperLink

ITEMS: dict[str, Any] = {"round": 3, "learning-rate": 0.25, "layout": "ab", "weights": WEIGHTS}


def content(server: SuperLink, question: str) -> dict[str, Any]:
    answer = server.answer(question)
    assert answer is not None
    return dict(answer.content["update"])


def test_a_round_takes_eight_calls_and_a_question_without_records_six(
    superlink: SuperLink, start: Start
) -> None:
    phone = start(superlink.url)
    assert not phone.agent.step()
    assert phone.agent.node is not None
    question = superlink.ask(phone.agent.node, ITEMS)
    phone.wire.calls.clear()
    assert phone.agent.step()
    assert phone.wire.calls == [
        "pull-messages", "pull-object", "pull-object", "confirm-message-received", "push-messages",
        "push-object", "push-object", "push-object",
    ]  # fmt: skip
    assert content(superlink, question) == ITEMS
    assert superlink.state.object_store.get(question) is None  # the server may forget what is confirmed

    phone.wire.calls.clear()
    question = superlink.ask(phone.agent.node, kind="query")
    assert phone.agent.step()
    assert len(phone.wire.calls) == 6
    assert content(superlink, question) == {}
    assert phone.agent.answered == 1  # queries do not count


def test_declining_and_failing_are_answers(superlink: SuperLink, start: Start) -> None:
    errors: list[Exception] = [Declined("the battery is low"), ProgramError("out of range"), KeyError("x")]

    def refuse(task: Task) -> Any:
        raise errors.pop(0)

    phone = start(superlink.url, refuse)
    phone.agent.step()
    expected = [(DECLINED, "the battery is low"), (FAILED, "out of range"), (FAILED, "KeyError: 'x'")]
    for code, reason in expected:
        question = superlink.ask(phone.agent.node or 0, ITEMS)
        phone.wire.calls.clear()
        assert phone.agent.step()
        assert len(phone.wire.calls) == 6
        answer = superlink.answer(question)
        assert answer is not None
        assert (answer.error.code, answer.error.reason) == (code, reason)


def test_what_is_refused_beforehand_is_declined_in_four_calls_and_nothing_is_fetched(
    superlink: SuperLink, start: Start
) -> None:
    phone = start(superlink.url, refusal=lambda kind: "on a metered network" if kind == "train" else None)
    phone.agent.step()
    question = superlink.ask(phone.agent.node or 0, ITEMS)
    phone.wire.calls.clear()
    assert phone.agent.step()
    assert phone.wire.calls == [
        "pull-messages", "confirm-message-received", "push-messages", "push-object",
    ]  # fmt: skip
    answer = superlink.answer(question)
    assert answer is not None
    assert (answer.error.code, answer.error.reason) == (DECLINED, "on a metered network")
    assert superlink.state.object_store.get(question) is None
    assert phone.agent.answered == 1

    question = superlink.ask(phone.agent.node or 0, kind="query")
    assert phone.agent.step()
    assert content(superlink, question) == {}


def crash_at(call: str, count: int, moment: str) -> Callable[[Any], None]:
    """Lets a wire crash before or after the call of this name and number."""

    def arm(wire: Any) -> None:
        seen = 0

        def tap(name: str) -> None:
            nonlocal seen
            seen += name == call
            if name == call and seen == count:
                raise Crash

        setattr(wire, moment, tap)

    return arm


CRASHES = [
    ("pull-object", 1, "before"),
    ("pull-object", 2, "after"),
    ("confirm-message-received", 1, "before"),
    ("confirm-message-received", 1, "after"),
    ("push-messages", 1, "before"),
    ("push-messages", 1, "after"),
    ("push-object", 1, "before"),
    ("push-object", 1, "after"),
    ("push-object", 3, "before"),
    ("push-object", 3, "after"),
]


@pytest.mark.parametrize(("call", "count", "moment"), CRASHES)
def test_a_crash_at_any_call_loses_nothing(
    call: str,
    count: int,
    moment: str,
    superlink: SuperLink,
    start: Start,
    caplog: pytest.LogCaptureFixture,
) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    node = phone.agent.node
    assert node is not None
    question = superlink.ask(node, ITEMS)
    crash_at(call, count, moment)(phone.wire)
    with pytest.raises(Crash):
        phone.agent.step()
    caplog.set_level(logging.INFO)
    again = start(superlink.url)
    assert again.agent.step()
    assert again.agent.node == node  # resumed although the server takes it for online
    certain = (call, count, moment) != CRASHES[-1]
    assert again.agent.answered == certain
    assert content(superlink, question) == ITEMS
    assert "did not want" not in caplog.text
    assert ("it has it all, or has given it up" in caplog.text) == (not certain)
    assert not again.agent.step()


@pytest.mark.parametrize(("call", "count", "moment"), CRASHES[-4:])
def test_a_crash_in_mid_upload_is_resumed_at_a_server_with_a_database(
    call: str, count: int, moment: str, launch: Callable[..., SuperLink], start: Start, tmp_path: Path
) -> None:
    server = launch(database=tmp_path / "state.db")
    phone = start(server.url)
    phone.agent.step()
    question = server.ask(phone.agent.node or 0, ITEMS)
    crash_at(call, count, moment)(phone.wire)
    with pytest.raises(Crash):
        phone.agent.step()
    again = start(server.url)
    assert again.agent.step()
    assert again.agent.answered == ((call, count, moment) != CRASHES[-1])
    assert content(server, question) == ITEMS


def test_half_an_answer_that_the_server_has_given_up_is_not_taken_for_delivered(
    superlink: SuperLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    superlink.ask(phone.agent.node or 0, ITEMS)
    crash_at("push-object", 1, "after")(phone.wire)
    with pytest.raises(Crash):
        phone.agent.step()
    again = start(superlink.url)
    again.wire.respond = lambda name: (
        httpx.Response(200, stream=httpx.ByteStream(b"")) if name == "push-messages" else None
    )
    assert again.agent.step()
    assert again.agent.answered == 0
    assert "answered train" not in caplog.text
    assert "it has it all, or has given it up" in caplog.text
    assert not again.agent.step()


def test_an_upload_that_took_too_long_begins_again(superlink: SuperLink, start: Start) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    question = superlink.ask(phone.agent.node or 0, ITEMS)

    def expire(name: str) -> None:
        if phone.wire.calls.count("push-object") == 1:
            for session in superlink.state._object_push_sessions.values():
                session.expires_at -= timedelta(hours=1)

    phone.wire.after = expire
    assert phone.agent.step()
    assert phone.wire.calls.count("push-messages") == 2
    assert phone.agent.answered == 1
    assert content(superlink, question) == ITEMS


def test_a_crash_while_working_is_resumed_and_the_crash_that_comes_again_is_given_up(
    superlink: SuperLink, start: Start
) -> None:
    def crash(task: Task) -> Any:
        raise Crash

    phone = start(superlink.url)
    phone.agent.step()
    question = superlink.ask(phone.agent.node or 0, ITEMS)
    for _ in range(MAX_TRIES):
        phone = start(superlink.url, crash)
        with pytest.raises(Crash):
            phone.agent.step()
    assert start(superlink.url, crash).agent.step()
    answer = superlink.answer(question)
    assert answer is not None
    assert "the phone's process ended 3 times" in (answer.error.reason or "")


def test_ending_a_phone_on_purpose_is_not_held_against_the_work(superlink: SuperLink, start: Start) -> None:
    def interrupt(task: Task) -> Any:
        raise KeyboardInterrupt

    phone = start(superlink.url)
    phone.agent.step()
    question = superlink.ask(phone.agent.node or 0, ITEMS)
    for _ in range(MAX_TRIES + 1):
        with pytest.raises(KeyboardInterrupt):
            start(superlink.url, interrupt).agent.step()
    assert start(superlink.url).agent.step()
    assert content(superlink, question) == ITEMS


def test_an_answer_that_is_not_wanted_is_recognised(
    superlink: SuperLink, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer_first(task: Task) -> Any:
        """While this phone works, another process with its key answers."""
        saved = Journal(tmp_path / "home" / "journal").load()
        assert saved is not None
        Journal(tmp_path / "other" / "journal").save(saved)
        assert other.agent.step()
        return {"update": {"second": 1}}

    phone = start(superlink.url, answer_first)
    phone.agent.step()
    (tmp_path / "other").mkdir()
    for name in ("key", "node.json"):
        (tmp_path / "other" / name).write_bytes((tmp_path / "home" / name).read_bytes())
    (tmp_path / "other" / "key").chmod(0o600)
    other = start(superlink.url, home="other")
    question = superlink.ask(phone.agent.node or 0, ITEMS)
    assert phone.agent.step()
    assert "the server did not want the answer to train" in caplog.text
    assert (phone.agent.answered, other.agent.answered) == (0, 1)
    assert content(superlink, question) == ITEMS
    assert not phone.agent.step()


def test_expired_questions_are_dropped(
    superlink: SuperLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    superlink.ask(phone.agent.node or 0, ITEMS, ttl=0.3)
    crash_at("pull-object", 1, "before")(phone.wire)
    with pytest.raises(Crash):
        phone.agent.step()
    time.sleep(0.4)
    again = start(superlink.url)
    again.agent.step()
    assert "dropping a message: it has expired" in caplog.text
    assert "pull-object" not in again.wire.calls


def test_work_that_takes_too_long_is_not_pushed(
    superlink: SuperLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(task: Task) -> Any:
        time.sleep(max(0.0, task.until - time.time()) + 0.5)  # beyond the margin
        return echo(task)

    phone = start(superlink.url, slow)
    phone.agent.step()
    superlink.ask(phone.agent.node or 0, ITEMS, ttl=2.0)
    assert phone.agent.step()
    assert "dropping a message: it has expired" in caplog.text
    assert "push-messages" not in phone.wire.calls


def test_a_lost_server_is_joined_anew_and_its_work_is_dropped(
    launch: Callable[..., SuperLink], start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    first = launch()
    phone = start(first.url)
    phone.agent.step()
    node = phone.agent.node
    first.ask(node or 0, ITEMS)
    crash_at("confirm-message-received", 1, "before")(phone.wire)
    with pytest.raises(Crash):
        phone.agent.step()
    first.stop()
    with pytest.raises(Unreachable, match="cannot be reached"):
        start(first.url).agent.step()

    second = launch(port=first.port)
    phone.wire.before = lambda name: None
    with pytest.raises(CallRefused):  # the running phone finds that nobody knows it
        phone.agent.step()
    phone.agent.step()
    assert phone.agent.node not in (None, node)
    assert "dropping a message: it was for a node that this phone is no more" in caplog.text
    question = second.ask(phone.agent.node or 0, ITEMS)
    assert phone.agent.step()
    assert content(second, question) == ITEMS


def test_a_server_with_a_database_is_ridden_through(
    launch: Callable[..., SuperLink], start: Start, tmp_path: Path
) -> None:
    first = launch(database=tmp_path / "state.db")
    phone = start(first.url)
    phone.agent.step()
    node = phone.agent.node
    first.stop()
    with pytest.raises(Unreachable):
        phone.agent.step()
    second = launch(port=first.port, database=tmp_path / "state.db")
    assert not phone.agent.step()
    assert phone.agent.node == node
    question = second.ask(node or 0, ITEMS)
    assert phone.agent.step()
    assert content(second, question) == ITEMS


def test_a_damaged_journal_costs_its_work_only(
    superlink: SuperLink, start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    journal = tmp_path / "home" / "journal"
    (journal / "built").write_bytes(b"\x00nonsense")
    assert not start(superlink.url).agent.step()
    assert "is damaged" in caplog.text
    assert (journal / "damaged").read_bytes() == b"\x00nonsense"

    Journal(journal).save(Entry(State.RECEIVED, b"\xff\xff", (b"",)))
    start(superlink.url).agent.step()
    assert "it is set aside" in caplog.text
    Journal(journal).save(Entry(State.ACCEPTED, b"", ()))
    assert start(superlink.url).agent.step()
    assert "an answer cannot be read" in caplog.text
    assert Journal(journal).load() is None


def test_a_full_disk_is_waited_for_and_nothing_that_came_is_lost(
    superlink: SuperLink, start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each file of the home is refused twice each time: the node's id, the journal's states, the count of tries."""
    refused = Counter[str]()

    def write(path: Path, content: bytes) -> None:
        refused[path.name] += 1
        if refused[path.name] % 3:
            raise OSError(ENOSPC, os.strerror(ENOSPC))
        write_atomically(path, content)

    for module in ("journal", "membership"):
        monkeypatch.setattr(f"pocketfed.mobile_client.flower.{module}.write_atomically", write)
    phone, questions = start(superlink.url), list[str]()

    def sleep(seconds: float) -> None:
        phone.slept.append(seconds)
        assert len(phone.slept) < 20
        if phone.agent.node is not None and not questions:
            questions.append(superlink.ask(phone.agent.node, ITEMS))

    phone.agent._sleep = sleep
    phone.agent.run(answers=1)
    assert content(superlink, questions[0]) == ITEMS
    assert phone.wire.calls.count("push-messages") == 1
    assert phone.wire.calls.count("pull-object") == 2
    assert [refused[name] for name in ("pulled", "received", "tries", "built")] == [3, 3, 3, 3]
    assert refused["node.json"] % 3 == 0
    assert caplog.text.count("journal cannot be written (No space left on device); make room there") == 1


def test_a_phone_on_a_full_disk_can_still_be_ended(
    superlink: SuperLink, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(task: Task) -> Any:
        def full(path: Path, content: bytes) -> None:
            raise OSError(ENOSPC, os.strerror(ENOSPC))

        monkeypatch.setattr("pocketfed.mobile_client.flower.journal.write_atomically", full)
        raise KeyboardInterrupt

    phone = start(superlink.url, interrupt)
    phone.agent.step()
    superlink.ask(phone.agent.node or 0, ITEMS)
    with pytest.raises(KeyboardInterrupt):
        phone.agent.run()


def test_run_answers_and_ends_waiting_longer_while_idle(superlink: SuperLink, start: Start) -> None:
    phone = start(superlink.url)
    phone.agent.step()

    def sleep(seconds: float) -> None:
        phone.slept.append(seconds)
        if len(phone.slept) == 12:
            superlink.ask(phone.agent.node or 0, ITEMS)

    phone.agent._sleep = sleep
    phone.agent.run(answers=1)
    assert phone.agent.answered == 1
    assert len(phone.slept) == 12
    assert phone.slept[0] < 0.61
    assert 23 < phone.slept[-1] < 37


def test_trouble_is_told_once_and_its_end_too(
    launch: Callable[..., SuperLink], start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = launch()
    phone = start(first.url)
    phone.agent.step()
    first.stop()
    waits = 0

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 4:
            launch(port=first.port)
        if waits == 8:
            raise Crash

    phone.agent._sleep = sleep
    with pytest.raises(Crash):
        phone.agent.run()
    assert caplog.text.count("cannot be reached") == 1
    assert caplog.text.count("this is over: ") == 1


@pytest.mark.parametrize("again", [False, True])
def test_a_finished_answer_outlives_a_proxy_without_its_server(
    again: bool, superlink: SuperLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    """In the same process, and in one that begins meanwhile on the home of a phone that has a node there."""
    phone = start(superlink.url)
    phone.agent.step()
    question = superlink.ask(phone.agent.node or 0, ITEMS)
    if again:
        crash_at("push-messages", 1, "before")(phone.wire)
        with pytest.raises(Crash):
            phone.agent.step()
        phone = start(superlink.url)
    blocked = "activate-node" if again else "push-messages"

    def proxy(name: str) -> httpx.Response | None:
        gone = name == blocked and len(phone.slept) < 6
        return httpx.Response(404, stream=httpx.ByteStream(b"")) if gone else None

    phone.wire.respond = proxy
    phone.agent.run(answers=1)
    assert content(superlink, question) == ITEMS
    assert caplog.text.count(f"it has no call {blocked} (HTTP 404); trying again") == 1
    waits = phone.slept[-6:]
    assert waits[0] < 0.61 < waits[-1]


def test_another_server_than_that_of_the_home_is_told_that_it_will_not_do(
    superlink: SuperLink, start: Start, tmp_path: Path
) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    other = start(superlink.url.replace("127.0.0.1", "localhost"))
    other.wire.respond = lambda name: httpx.Response(404, stream=httpx.ByteStream(b""))
    with pytest.raises(ServerError, match="is no Flower server"):
        other.agent.run()


def test_the_pace_grows_from_half_a_second_to_half_a_minute() -> None:
    pace = Pace()
    waits = [pace.wait(i) for i in range(400)]
    assert 0.4 <= waits[0] <= 0.6
    assert all(24 <= wait <= 36 for wait in waits[20:])


def test_a_server_that_fails_over_an_answer_is_given_some_chances(
    superlink: SuperLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    superlink.ask(phone.agent.node or 0, ITEMS)
    phone.wire.respond = lambda name: (
        httpx.Response(500, stream=httpx.ByteStream(b"")) if name == "push-messages" else None
    )
    for _ in range(MAX_REFUSALS - 1):
        with pytest.raises(CallRefused):
            phone.agent.step()
        assert "dropping" not in caplog.text
    with pytest.raises(CallRefused):
        phone.agent.step()
    assert "dropping a message: the server refused push-messages" in caplog.text


def test_refusals_of_idle_polls_are_not_held_against_the_next_message(
    superlink: SuperLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    failing = "pull-messages"

    def fail(name: str) -> httpx.Response | None:
        return httpx.Response(500, stream=httpx.ByteStream(b"")) if name == failing else None

    phone = start(superlink.url)
    phone.agent.step()
    phone.wire.respond = fail
    for call, times in (
        ("pull-messages", MAX_REFUSALS),
        ("push-messages", MAX_REFUSALS),
        ("push-messages", 1),
    ):
        failing = call
        question = superlink.ask(phone.agent.node or 0, ITEMS) if call == "push-messages" else ""
        for _ in range(times):
            assert "dropping" not in caplog.text
            with pytest.raises(CallRefused):
                phone.agent.step()
        if times > 1 and call == "push-messages":
            assert "dropping" in caplog.text
            caplog.clear()
    assert "dropping" not in caplog.text
    failing = ""
    assert phone.agent.step()
    assert content(superlink, question) == ITEMS


@pytest.mark.parametrize("call", ["activate-node", "pull-messages"])
def test_an_answer_that_is_too_large_is_waited_out_and_told_once(
    call: str, superlink: SuperLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    phone = start(superlink.url)
    phone.caller._max_answer = 10_000

    def large(name: str) -> httpx.Response | None:
        too_large = name == call and len(phone.slept) < 6
        return httpx.Response(200, stream=httpx.ByteStream(bytes(20_000))) if too_large else None

    def sleep(seconds: float) -> None:
        phone.slept.append(seconds)
        if len(phone.slept) == 8:
            raise Crash

    phone.wire.respond, phone.agent._sleep = large, sleep
    with pytest.raises(Crash):
        phone.agent.run()
    assert phone.wire.calls.count(call) == 6 + 2
    assert phone.slept[5] > 2.5
    assert caplog.text.count(f"{call} is answered with more than 10000 bytes; trying again") == 1


def test_a_run_that_is_over_costs_its_message_only(
    superlink: SuperLink, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    phone = start(superlink.url)
    phone.agent.step()
    superlink.ask(phone.agent.node or 0, ITEMS)
    crash_at("push-messages", 1, "before")(phone.wire)
    with pytest.raises(Crash):
        phone.agent.step()
    superlink.state.finish_task(superlink.task, "completed", "")
    again = start(superlink.url)
    with pytest.raises(CallRefused, match="code 2007"):
        again.agent.step()
    assert "dropping a message" in caplog.text
    assert not again.agent.step()
