"""How many threads a program runs fastest on, found by trying.

More is often slower: a small network's step is hundreds of short operators, and each of them would wait for all
threads to begin and to end. Results do not depend on the number, to the last bit.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from pocketfed.core.atomic import write_atomically
from pocketfed.core.errors import ProgramError
from pocketfed.core.processors import cores
from pocketfed.core.program_spec import ProgramSpec
from pocketfed.mobile_client.thread_trial import Trial, to_json

LIMIT = 300.0
"""Seconds that a trial may take."""

Seconds = Callable[[Trial], float]


def remembered_threads(record: Path, program: Path, name: str, spec: ProgramSpec) -> int:
    """One thread or all cores, whichever is faster; it is tried out once and then remembered.

    Args:
        record: file of what was found. It counts for the same program on as many cores; otherwise, or if it cannot
            be read, all is tried out again and written down.
        program: the `.pte`.
        name: what tells the program from others.
        spec: of the program.

    Raises:
        ProgramError: the program cannot be run.
    """
    candidates = sorted({1, cores()})
    records = [{"program": name, "cores": candidates[-1], "threads": count} for count in candidates]
    known = None
    with suppress(OSError, ValueError):
        known = json.loads(record.read_text())
    if known in records:
        return candidates[records.index(known)]
    threads = fastest_threads(program, spec, candidates)
    with suppress(OSError):  # then it is tried out again next time
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, json.dumps(records[candidates.index(threads)]).encode())
    return threads


def seconds_in_a_process(trial: Trial) -> float:
    """What `thread_trial` measures, in a process of its own.

    Raises:
        ProgramError: it failed, or took longer than `LIMIT`.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pocketfed.mobile_client.thread_trial"],
            input=to_json(trial), capture_output=True, text=True, timeout=LIMIT, check=True,
        )  # fmt: skip
    except subprocess.CalledProcessError as error:
        why = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        raise ProgramError(f"{trial.program} cannot be tried on {trial.threads} threads: {why}") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramError(
            f"{trial.program} on {trial.threads} threads took longer than {LIMIT:g} s (it is not tried where the number "
            "of threads is given)"
        ) from error
    return float(done.stdout)


def fastest_threads(
    program: Path, spec: ProgramSpec, candidates: Sequence[int], seconds: Seconds = seconds_in_a_process
) -> int:
    """The candidate whose slowest step takes the least time; the smaller one of equals.

    Takes a few seconds for each, for a network of half a million weights; none if there is but one.

    Raises:
        ProgramError: the program cannot be run.
    """
    if len(set(candidates)) == 1:
        return candidates[0]
    found = {count: seconds(Trial(str(program), spec, count)) for count in sorted(set(candidates))}
    return min(found, key=lambda count: (found[count], count))
