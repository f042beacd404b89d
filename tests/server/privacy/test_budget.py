"""What rounds cost together, that it is never forgotten, and that rounds end before it is too much."""

import math
import sys
from pathlib import Path

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from flwr.app import Message

from pocketfed.core.errors import MissingPackageError, RunFolderError
from pocketfed.core.hyper import Hyper
from pocketfed.core.plan import Plan
from pocketfed.core.wire import DECLINED
from pocketfed.server.aggregators import FedAvg, GlobalModel
from pocketfed.server.outcome import Kind, Outcome, RoundWatcher
from pocketfed.server.privacy import ledger as ledger_module
from pocketfed.server.privacy.accountant import Release, epsilon_of
from pocketfed.server.privacy.accounted import Accounted
from pocketfed.server.privacy.budget import Budget
from pocketfed.server.privacy.ledger import FILE, Ledger
from pocketfed.server.privacy.mechanism import Mechanism
from pocketfed.server.privacy.private_mean import PrivateMean
from pocketfed.server.roster import Roster
from pocketfed.server.rounds import run_rounds
from pocketfed.server.terms import Rounds, Terms
from tests.server.scripted_grid import LAYOUT, SIZE, Answer, ScriptedGrid, adds, fleet, says, silent

Z = Release(1.0)


def delta_of(epsilon: float, z: float) -> float:
    """Of one Gaussian mechanism (Balle and Wang, 2018, theorem 8), by the error function of the standard library."""

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    return below(0.5 / z - epsilon * z) - math.exp(epsilon) * below(-0.5 / z - epsilon * z)


@pytest.mark.parametrize(("z", "rounds"), [(1.0, 1), (4.0, 30), (0.7, 3)])
def test_rounds_of_noise_are_one_gaussian_mechanism(z: float, rounds: int) -> None:
    epsilon = epsilon_of([Release(z)] * rounds, 1e-5)
    assert delta_of(epsilon, z / math.sqrt(rounds)) == pytest.approx(1e-5, rel=1e-6)
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(dp_accounting.GaussianDpEvent(z), rounds)
    assert epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-3)


def test_rounds_of_different_noise_add_up() -> None:
    mixed = [Release(1.0), Release(2.0), Release(2.0), Release(4.0)]
    assert epsilon_of(mixed, 1e-6) == pytest.approx(epsilon_of([Release((1 + 2 / 4 + 1 / 16) ** -0.5)], 1e-6))
    assert epsilon_of([], 1e-6) == 0


def test_a_secret_sample_is_counted_by_the_librarys_bound_with_half_the_noise() -> None:
    accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE)
    gaussian = dp_accounting.GaussianDpEvent(0.6)
    accountant.compose(dp_accounting.SampledWithoutReplacementDpEvent(1000, 10, gaussian), 50)
    sampled = epsilon_of([Release(1.2, 1000, 10)] * 50, 1e-5)
    assert sampled == pytest.approx(accountant.get_epsilon(1e-5))
    assert sampled < epsilon_of([Release(1.2)] * 50, 1e-5)


def test_asking_everybody_hides_nobody() -> None:
    """Then it is the Gaussian mechanism at 2 C; Renyi's divergence bounds it from above."""
    everybody = epsilon_of([Release(2.0, 10, 10)] * 4, 1e-5)
    exact = epsilon_of([Release(1.0)] * 4, 1e-5)
    assert exact < everybody < 1.1 * exact
    assert epsilon_of([Release(2.0, 10, 10), Release(2.0)], 1e-5) == pytest.approx(
        epsilon_of([Release(2.0, 10, 10)] * 2, 1e-5)
    )


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(MissingPackageError, match=r"pip install -e '\.\[privacy\]'"):
        epsilon_of([Z], 1e-5)


