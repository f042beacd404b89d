"""What Prometheus is told, read by its own parser."""

import math
import re
from datetime import UTC, datetime

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from pocketfed.core.modality import Modality
from pocketfed.server.aggregators import GlobalModel
from pocketfed.server.outcome import Failure, Kind, Outcome
from pocketfed.server.watch.metrics import Metrics
from tests.conftest import REPOSITORY
from tests.server.watch.example import busy


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = metrics.exposition()[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_round() -> None:
    metrics = Metrics()
    metrics.fleet(seen=9, online=7, eligible=6, benched=1, left_out={})
    metrics.begun(4, 0, [1, 2, 3], 6)
    metrics.abandoned(4, 0, [Failure(1, "gone", Kind.SILENT)])
    metrics.begun(4, 1, [4, 5, 6], 6)
    metrics.finished(
        Outcome(
            4, GlobalModel(np.zeros(1, np.float32)), {Modality.SOUND: 2.5}, 2, (Failure(4, "no", Kind.DECLINED),),
            300, 200, 12.0, {"collecting": 11.0, "made up": 1.0},
        )
    )  # fmt: skip
    metrics.saved(4, 0.5)
    found = samples(metrics)
    expected = {
        ("pocketfed_rounds_total", ()): 1,
        ("pocketfed_rounds_abandoned_total", ()): 1,
        ("pocketfed_updates_total", ()): 2,
        ("pocketfed_failures_total", (("kind", "silent"),)): 1,
        ("pocketfed_failures_total", (("kind", "declined"),)): 1,
        ("pocketfed_failures_total", (("kind", "late"),)): 0,
        ("pocketfed_weights_bytes_total", (("direction", "down"),)): 300,
        ("pocketfed_weights_bytes_total", (("direction", "up"),)): 200,
        ("pocketfed_phones", (("state", "seen"),)): 9,
        ("pocketfed_phones", (("state", "online"),)): 7,
        ("pocketfed_phones", (("state", "eligible"),)): 6,
        ("pocketfed_phones", (("state", "chosen"),)): 3,
        ("pocketfed_phones", (("state", "benched"),)): 1,
        ("pocketfed_loss", (("modality", "sound"),)): 2.5,
        ("pocketfed_round", ()): 4,
        ("pocketfed_saved_round", ()): 4,
        ("pocketfed_degraded", ()): 0,
        ("pocketfed_round_seconds_count", ()): 1,
        ("pocketfed_round_seconds_sum", ()): 12,
        ("pocketfed_phase_seconds_sum", (("phase", "collecting"),)): 11,
        ("pocketfed_phase_seconds_sum", (("phase", "other"),)): 1,
        ("pocketfed_phase_seconds_sum", (("phase", "saving"),)): 0.5,
    }
    assert {key: found[key] for key in expected} == expected
    assert math.isnan(found["pocketfed_loss", (("modality", "photo"),)])


def test_trouble_shows_until_a_round_is_safe() -> None:
    metrics = Metrics()
    metrics.trouble("disk full")
    assert samples(metrics)["pocketfed_degraded", ()] == 1
    metrics.saved(1, 0.1)
    assert samples(metrics)["pocketfed_degraded", ()] == 0


def test_two_servers_do_not_mix() -> None:
    one, other = Metrics(), Metrics()
    busy(one)
    assert samples(one)["pocketfed_rounds_total", ()] == 36
    assert samples(other)["pocketfed_rounds_total", ()] == 0


def test_the_number_of_series_does_not_grow() -> None:
    metrics = Metrics()
    busy(metrics, 3)
    metrics.begun(4, 0, [1], 1)
    before = len(samples(metrics))
    busy(metrics, 60)
    assert len(samples(metrics)) <= before + len(Kind)


@pytest.mark.parametrize("accept", ["", "text/plain", "application/openmetrics-text; version=1.0.0"])
def test_the_scraper_chooses_the_format(accept: str) -> None:
    metrics = Metrics()
    busy(metrics, 2)
    content, content_type = metrics.exposition(accept)
    openmetrics = "openmetrics" in accept
    assert content_type.startswith("application/openmetrics-text" if openmetrics else "text/plain")
    read = read_openmetrics if openmetrics else text_string_to_metric_families
    names = {family.name for family in read(content.decode())}
    assert {"pocketfed_rounds", "pocketfed_phones", "pocketfed_request_seconds"} <= names


def test_the_docs_name_every_metric_and_its_type() -> None:
    page = (REPOSITORY / "docs" / "watching.md").read_text()
    documented = dict(re.findall(r"^\| `(pocketfed_\w+)` \| (\w+) \|", page, flags=re.MULTILINE))
    exposed = {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(Metrics().exposition()[0].decode())
        if family.name.startswith("pocketfed_") and not family.name.endswith("_created")
    }
    assert documented == exposed


def test_when_the_certificate_ends() -> None:
    end = datetime(2027, 1, 1, tzinfo=UTC)
    assert samples(Metrics(end))["pocketfed_certificate_end_timestamp_seconds", ()] == end.timestamp()
    assert math.isnan(samples(Metrics())["pocketfed_certificate_end_timestamp_seconds", ()])


def test_privacy_that_was_spent_is_known_before_the_next_round() -> None:
    metrics = Metrics()
    assert math.isnan(samples(metrics)["pocketfed_privacy_epsilon", ()])
    spent = [{"epsilon": 0.5 * number, "delta": 1e-5, "budget": 8.0, "clip": 1.0} for number in (1, 2)]
    metrics.restore([{"round": 0}, *({"round": i + 1, "privacy": value} for i, value in enumerate(spent))])
    found = samples(metrics)
    assert (found["pocketfed_privacy_epsilon", ()], found["pocketfed_privacy_budget", ()]) == (1.0, 8.0)
    assert found["pocketfed_rounds_total", ()] == 0
