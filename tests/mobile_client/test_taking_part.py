"""A phone's rounds when only a part travels, in few bytes, or blended: against plain formulas in float64."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.blend import Blend, BlendRule
from pocketfed.core.errors import ProgramError
from pocketfed.core.formats import Format, Packed, decode, encode
from pocketfed.core.hyper import Hyper
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.modality import Modality
from pocketfed.core.plan import Instruction, Plan, Update
from pocketfed.core.program_spec import Input, ProgramSpec
from pocketfed.mobile_client.phone import Phone
from pocketfed.mobile_client.phone_memory import PhoneMemory
from pocketfed.mobile_client.runtime import Array
from pocketfed.mobile_client.taking_part import Own, take_part

LAYOUT = Layout(
    (
        Slice("backbone.kernel", (2, 3), Role.BACKBONE, 0),
        Slice("backbone.bias", (2,), Role.BACKBONE, 6),
        Slice("backbone.other", (2, 2), Role.BACKBONE, 8),
        Slice("projector.w", (2, 2), Role.PROJECTOR, 12),
        Slice("buffer.mean", (3,), Role.BUFFER, 16),
    )
)
SPEC = ProgramSpec(LAYOUT.size, 0, 4, {Modality.PHOTO: Input((2,), "uint8", 1)}, False, LAYOUT.digest)
INITIAL = np.linspace(-1, 1, LAYOUT.size, dtype=np.float32)
BACKBONE, TRAINED = slice(0, 12), slice(0, 16)
PROJECTOR = slice(12, 16)


def learnt(theta: NDArray[Any], number: int) -> NDArray[Any]:
    """What a phone's one step makes of weights: its own, and another thing for each weight."""
    return theta * (1 + 0.05 * (number + 1)) + 0.1 * np.cos(np.arange(len(theta)) + number)


