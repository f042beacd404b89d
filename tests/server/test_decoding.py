"""From what phones send to weights: the base of the right round, nothing lost, and anything malformed refused."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketfed.core.errors import UpdateRejected
from pocketfed.core.formats import Format, Packed, decode, encode
from pocketfed.core.layout import Layout, Role, Slice
from pocketfed.core.plan import PACKED, Update
from pocketfed.core.travel import Travel
from pocketfed.core.wire import read_update, update_items
from pocketfed.server.aggregators import Broadcast, FedAvg
from pocketfed.server.decoding import decoded
from pocketfed.server.flower_private import act_as_server
from pocketfed.server.fold import Fold
from pocketfed.server.guard import Guard
from pocketfed.server.history import History
from pocketfed.server.messages import ask_status, pack_update
from pocketfed.server.staleness import Staleness

LAYOUT = Layout(
    (
        Slice("backbone.a", (4,), Role.BACKBONE, 0),
        Slice("projector.b", (3,), Role.PROJECTOR, 4),
        Slice("buffer.c", (2,), Role.BUFFER, 7),
    )
)
TRAINED = slice(0, 7)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.standard_normal(9).astype(np.float32)
BEGUN = Broadcast(WEIGHTS, LAYOUT, 3)
STATISTICS = {Format.FLOAT32: 0.0, Format.FLOAT16: 0.0, Format.INT8: 1 / 2048}
"""How far running statistics may be off, as a share of themselves."""
FORMATS = [(down, up) for down in (Format.FLOAT32, Format.FLOAT16) for up in Format]


def sent(travel: Travel, base: Broadcast = BEGUN) -> NDArray[np.float32]:
    """What a phone reads of a broadcast."""
    return decode(Packed(travel.down, encode(base.weights, LAYOUT, travel.down)), LAYOUT)


def answer(after: NDArray[np.float32], travel: Travel, base: Broadcast = BEGUN) -> Update:
    """A phone's update, through the wire."""
    packed = None
    if travel.up is not Format.FLOAT32:
        change = after.copy()
        change[TRAINED] -= sent(travel, base)[TRAINED]
        packed = Packed(travel.up, encode(change, LAYOUT, travel.up, np.full(7, 0.5, dtype=np.float32)))
    weights = PACKED if packed else after
    update = Update(weights, 5, {}, {}, base.round, LAYOUT.digest, packed=packed)
    return read_update(update_items(update))


@pytest.mark.parametrize(("down", "up"), FORMATS)
def test_a_phone_that_changes_nothing_gives_the_servers_weights_back(down: Format, up: Format) -> None:
    """To the last bit, although it was sent rounded ones; but for running statistics, which int8 rounds."""
    travel = Travel(down=down, up=up)
    update = decoded(answer(sent(travel), travel), BEGUN, travel)
    assert np.array_equal(update.weights[TRAINED], WEIGHTS[TRAINED])
    assert np.allclose(update.weights[7:], WEIGHTS[7:], rtol=STATISTICS[up], atol=0)
    assert update.packed is None


@pytest.mark.parametrize(("down", "up"), FORMATS)
def test_the_change_is_added_to_the_servers_own_weights(down: Format, up: Format) -> None:
    travel = Travel(down=down, up=up)
    change = RNG.standard_normal(9).astype(np.float32)
    after = sent(travel) + change
    update = decoded(answer(after, travel), BEGUN, travel)
    level = {Format.FLOAT32: 1e-6, Format.FLOAT16: 2e-3, Format.INT8: np.abs(change).max() / 127}[up]
    assert np.abs(update.weights - (WEIGHTS.astype(np.float64) + change))[TRAINED].max() <= level
    assert np.allclose(update.weights[7:], after[7:], rtol=STATISTICS[up], atol=0)  # values, not changes
    assert (update.examples, update.round) == (5, 3)


def test_steps_too_small_for_float16_add_up() -> None:
    """From 1, where float16 has steps of a thousandth, by a hundred steps of a ten-thousandth."""
    travel = Travel(down=Format.FLOAT16, up=Format.INT8)
    weights = np.ones(9, dtype=np.float32)
    for number in range(100):
        base = Broadcast(weights, LAYOUT, number)
        weights = decoded(answer(sent(travel, base) + np.float32(1e-4), travel, base), base, travel).weights
    assert np.allclose(weights[TRAINED], 1.01, atol=1e-4)


def test_float32_is_left_as_it_is() -> None:
    update = answer(WEIGHTS + 1, Travel())
    assert decoded(update, BEGUN, Travel()) is update


