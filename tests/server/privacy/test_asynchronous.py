"""Private rounds that do not wait: what one phone moves in a version, who is in it, and how much noise there is."""

import math
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketfed.core.hyper import Hyper
from pocketfed.core.plan import Plan
from pocketfed.core.wire import DECLINED
from pocketfed.server import crew
from pocketfed.server.aggregators import FedAvg, GlobalModel
from pocketfed.server.buffered import run_buffered
from pocketfed.server.privacy.adaptive_clip import AdaptiveClip
from pocketfed.server.privacy.mechanism import Mechanism
from pocketfed.server.privacy.noise import Normals
from pocketfed.server.privacy.private_mean import PrivateMean
from pocketfed.server.roster import Roster
from pocketfed.server.staleness import Staleness
from pocketfed.server.terms import Buffered, Rounds, Terms
from tests.server.scripted_grid import LAYOUT, SIZE, Answer, adds, fleet, says, silent
from tests.server.test_rounds import Diary

START = np.full(SIZE, 10, dtype=np.float32)
CLIP, EXPECTED = 0.5, 4
NAN, FAILS = adds(math.nan), says("training led to weights that are not finite", 2)


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "POLL", 0.0)


def quiet(count: int) -> NDArray[np.float64]:
    return np.zeros(count)


def ones(count: int) -> NDArray[np.float64]:
    return np.ones(count)


def play(
    phones: dict[int, Answer],
    buffered: Buffered,
    versions: int,
    normals: Normals = quiet,
    adaptive: AdaptiveClip | None = None,
    **terms: Any,
) -> tuple[Diary, list[NDArray[np.float32]], list[int]]:
    """What happened, the weights of each version, and who was asked, one after the other."""
    grid, diary = fleet(phones), Diary()
    grid.slowness = {n + 100: (n * n) % 7 for n in phones}
    rule = PrivateMean(FedAvg(), Mechanism(2.0, CLIP, EXPECTED, adaptive), normals)
    wanted = Terms(**{"count_refused": True} | terms)
    rounds = Rounds(LAYOUT, rule, lambda r: Plan(r, 0, {}, False, Hyper()), 7, wanted, buffered=buffered)
    run_buffered(grid, rounds, Roster(), GlobalModel(START), range(1, versions + 1), diary)
    weights = [START, *(outcome.weights for outcome in diary.outcomes)]
    return diary, weights, [message.metadata.dst_node_id for message in grid.sent]


@pytest.mark.parametrize("discounts", ["weight", "step"])
@pytest.mark.parametrize("nothing", [NAN, FAILS], ids=["refused", "failed"])
def test_one_phone_moves_a_version_by_at_most_the_norm_and_nobody_else_in_or_out_of_it(
    nothing: Answer, discounts: Literal["weight", "step"]
) -> None:
    """Two runs that differ in one phone's answers: late and discounted, far and near, they move each version by C / m."""
    buffered = Buffered(3, 6, Staleness(1000, "polynomial", 0.5, discounts=discounts, step=0.75))
    others: dict[int, Answer] = {n: adds(0.02 * n) for n in range(1, 12)}
    (one, with_it, asked), (other, without, again) = (
        play({0: answer, **others}, buffered, 25, quorum=1.0, attempts=1) for answer in (adds(40), nothing)
    )
    assert asked == again, "who is asked, and when, does not follow from what is in an answer"
    moved = np.diff(np.array(with_it, float), axis=0) - np.diff(np.array(without, float), axis=0)
    lengths = np.linalg.norm(moved, axis=1)
    heard = [bool(outcome.failures) for outcome in other.outcomes]
    assert 3 <= sum(heard) < 25
    assert lengths.max() <= CLIP / EXPECTED * (1 + 1e-5)
    assert [bool(length > 1e-4) for length in lengths] == heard, "it counts where it was heard, and once"
    late = [max(outcome.staleness) for outcome in one.outcomes]
    assert max(late) > 1
    for outcome, its in zip(other.outcomes, one.outcomes, strict=True):
        assert (outcome.attempt, its.phones) == (0, 3)
        assert outcome.phones == 3 - len(outcome.failures)
        assert list(its.staleness) == list(outcome.staleness) or outcome.failures


def test_the_norm_of_the_next_version_follows_one_phone_by_what_its_noise_hides() -> None:
    """One update more or less moves log C by rate / (2 m), as in rounds that wait."""
    buffered, adaptive = Buffered(3, 3, Staleness(9)), AdaptiveClip(0.5, 0.2, noise=2.0)
    clips = []
    for answer in (adds(40), adds(0), NAN):
        phones: dict[int, Answer] = {0: answer, 1: adds(0.1), 2: adds(0.1)}
        diary, _, _ = play(phones, buffered, 1, quiet, adaptive)
        clips.append(math.log(float(diary.outcomes[0].model.memory["privacy.clip"][0])))
    assert abs(clips[0] - clips[2]) == pytest.approx(0.2 * 0.5 / EXPECTED, rel=1e-4)
    assert abs(clips[1] - clips[2]) == pytest.approx(0.2 * 0.5 / EXPECTED, rel=1e-4)


def test_what_cannot_be_used_takes_the_place_of_an_update_where_it_is_private_and_only_there() -> None:
    phones: dict[int, Answer] = {0: NAN, 1: FAILS, 2: adds(0.1), 3: adds(0.1)}
    buffered = Buffered(4, 4, Staleness(9))
    diary, _, _ = play(phones, buffered, 1, quorum=1.0, attempts=1)
    (outcome,) = diary.outcomes
    assert (outcome.phones, outcome.failed, outcome.attempt) == (2, 2, 0)
    diary, _, _ = play(phones, Buffered(2, 4, Staleness(9)), 1, count_refused=False)
    assert diary.outcomes[0].phones == 2


@pytest.mark.parametrize("answer", [silent, says("unplugged", DECLINED)], ids=["silent", "declined"])
def test_who_does_not_train_takes_no_place(answer: Answer) -> None:
    phones = {n: answer if n < 2 else adds(0.1) for n in range(8)}
    diary, _, _ = play(phones, Buffered(3, 8, Staleness(9)), 1, deadline=0.05)
    assert diary.outcomes[0].phones == 3


def test_a_version_of_few_updates_has_all_of_the_noise() -> None:
    """The noise is that of the sum, z C, and the sum is divided by m, however many updates came: three of ten, or none."""
    for answer, updates in ((adds(40), 3), (NAN, 0)):
        phones: dict[int, Answer] = {0: answer, 1: answer, 2: answer}
        diary, weights, _ = play(phones, Buffered(10, 10, Staleness(9)), 1, ones, quorum=0.3)
        assert [outcome.phones for outcome in diary.outcomes] == [updates]
        step = updates * CLIP / math.sqrt(SIZE) + 2.0 * CLIP
        np.testing.assert_allclose(weights[1], 10 + step / EXPECTED, rtol=1e-6)
