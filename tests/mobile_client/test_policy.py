"""When a phone may train: the rules, the files that say them, and the pause between two steps."""

import json
import re
from collections.abc import Callable
from datetime import datetime, time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pocketfed.core.errors import Declined, PolicyError
from pocketfed.core.learning_task import LearningTask
from pocketfed.mobile_client.conditions import Conditions, Thermal, read_conditions
from pocketfed.mobile_client.gate import Gate
from pocketfed.mobile_client.phone import train
from pocketfed.mobile_client.policy import DAY, Hours, Policy, read_policy, refusal
from tests.conftest import REPOSITORY
from tests.mobile_client.test_phone import instruction, phone_with

NOON = datetime(2026, 3, 1, 12, 0)
FINE = Conditions(charging=True, unmetered=True, idle=True, thermal=Thermal.NOMINAL, battery=0.9)
STRICT = Policy(
    charging=True,
    unmetered=True,
    idle=True,
    max_thermal=Thermal.FAIR,
    min_battery=0.3,
    state=Path("state.json"),
)

minutes = st.integers(0, DAY - 1)


def but(**changes: object) -> Conditions:
    return FINE.model_copy(update=changes)


def test_every_rule_satisfied_is_no_refusal() -> None:
    assert refusal(STRICT, FINE, NOON) is None
    assert refusal(Policy(), Conditions(), NOON) is None


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        (but(charging=False), "not charging"),
        (but(charging=None), "the phone does not say whether it is charging"),
        (but(unmetered=False), "on a metered network"),
        (but(idle=False), "in use"),
        (but(thermal=Thermal.SERIOUS), "thermal state is serious, the policy allows up to fair"),
        (but(thermal=None), "the phone does not say how hot it is"),
        (but(battery=0.12), "battery at 12 %, the policy asks for 30 %"),
        (but(battery=0.2999), "battery at 29 %, the policy asks for 30 %"),
        (but(battery=None), "the phone does not say how full its battery is"),
        (but(charging=False, battery=0.0), "not charging; battery at 0 %, the policy asks for 30 %"),
    ],
)
def test_each_rule_refuses_in_words(conditions: Conditions, reason: str) -> None:
    assert refusal(STRICT, conditions, NOON) == reason


@pytest.mark.parametrize("conditions", [but(thermal=Thermal.FAIR), but(battery=0.3)])
def test_limits_are_within(conditions: Conditions) -> None:
    assert refusal(STRICT, conditions, NOON) is None


def test_hours_refuse_in_words() -> None:
    policy = Policy(hours=Hours.parse("22:00-06:00"))
    assert refusal(policy, Conditions(), NOON) == "it is 12:00, the policy allows 22:00-06:00"
    allowed = [hour for hour in range(24) if refusal(policy, Conditions(), NOON.replace(hour=hour)) is None]
    assert allowed == [0, 1, 2, 3, 4, 5, 22, 23]