def test_a_ledger_forgets_nothing_and_refuses_to_guess(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(1, Z)
    ledger.add(2, Release(0.5, 100, 10))
    ledger.add(2, Z)  # a round that was run anew from an older checkpoint
    assert Ledger(tmp_path).releases == [(1, Z), (2, Release(0.5, 100, 10)), (2, Z)]
    whole = (tmp_path / FILE).read_bytes()
    for damaged in (whole[:-9], whole + b"{}\n", b"[]\n", whole.replace(b"1.0", b"-1.0"), b"\xff\n"):
        (tmp_path / FILE).write_bytes(damaged)
        with pytest.raises(RunFolderError, match="is damaged"):
            Ledger(tmp_path)


def test_a_release_that_cannot_be_written_down_does_not_happen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    seen: list[Outcome] = []

    class Seen(RoundWatcher):
        def finished(self, outcome: Outcome) -> None:
            seen.append(outcome)

    monkeypatch.setattr(ledger_module, "write_atomically", full)
    watcher = Accounted(Seen(), Budget(Ledger(tmp_path), Z, 9, 1e-5), Mechanism(1, 1, 1))
    with pytest.raises(RunFolderError, match=r"round 1 cannot be released.*No space left"):
        watcher.finished(Outcome(1, GlobalModel(np.zeros(2, np.float32)), {}, 1, (), 0, 0, 1.0))
    assert seen == []


def budget(folder: Path, epsilon: float) -> Budget:
    return Budget(Ledger(folder), Z, epsilon, 1e-5)


def test_as_many_rounds_as_fit(tmp_path: Path) -> None:
    for most in (0, 1, 7, 60):
        left = budget(tmp_path, 10.5).rounds_left(most)
        assert left == min(most, 4)
    assert epsilon_of([Z] * 4, 1e-5) <= 10.5 < epsilon_of([Z] * 5, 1e-5)
    assert budget(tmp_path, 0.1).rounds_left(9) == 0


class Diary(RoundWatcher):
    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.abandonments = 0

    def abandoned(self, round_number: int, attempt: int, failures: object) -> None:
        self.abandonments += 1

    def finished(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)


def play(
    grid: ScriptedGrid, folder: Path, epsilon: float, numbers: range, terms: Terms | None = None
) -> tuple[Diary, GlobalModel, list[str]]:
    """Rounds as a private server runs them."""
    mechanism, diary, told = Mechanism(1.0, 1.0, updates=4), Diary(), list[str]()
    account = budget(folder, epsilon)
    rounds = Rounds(
        LAYOUT, PrivateMean(FedAvg(), mechanism), lambda r: Plan(r, 0, {}, False, Hyper()), 0,
        terms or Terms(count_refused=True),
    )  # fmt: skip
    begin = GlobalModel(np.full(SIZE, 10, np.float32))
    watcher = Accounted(diary, account, mechanism)
    model = run_rounds(grid, rounds, Roster(), begin, account.affordable(numbers, told.append), watcher)
    return diary, model, told


def test_the_run_stops_before_the_round_that_is_too_much_and_goes_on_with_a_larger_budget(
    tmp_path: Path,
) -> None:
    grid = fleet(dict.fromkeys(range(4), adds(0.1)))
    diary, _, told = play(grid, tmp_path, 10.5, range(1, 21))
    assert [outcome.round for outcome in diary.outcomes] == [1, 2, 3, 4]
    spent = [outcome.privacy for outcome in diary.outcomes]
    assert [s.epsilon for s in spent if s] == [epsilon_of([Z] * n, 1e-5) for n in (1, 2, 3, 4)]
    assert all(s is not None and (s.delta, s.budget, s.clip) == (1e-5, 10.5, 1.0) for s in spent)
    assert len(told) == 1
    assert "the privacy budget is spent: epsilon is 9.997" in told[0]
    assert len(grid.sent) == 16, "no phone is asked in a round that does not fit"

    again, _, told = play(grid, tmp_path, 10.5, range(5, 21))
    assert again.outcomes == []
    assert told != []
    more, _, told = play(grid, tmp_path, 15.0, range(5, 21))
    assert [outcome.round for outcome in more.outcomes] == [5, 6, 7]
    assert more.outcomes[-1].privacy is not None
    assert more.outcomes[-1].privacy.epsilon == epsilon_of([Z] * 7, 1e-5)


def test_going_on_from_an_older_checkpoint_pays_again(tmp_path: Path) -> None:
    grid = fleet(dict.fromkeys(range(4), adds(0.1)))
    play(grid, tmp_path, 10.5, range(1, 4))
    diary, _, _ = play(grid, tmp_path, 10.5, range(2, 21))
    assert [outcome.round for outcome in diary.outcomes] == [2]


def test_an_abandoned_attempt_costs_nothing_because_it_releases_nothing(tmp_path: Path) -> None:
    grid = fleet({0: adds(0.1), **dict.fromkeys(range(1, 6), silent)})
    grid.online = set(grid.train)

    def vanish(message: Message) -> None:
        assert grid.online is not None
        grid.online.discard(message.metadata.dst_node_id)

    grid.train |= dict.fromkeys(range(101, 106), vanish)
    terms = Terms(quorum=0.8, attempts=3, count_refused=True)
    diary, _, _ = play(grid, tmp_path, 99.0, range(1, 2), terms)
    assert diary.abandonments == 1
    assert [number for number, _ in Ledger(tmp_path).releases] == [1]


FAILS = says("training led to weights that are not finite", 2)
"""How a phone whose training diverged answers where it packs what it sends."""


@pytest.mark.parametrize(
    ("unusable", "kind"), [(adds(math.nan), Kind.REFUSED), (FAILS, Kind.FAILED)], ids=["refused", "failed"]
)
def test_an_answer_that_cannot_be_used_decides_nothing_about_the_others(
    tmp_path: Path, unusable: Answer, kind: Kind
) -> None:
    """Whether it can be depends on a phone's captures; neither quorum nor cohort may depend on it."""
    grid = fleet({0: unusable, 1: adds(0.1), 2: adds(0.1)})
    terms = Terms(quorum=1.0, attempts=1, count_refused=True)
    diary, model, _ = play(grid, tmp_path, 99.0, range(1, 2), terms)
    assert diary.outcomes[0].phones == 2
    assert [failure.kind for failure in diary.outcomes[0].failures] == [kind]
    assert np.isfinite(model.weights).all()
    few = fleet({n: unusable if n < 2 else adds(0.1) for n in range(6)})
    wanted = Terms(participation=0.5, over_selection=1.0, in_order=True, count_refused=True)
    diary, _, _ = play(few, tmp_path, 99.0, range(2, 3), wanted)
    assert diary.outcomes[0].phones == 1, "the third answer was the last that was wanted"
    assert len(diary.outcomes[0].failures) == 2


@pytest.mark.parametrize("answer", [silent, says("unplugged", DECLINED)], ids=["silent", "declined"])
def test_who_does_not_train_takes_no_place(tmp_path: Path, answer: Answer) -> None:
    few = fleet({n: answer if n < 2 else adds(0.1) for n in range(6)})
    wanted = Terms(participation=0.5, over_selection=1.0, in_order=True, count_refused=True)
    diary, _, _ = play(few, tmp_path, 99.0, range(1, 2), wanted)
    assert diary.outcomes[0].phones == 3