@pytest.mark.parametrize(("down", "up"), FORMATS)
@pytest.mark.parametrize("other", Format)
def test_another_format_than_was_asked_for_is_refused(down: Format, up: Format, other: Format) -> None:
    if other is up:
        return
    with pytest.raises(UpdateRejected, match=f"format {other}, {up} was asked for"):
        decoded(answer(WEIGHTS, Travel(up=other)), BEGUN, Travel(down=down, up=up))


def test_what_cannot_be_decoded_is_refused() -> None:
    asked = Travel(up=Format.INT8)
    good = answer(WEIGHTS, asked)
    assert good.packed is not None
    content = good.packed.content
    scale = np.array([np.inf], dtype="<f4").tobytes()
    for bad, why in (
        (content[:-1], "bytes, expected 23"),
        (content + b"\0", "bytes"),
        (scale + content[4:], "scale"),
    ):
        update = Update(PACKED, 5, {}, {}, 3, LAYOUT.digest, packed=Packed(Format.INT8, bad))
        with pytest.raises(UpdateRejected, match=why):
            decoded(update, BEGUN, asked)
    foreign = Update(PACKED, 5, {}, {}, 3, "ab" * 32, packed=good.packed)
    with pytest.raises(UpdateRejected, match="layout 'abababababab'"):
        decoded(foreign, BEGUN, asked)
    short = Update(WEIGHTS[1:], 5, {}, {}, 3, LAYOUT.digest)
    with pytest.raises(UpdateRejected, match=r"weights are \[8\]"):
        decoded(short, BEGUN, Travel(down=Format.FLOAT16))


@given(st.sampled_from(FORMATS), st.binary(min_size=0, max_size=40), st.booleans())
def test_whatever_bytes_come_the_guard_lets_sane_weights_through_only(
    formats: tuple[Format, Format], content: bytes, fitting: bool
) -> None:
    travel = Travel(down=formats[0], up=formats[1])
    if fitting:
        content = (content + bytes(40))[: len(encode(WEIGHTS, LAYOUT, travel.up, np.zeros(7, np.float32)))]
    honest = update_items(answer(WEIGHTS, travel))
    try:
        update = Guard().check(decoded(read_update({**honest, "weights": content}), BEGUN, travel), BEGUN)
    except (ValueError, UpdateRejected):
        return
    assert np.isfinite(update.weights).all()
    assert update.weights.shape == (9,)


def reply(update: Update) -> Message:
    act_as_server(1)
    return Message(pack_update(update), reply_to=ask_status(7))


def test_a_fold_counts_the_bytes_that_travelled_and_a_bad_update_costs_its_phone_only() -> None:
    travel = Travel(down=Format.FLOAT16, up=Format.INT8)
    fold = Fold(FedAvg(), Guard(), BEGUN, History(1).begin(BEGUN), Staleness(), travel)
    fold.take(0, reply(answer(sent(travel) + 1, travel)), 3)
    fold.take(1, reply(answer(sent(travel) + 3, travel)), 3)
    fold.take(2, reply(answer(sent(travel), Travel())), 3)
    assert (outcome := fold.outcome(3, 0.0, {}, 0)).phones == 2
    assert [(failure.phone, failure.reason) for failure in outcome.failures] == [
        (2, "the update has the format float32, int8 was asked for")
    ]
    assert np.allclose(outcome.weights[TRAINED], WEIGHTS[TRAINED] + 2, atol=3 / 127)
    assert outcome.bytes_up == 2 * (3 * 4 + 2 * 2 + 7)
    assert outcome.bytes_down == 3 * (2 * 4 + 7 * 2)


def test_a_late_update_is_added_to_what_its_own_round_began_with() -> None:
    travel, before = Travel(up=Format.INT8), Broadcast(WEIGHTS * 2, LAYOUT, 2)
    late = answer(WEIGHTS * 2 + 1, travel, before)
    history = History(2).begin(before).begin(BEGUN)
    fold = Fold(FedAvg(), Guard(), BEGUN, history, Staleness(longest=1), travel)
    fold.take(0, reply(late), 2)
    # And then brought up to date: the change of one is what counts.
    assert np.allclose(fold.outcome(1, 0.0, {}, 0).weights[TRAINED], WEIGHTS[TRAINED] + 1, atol=0.01)


def test_items_of_a_packed_update_survive() -> None:
    update = answer(WEIGHTS, Travel(up=Format.INT8))
    items: dict[str, Any] = dict(update_items(update))
    assert items["format"] == "int8"
    assert read_update(items) == update