class Learner:
    """A runtime whose step is `learnt`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun: list[NDArray[np.float32]] = []

    def run(self, method: str, inputs: Sequence[Array]) -> tuple[Array, ...]:
        theta, state = inputs[:2]
        self.begun.append(theta.copy())
        return np.float32(0.5), learnt(theta, self.number).astype(np.float32), state  # type: ignore[return-value]


class Someone:
    """One phone, with a home."""

    def __init__(self, home: Path, number: int = 0) -> None:
        self.runtime = Learner(number)
        captures = {Modality.PHOTO: np.zeros((4, 2), np.uint8)}
        self.phone = Phone(number, captures, SPEC, self.runtime)
        self.own = Own(LAYOUT, lambda: INITIAL, PhoneMemory(home))

    def answer(self, instruction: Instruction) -> Update:
        return take_part(self.phone, self.own, instruction)

    @property
    def begun(self) -> NDArray[np.float32]:
        """What its last training began with."""
        return self.runtime.begun[-1]


def asked(
    weights: NDArray[np.float32],
    number: int,
    roles: tuple[Role, ...] = tuple(Role),
    wanted: Format = Format.FLOAT32,
    blend: Blend | None = None,
    down: Format = Format.FLOAT32,
    run: str = "one",
) -> Instruction:
    """An instruction with the part of whole `weights` that has these roles."""
    plan = Plan(number, 5, {Modality.PHOTO: 1}, False, Hyper(), blend or Blend(), run)
    part, layout = LAYOUT.gather(weights, roles), LAYOUT.part(roles)
    packed = None if down is Format.FLOAT32 else Packed(down, encode(part, layout, down))
    return Instruction(plan, part, layout.digest, roles, wanted, packed)


def changed(update: Update, layout: Layout = LAYOUT) -> NDArray[np.float32]:
    """The change that came packed."""
    assert update.packed is not None
    assert update.weights.size == 0
    return decode(update.packed, layout)


@pytest.fixture
def someone(tmp_path: Path) -> Callable[..., Someone]:
    """A phone by number; the same number is the same phone after a restart."""
    return lambda number=0: Someone(tmp_path / str(number), number)


GLOBAL = [(INITIAL + np.float32(r)) for r in range(9)]
"""What a server sends in each round."""


class TestPart:
    """Only the backbone, and running statistics, travel."""

    roles = (Role.BACKBONE, Role.BUFFER)

    def test_a_phone_keeps_its_own_head_through_rounds_restarts_and_rounds_without_it(
        self, someone: Callable[..., Someone]
    ) -> None:
        expected = INITIAL[PROJECTOR].astype(np.float64)
        for number in (1, 2, 6):  # not asked in between
            phone = someone()  # a new process each time
            update = phone.answer(asked(GLOBAL[number], number, self.roles))
            assert np.array_equal(phone.begun[BACKBONE], GLOBAL[number][BACKBONE])
            assert np.array_equal(phone.begun[16:], GLOBAL[number][16:])
            assert np.allclose(phone.begun[PROJECTOR], expected, atol=1e-6)
            whole = learnt(phone.begun.astype(np.float64), 0)
            expected = whole[PROJECTOR]
            assert np.allclose(update.weights, np.delete(whole, range(12, 16)), atol=1e-6)
            assert update.layout == LAYOUT.part(self.roles).digest

    def test_heads_differ_while_backbones_agree(self, someone: Callable[..., Someone]) -> None:
        phones = [someone(number) for number in range(3)]
        for number in (1, 2):
            for phone in phones:
                phone.answer(asked(GLOBAL[number], number, self.roles))
        begun = [phone.begun for phone in phones]
        for other in begun[1:]:
            assert np.array_equal(begun[0][BACKBONE], other[BACKBONE])
            assert np.abs(begun[0][PROJECTOR] - other[PROJECTOR]).min() > 1e-3

    def test_a_round_that_the_server_repeats_has_the_same_answer(
        self, someone: Callable[..., Someone]
    ) -> None:
        first = [someone().answer(asked(GLOBAL[n], n, self.roles, Format.INT8)) for n in (1, 2, 3)]
        again = [someone().answer(asked(GLOBAL[3], 3, self.roles, Format.INT8)) for _ in range(2)]
        assert first[2] == again[0] == again[1]
        assert first[2].packed != first[1].packed

    @pytest.mark.parametrize("kept", [(4, 5), (5, 8), (6,)])
    def test_a_server_that_goes_back_does_not_take_a_phones_head_with_it(
        self, someone: Callable[..., Someone], kept: tuple[int, ...], caplog: pytest.LogCaptureFixture
    ) -> None:
        """To round 4, of which nothing from before is remembered; whoever repeats that gets the same."""
        heads = []
        for number in kept:
            (phone := someone()).answer(asked(GLOBAL[number], number, self.roles, Format.INT8))
            heads.append(learnt(phone.begun, 0)[PROJECTOR])
        back = asked(GLOBAL[4], 4, self.roles, Format.INT8)
        first = (phone := someone()).answer(back)
        assert np.allclose(phone.begun[PROJECTOR], heads[0], atol=1e-6)
        said = f"went back to round 4, before which nothing is remembered; stayed is as it was after round {kept[0]}"
        assert said in caplog.text
        assert someone().answer(back) == first
        change = (learnt(phone.begun, 0) - GLOBAL[4])[
            BACKBONE
        ]  # nothing of what was left out of later changes
        assert (
            np.abs(changed(first, LAYOUT.part(self.roles))[BACKBONE] - change).max()
            <= np.abs(change).max() / 127
        )
        (phone := someone()).answer(asked(GLOBAL[5], 5, self.roles, Format.INT8))
        whole = np.zeros(LAYOUT.size)
        whole[PROJECTOR] = heads[0]
        assert np.allclose(phone.begun[PROJECTOR], learnt(whole, 0)[PROJECTOR], atol=1e-6)

    def test_a_first_round_that_is_repeated_begins_with_the_bundles_head(
        self, someone: Callable[..., Someone]
    ) -> None:
        for _ in range(2):
            (phone := someone()).answer(asked(GLOBAL[4], 4, self.roles))
            assert np.array_equal(phone.begun[PROJECTOR], INITIAL[PROJECTOR])

    def test_another_part_than_the_server_says_is_refused(self, someone: Callable[..., Someone]) -> None:
        right = asked(GLOBAL[1], 1, self.roles)
        for wrong in (
            replace(right, roles=(Role.BACKBONE,)),
            replace(right, weights=right.weights[1:]),
            replace(right, packed=Packed(Format.FLOAT16, b"123")),
        ):
            with pytest.raises(ProgramError, match="server's weights"):
                someone().answer(wrong)


def test_another_run_of_the_same_bundle_and_seed_is_a_fresh_start(
    someone: Callable[..., Someone], caplog: pytest.LogCaptureFixture
) -> None:
    """A server that begins anew does not have what phones learnt before: own weights, heads and rests are of no use."""
    roles, blend = (Role.BACKBONE,), Blend(BlendRule.FEDEMA)
    for number in (5, 6):
        someone().answer(asked(GLOBAL[number], number, roles, Format.INT8, blend))
    phone, sent = someone(), np.full(LAYOUT.size, 100, dtype=np.float32)
    update = phone.answer(asked(sent, 7, roles, Format.INT8, blend, run="other"))
    assert (phone.begun[BACKBONE] == 100).all()
    assert np.array_equal(phone.begun[12:], INITIAL[12:])
    assert "round-00006.safetensors is not used: it belongs to another run" in caplog.text
    change = (learnt(phone.begun, 0) - phone.begun)[BACKBONE]
    assert np.abs(changed(update, LAYOUT.part(roles)) - change).max() <= np.abs(change).max() / 127 + 1e-5


def test_a_phone_with_nothing_to_remember_writes_nothing(
    someone: Callable[..., Someone], tmp_path: Path
) -> None:
    for wanted, down in ((Format.FLOAT32, Format.FLOAT32), (Format.FLOAT16, Format.FLOAT16)):
        someone().answer(asked(GLOBAL[1], 1, wanted=wanted, down=down))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wanted", [Format.FLOAT16, Format.INT8])
def test_what_is_sent_is_the_change_from_what_was_sent(
    someone: Callable[..., Someone], wanted: Format
) -> None:
    """From rounded weights, where they were rounded; buffers are sent as values."""
    phone = someone()
    update = phone.answer(asked(GLOBAL[1], 1, wanted=wanted, down=Format.FLOAT16))
    rounded = GLOBAL[1].astype(np.float16).astype(np.float64)
    assert np.array_equal(phone.begun[TRAINED], rounded[TRAINED])
    after = learnt(phone.begun.astype(np.float64), 0)
    level = np.abs(after - rounded)[TRAINED].max() / 127 if wanted is Format.INT8 else 1e-3
    assert np.abs(changed(update)[TRAINED] - (after - rounded)[TRAINED]).max() <= level
    assert np.allclose(changed(update)[16:], after[16:], rtol=1 / 2048 if wanted is Format.INT8 else 1e-6)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 8), min_size=1, max_size=6), st.integers(0, 50))
def test_error_feedback_loses_nothing_over_the_rounds(sent: list[int], number: int) -> None:
    """The sum of what was sent is the sum of the changes, less what is still kept: under a level at the end."""
    import tempfile

    with tempfile.TemporaryDirectory() as home:
        total, true = np.zeros(16), np.zeros(16)
        for round_number, index in enumerate(sent, start=1):
            phone = Someone(Path(home), number)
            update = phone.answer(asked(GLOBAL[index], round_number, wanted=Format.INT8))
            total += changed(update)[TRAINED]
            after = learnt(GLOBAL[index], number).astype(np.float32).astype(np.float64)
            true += (after - GLOBAL[index])[TRAINED]
        run = f"{LAYOUT.digest} {LAYOUT.digest} one"
        residual = PhoneMemory(Path(home)).recall(run, 99)["residual"]
        assert np.allclose(total + residual, true, atol=1e-5)
        assert np.abs(residual).max() <= 2 * np.abs(true).max() / 127 + 1 / 127 * 10


def test_a_training_that_diverged_is_the_phones_failure_and_is_not_remembered(
    someone: Callable[..., Someone],
) -> None:
    phone = someone()
    phone.answer(asked(GLOBAL[1], 1, wanted=Format.INT8))
    huge = np.full(LAYOUT.size, 3.4e38, dtype=np.float32)
    with np.errstate(over="ignore"), pytest.raises(ProgramError, match="not finite"):
        phone.answer(asked(huge, 2, wanted=Format.INT8))
    assert [path.stem for path in phone.own.memory.folder.iterdir()] == ["round-00001"]


def test_a_memory_that_cannot_be_written_is_the_phones_failure(someone: Callable[..., Someone]) -> None:
    phone = someone()
    phone.own.memory.folder.parent.mkdir(exist_ok=True)
    phone.own.memory.folder.write_text("in the way")
    with pytest.raises(ProgramError, match=r"memory .* cannot be written"):
        phone.answer(asked(GLOBAL[1], 1, wanted=Format.INT8))


def moved(before: NDArray[Any], after: NDArray[Any]) -> float:
    """d_k: over the two slices of the backbone with more than one dimension."""
    change = after.astype(np.float64) - before.astype(np.float64)
    return float((np.sqrt((change[0:6] ** 2).sum()) + np.sqrt((change[8:12] ** 2).sum())) / 2)


class TestBlend:
    """FedEMA and FedU over several rounds."""

    def test_fedema_is_its_formula(self, someone: Callable[..., Someone]) -> None:
        rate, own, distance, mus = 0.0, np.zeros(0), 0.0, []
        for number in range(1, 6):
            phone, sent = someone(), GLOBAL[number].astype(np.float64) / number
            update = phone.answer(asked(sent.astype(np.float32), number, blend=Blend(BlendRule.FEDEMA, 0.6)))
            expected = sent
            if number > 1:
                rate = rate or 0.6 / distance
                mus.append(min(rate * distance, 1.0))
                expected = np.concatenate([(mus[-1] * own + (1 - mus[-1]) * sent)[TRAINED], sent[16:]])
            assert np.allclose(phone.begun, expected, rtol=1e-5, atol=1e-6)
            own = learnt(expected, 0)
            distance = moved(expected, own)
            assert np.allclose(update.weights, own, rtol=1e-5, atol=1e-6)
        assert mus[0] == pytest.approx(0.6)
        assert len({round(mu, 3) for mu in mus}) > 1

    def test_mu_is_at_most_one_and_a_phone_that_did_not_move_takes_the_servers(self) -> None:
        from pocketfed.mobile_client.blending import blended

        own, sent = np.full(19, 2, dtype=np.float32), np.zeros(19, dtype=np.float32)

        def begun(distance: float, rate: float) -> tuple[float, float]:
            numbers = {"distance": np.array([distance]), "rate": np.array([rate])}
            memory = {"own": own, **{k: v.astype(np.float32) for k, v in numbers.items()}}
            part, fixed = blended(Blend(BlendRule.FEDEMA, 0.7), LAYOUT, sent, memory)
            assert (part[16:] == 0).all()
            return float(part[0]), fixed

        assert begun(3.0, 1.0) == (2.0, 1.0)
        assert begun(0.25, 1.0) == (0.5, 1.0)
        assert begun(0.0, 0.0) == (0.0, 0.0)
        assert begun(0.5, 0.0) == pytest.approx((1.4, 1.4))

    @pytest.mark.parametrize("threshold", [0.0, 1e6])
    def test_fedu_keeps_the_projector_of_a_phone_that_went_far(
        self, someone: Callable[..., Someone], threshold: float
    ) -> None:
        own = INITIAL
        for number in (1, 2, 3):
            phone = someone()
            update = phone.answer(asked(GLOBAL[number], number, blend=Blend(BlendRule.FEDU, 0.7, threshold)))
            expected = GLOBAL[number].copy()
            if number > 1 and threshold == 0.0:
                expected[PROJECTOR] = own[PROJECTOR]
            assert np.array_equal(phone.begun, expected)
            own = update.weights

    def test_the_change_of_a_blended_round_is_from_what_was_sent(
        self, someone: Callable[..., Someone]
    ) -> None:
        blend = Blend(BlendRule.FEDEMA)
        for number in (1, 2):
            phone = someone()
            update = phone.answer(asked(GLOBAL[3], number, wanted=Format.FLOAT16, blend=blend))
        assert not np.allclose(phone.begun[TRAINED], GLOBAL[3][TRAINED], atol=1e-3)
        after = learnt(phone.begun.astype(np.float64), 0)
        assert np.allclose(changed(update)[TRAINED], (after - GLOBAL[3])[TRAINED], atol=2e-3)