@given(begin=minutes, length=st.integers(1, DAY - 1), now=minutes)
def test_hours_hold_from_their_begin_for_their_length(begin: int, length: int, now: int) -> None:
    hours = Hours(begin, (begin + length) % DAY)
    assert hours.contain(datetime.combine(NOON, time(now // 60, now % 60))) == ((now - begin) % DAY < length)
    assert Hours.parse(str(hours)) == hours


def test_midnight_may_be_written_as_24() -> None:
    assert Hours.parse("18:00-24:00").contain(NOON.replace(hour=23, minute=59))
    assert not Hours.parse("18:00-24:00").contain(NOON.replace(hour=0))
    assert all(Hours.parse("00:00-24:00").contain(NOON.replace(hour=hour)) for hour in range(24))


@given(st.text(max_size=12))
def test_hours_are_read_or_refused(text: str) -> None:
    try:
        hours = Hours.parse(text)
    except ValueError:
        return
    assert str(hours) == text


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_policy_file_is_read_and_its_state_lies_beside_it(tmp_path: Path) -> None:
    text = 'charging = true\nmax_thermal = "fair"\nmin_battery = 0\nhours = "22:00-06:00"\nstate = "state.json"\n'
    policy = read_policy(write(tmp_path / "policy.toml", text))
    assert policy == Policy(
        charging=True,
        max_thermal=Thermal.FAIR,
        min_battery=0.0,
        hours=Hours(22 * 60, 6 * 60),
        state=tmp_path / "state.json",
    )


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    text = 'charging = "yes"\nidel = true\nmax_thermal = "hot"\nmin_battery = 30\nhours = "22-6"\nunmetered = true\n'
    with pytest.raises(PolicyError) as caught:
        read_policy(write(tmp_path / "policy.toml", text))
    lines = str(caught.value).splitlines()
    for start in ("charging = 'yes': ", "idel: no such rule; there are: charging,", "max_thermal = 'hot': "):
        assert any(line.startswith(f"{tmp_path / 'policy.toml'}: {start}") for line in lines), start
    assert any("min_battery = 30: " in line for line in lines)
    assert any(line.endswith("hours = '22-6': must be like \"22:00-06:00\"") for line in lines)
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("charging = true", "state: missing; name the file"),
        ("charging = ", "is no valid TOML"),
        ('hours = "06:00-06:00"', "begins when it ends"),
        ("hours = 6", "must be like"),
        ("min_battery = nan\nstate = 's'", "min_battery = nan"),
    ],
)
def test_a_wrong_policy_says_so(tmp_path: Path, text: str, found: str) -> None:
    with pytest.raises(PolicyError, match=found):
        Gate(write(tmp_path / "policy.toml", text))


def test_a_missing_policy_says_so(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="does not exist; write it, or train without one"):
        Gate(tmp_path / "policy.toml")
    assert Gate(None).refusal() is None
    Gate(None).pause(until=0.0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=200), st.recursive(st.none() | st.floats() | st.text(), st.lists).map(
    lambda value: json.dumps({"charging": value, "battery": value, "thermal": value}).encode()
)))  # fmt: skip
def test_no_state_file_is_more_than_a_refusal(tmp_path: Path, content: bytes) -> None:
    policy = write(tmp_path / "policy.toml", 'charging = true\nmin_battery = 0.3\nstate = "state.json"')
    (tmp_path / "state.json").write_bytes(content)
    assert Gate(policy).refusal()


