"""A server in the middle of a run, as its watchers were told; the same every time."""

import numpy as np

from pocketfed.core.modality import Modality
from pocketfed.server.aggregators import GlobalModel
from pocketfed.server.outcome import Failure, Kind, Outcome
from pocketfed.server.watch.watcher import ServerWatcher

EVIL = "<script>alert('phone')</script> & \"more\""

REASONS = (
    (Kind.DECLINED, "battery at 31 %, below the 40 % that its policy asks for"),
    (Kind.SILENT, "no answer within 120 s"),
    (Kind.DECLINED, "not on an unmetered network"),
    (Kind.REFUSED, "weights moved by 412, more than 10 times their norm 3.17"),
    (Kind.FAILED, "program failed in step 12: out of memory"),
    (Kind.LATE, "answered round 4 while round 6 was being run"),
)


def outcome(number: int, rng: np.random.Generator, failures: int = 0, attempt: int = 0) -> Outcome:
    """A plausible round of 20 phones."""
    seconds = float(34 + rng.normal(0, 4))
    failed = tuple(
        Failure(int(rng.integers(0, 64)), reason, kind)
        for kind, reason in (REASONS[int(rng.integers(0, len(REASONS)))] for _ in range(failures))
    )
    return Outcome(
        round=number,
        model=GlobalModel(np.zeros(1, np.float32)),
        loss={
            Modality.PHOTO: float(2.3 + 1.4 * np.exp(-number / 14) + rng.normal(0, 0.02)),
            Modality.SOUND: float(1.7 + 1.6 * np.exp(-number / 9) + rng.normal(0, 0.03)),
        },
        phones=20 - failures,
        failures=failed,
        bytes_down=20 * 933_000,
        bytes_up=(20 - failures) * 933_000,
        seconds=seconds,
        phases={
            "waiting": float(abs(rng.normal(4, 4))),
            "sending": 1.4,
            "collecting": seconds - 3,
            "folding": 0.9,
        },
        attempt=attempt,
    )


def left_out(count: int) -> dict[str, int]:
    """Why so many phones, at least 6, may not be asked."""
    return {
        "has an app before version 1.4, which is asked for": count - 5,
        "rests, because its last answer was a no": 3,
        "did not answer in time, and has not been heard since": 2,
    }


def busy(watcher: ServerWatcher, rounds: int = 36) -> None:
    """Tell a watcher of some rounds and of the half of another."""
    rng = np.random.default_rng(7)
    for number in range(1, rounds + 1):
        online = 41 + int(rng.integers(0, 4))
        watcher.fleet(seen=64, online=online, eligible=33, benched=2, left_out=left_out(online - 33))
        watcher.waiting(18, 20)
        watcher.begun(number, 0, range(20), 33)
        watcher.answered(number, 20, 20)
        watcher.finished(outcome(number, rng, failures=int(rng.poisson(1.1)), attempt=int(number == 30)))
        watcher.saved(number, 0.8)
    watcher.abandoned(rounds + 1, 0, [Failure(13, EVIL)])
    watcher.begun(rounds + 1, 1, range(20), 33)
    watcher.answered(rounds + 1, 12, 20)
