"""The metrics of a run: a line a round, of which a crash or a full disk costs none that was whole."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from pocketfed.core.atomic import append_durably
from pocketfed.simulator import metrics_file
from pocketfed.simulator.metrics_file import WAITING, MetricsFile
from pocketfed.simulator.run_folder import RunFolder, read_metrics


def record(round_number: int) -> dict[str, Any]:
    return {"round": round_number, "loss": {"photo": 0.5 * round_number}}


def line(round_number: int) -> bytes:
    return json.dumps(record(round_number)).encode() + b"\n"


def write(metrics: MetricsFile, *rounds: int) -> None:
    for number in rounds:
        metrics.add(record(number))
        metrics.write()


def test_a_round_adds_its_line_and_writes_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def append(path: Path, size: int, content: bytes) -> int:
        written.append(content)
        return append_durably(path, size, content)

    monkeypatch.setattr(metrics_file, "append_durably", append)
    folder = RunFolder(tmp_path)
    metrics = MetricsFile(folder, -1)
    write(metrics, *range(20))
    again = MetricsFile(folder, 19)
    write(again, 20)
    assert written == [line(number) for number in range(21)]
    assert folder.metrics.read_bytes() == b"".join(written)
    assert again.read() == read_metrics(folder, 99) == [record(number) for number in range(21)]


def test_a_line_that_is_torn_anywhere_is_cut_off(tmp_path: Path) -> None:
    folder, whole = RunFolder(tmp_path), line(0) + line(1)
    for length in range(len(line(2))):
        folder.metrics.write_bytes(whole + line(2)[:length])
        metrics = MetricsFile(folder, 9)
        assert metrics.last == 1
        assert read_metrics(folder, 9) == metrics.read() == [record(0), record(1)]
        write(metrics, 2, 3)
        assert folder.metrics.read_bytes() == whole + line(2) + line(3)


def test_an_edge_may_be_asked_for_a_round_again(tmp_path: Path) -> None:
    """As by a server above that begins anew."""
    folder = RunFolder(tmp_path)
    write(MetricsFile(folder, 2**63), 1, 2, 1)
    metrics = MetricsFile(folder, 2**63)
    assert metrics.read() == [record(1), record(2), record(1)]
    write(metrics, 1)
    assert folder.metrics.read_bytes() == line(1) + line(2) + line(1) + line(1)


def test_rounds_that_the_run_does_not_go_on_after_are_cut_off(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write(MetricsFile(folder, -1), *range(6))
    metrics = MetricsFile(folder, 2)
    assert (metrics.last, metrics.read()) == (2, [record(0), record(1), record(2)])
    metrics.write()
    assert folder.metrics.read_bytes() == line(0) + line(1) + line(2)
    MetricsFile(folder, -1).write()
    assert read_metrics(folder, 9) == []


def test_what_a_full_disk_does_not_take_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a part of a line, as disks do."""
    folder = RunFolder(tmp_path)
    metrics = MetricsFile(folder, -1)
    write(metrics, 0)

    def append(path: Path, size: int, content: bytes) -> int:
        append_durably(path, size, content[:9])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(metrics_file, "append_durably", append)
        for number in (1, 2):
            with pytest.raises(OSError, match="No space"):
                write(metrics, number)
            assert metrics.read() == [record(n) for n in range(number + 1)]
            assert read_metrics(folder, 9) == [record(0)]
        for number in range(3, WAITING + 10):
            metrics.add(record(number))
        assert len(metrics.read()) == 1 + WAITING, "memory is bounded"
    metrics.write()
    assert folder.metrics.read_bytes() == line(0) + b"".join(line(n) for n in range(10, WAITING + 10))


def test_a_file_that_somebody_removed_begins_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    metrics = MetricsFile(folder, -1)
    write(metrics, 0, 1)
    folder.metrics.unlink()
    write(metrics, 2)
    assert folder.metrics.read_bytes() == line(2)
    assert metrics.read() == [record(2)]