@pytest.mark.parametrize(
    "content", [b"[" * 60_000, b" " * 100_000, b'{"battery": ' + b"9" * 10_000, b"\xff\xfe{"]
)
def test_hostile_state_files_are_refusals(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(PolicyError):
        read_conditions(tmp_path / "state.json")


def test_a_missing_or_half_written_state_is_a_refusal_with_that_reason(tmp_path: Path) -> None:
    gate = Gate(write(tmp_path / "policy.toml", 'idle = true\nstate = "state.json"'))
    assert str(gate.refusal()).endswith("state.json does not exist")
    whole = '{"idle": true, "app": "ours"}'
    for cut in range(len(whole)):
        write(tmp_path / "state.json", whole[:cut])
        assert "wrong or half-written" in str(gate.refusal())
    write(tmp_path / "state.json", whole)
    assert gate.refusal() is None
    (tmp_path / "state.json").unlink()
    (tmp_path / "state.json").mkdir()
    assert str(gate.refusal()).endswith("state.json does not exist")


def test_the_policy_may_change_while_it_holds(tmp_path: Path) -> None:
    policy = write(tmp_path / "policy.toml", "")
    gate = Gate(policy)
    assert gate.refusal() is None
    write(policy, "charging = tr")
    assert "no valid TOML" in str(gate.refusal())
    write(policy, 'charging = true\nfoo = 1\nbar = 2\nstate = "state.json"')
    assert "\n" not in str(gate.refusal())
    write(policy, 'charging = true\nstate = "state.json"')
    write(tmp_path / "state.json", '{"charging": false}')
    assert gate.refusal() == "not charging"
    policy.unlink()
    assert "does not exist" in str(gate.refusal())


def test_a_state_that_no_rule_needs_is_not_looked_at(tmp_path: Path) -> None:
    assert Gate(write(tmp_path / "policy.toml", 'charging = false\nstate = "nowhere.json"')).refusal() is None


def test_whether_it_charges_is_a_no_where_a_file_does_not_say(tmp_path: Path) -> None:
    """The server's question must not fail: it would not choose this phone, which may train by the hour."""
    assert not Gate(None).charging()
    assert not Gate(write(tmp_path / "bare.toml", 'hours = "00:00-12:00"')).charging()
    policy = write(tmp_path / "policy.toml", 'hours = "00:00-12:00"\nstate = "state.json"')
    gate = Gate(policy)
    assert not gate.charging()  # no such file
    for text, expected in (('{"charging": true}', True), ('{"charging": tr', False), ("{}", False)):
        write(tmp_path / "state.json", text)
        assert gate.charging() is expected
    write(policy, "hours = ")
    assert not gate.charging()


def test_the_gate_goes_by_local_time(tmp_path: Path) -> None:
    now = NOON.timestamp()
    policy = write(tmp_path / "policy.toml", 'hours = "12:00-12:01"')
    assert Gate(policy, clock=lambda: now).refusal() is None
    assert Gate(policy, clock=lambda: now + 60).refusal() == "it is 12:01, the policy allows 12:00-12:01"


class FakeTime:
    """A clock that only sleeping moves; something may happen at each second."""

    def __init__(self, happens: Callable[[float], None] = lambda _: None) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self._happens = happens

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self._happens(self.now)


def charging_gate(folder: Path, fake: FakeTime) -> Gate:
    policy = write(folder / "policy.toml", 'charging = true\nstate = "state.json"')
    return Gate(policy, clock=lambda: fake.now, sleep=fake.sleep)


def test_a_pause_ends_when_training_is_allowed_again(tmp_path: Path) -> None:
    fake = FakeTime(lambda now: None if now < 5 else charge(tmp_path, True))
    gate = charging_gate(tmp_path, fake)
    charge(tmp_path, False)
    gate.pause(until=60.0)
    assert fake.slept == [1.0] * 5
    gate.pause(until=0.0)
    assert len(fake.slept) == 5


def test_a_pause_that_is_too_long_is_a_refusal(tmp_path: Path) -> None:
    fake = FakeTime()
    gate = charging_gate(tmp_path, fake)
    charge(tmp_path, False)
    with pytest.raises(Declined, match=r"^not charging$"):
        gate.pause(until=2.5)
    assert fake.slept == [1.0, 1.0, 0.5]


def charge(folder: Path, charging: bool) -> None:
    write(folder / "state.json", json.dumps({"charging": charging}))


def test_a_round_that_paused_gives_the_same_update(small_task: LearningTask, tmp_path: Path) -> None:
    """The charger is pulled after the second step of four, and put back a while later."""
    whole = train(phone_with(small_task, 12, 12), instruction(small_task))
    fake = FakeTime(lambda now: charge(tmp_path, now >= 7))
    gate = charging_gate(tmp_path, fake)
    charge(tmp_path, True)
    steps = []

    def between() -> None:
        steps.append(fake.now)
        if len(steps) == 3:
            charge(tmp_path, False)
        gate.pause(until=60.0)

    paused = train(phone_with(small_task, 12, 12), instruction(small_task), between)
    assert steps == [0.0, 0.0, 0.0, 7.0]
    assert len(fake.slept) == 7
    assert np.array_equal(paused.weights, whole.weights)
    assert paused.loss == whole.loss


def test_a_round_that_may_not_go_on_is_given_up_with_the_reason(
    small_task: LearningTask, tmp_path: Path
) -> None:
    fake = FakeTime()
    gate = charging_gate(tmp_path, fake)
    charge(tmp_path, True)
    steps = 0

    def between() -> None:
        nonlocal steps
        steps += 1
        charge(tmp_path, steps < 3)
        gate.pause(until=10.0)

    with pytest.raises(Declined, match="not charging"):
        train(phone_with(small_task, 12, 12), instruction(small_task), between)
    assert (steps, fake.now) == (3, 10.0)


def test_the_examples_in_the_docs_are_read(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "captures-and-policy.md").read_text()
    policies = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    states = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    assert policies
    assert states
    for text in policies:
        policy = read_policy(write(tmp_path / "policy.toml", text))
        for state in states:
            conditions = read_conditions(write(tmp_path / "state.json", state))
            assert refusal(policy, conditions, NOON.replace(hour=23)) is None
