"""Configurations: every mistake at once, flags over files, and what is written can be read."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketfed.core.bundle import Contents, write_bundle
from pocketfed.core.errors import ConfigError
from pocketfed.core.release import PROGRAM
from pocketfed.core.role import Role
from pocketfed.simulator.config_file import build_config, overlay, read_toml, to_toml
from pocketfed.simulator.plans import travel_of
from tests.bundles import LAYOUT, SPEC
from tests.conftest import REPOSITORY, Shown


def test_every_mistake_is_reported_at_once_with_its_value() -> None:
    with pytest.raises(ConfigError) as caught:
        build_config(
            {
                "rounds": 0, "aggregator": "mode", "colour": "blue",
                "fleet": {"alpha": -1, "photos_only": 0.7, "sounds_only": 0.7, "phone": 3},
                "learning": {"backbone": "resnot", "batch": 7}, "captures": {"seconds": 0.333},
            }
        )  # fmt: skip
    text = str(caught.value)
    for expected in (
        "rounds", "(got 0)", "aggregator: no such aggregator; choose one of: fedadagrad", "colour: there is no such key",
        "fleet.alpha", "(got -1)", "fleet.phone: there is no such key", "learning.backbone: no such backbone",
        "learning.batch", "(got 7)", "captures.seconds: must be a multiple of 0.01",
        "fleet.sounds_only: photos_only and sounds_only add up to more than 1",
    ):  # fmt: skip
        assert expected in text
    assert len(caught.value.problems) == 9


@pytest.mark.parametrize("alpha", [0, -0.5, float("nan"), float("inf")])
def test_alpha_must_be_positive(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"fleet\.alpha"):
        build_config({"fleet": {"alpha": alpha}})


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"exchange": {"travels": ["projector"]}},
            "exchange.travels: without the backbone nothing is learnt",
        ),
        ({"exchange": {"travels": ["backbone", "head"]}}, "exchange.travels.1: "),
        ({"exchange": {"update_format": "int4"}}, "exchange.update_format: "),
        ({"exchange": {"download_format": "int8"}}, "exchange.download_format: weights that phones are sent"),
        ({"learning": {"blend": "mine"}}, "learning.blend: "),
        ({"learning": {"optimiser": "sgdm"}}, "learning.optimiser: no such optimiser; choose one of: "),
        ({"learning": {"blend_tau": 1.5}}, "learning.blend_tau: "),
        (
            {"learning": {"blend": "fedu"}, "exchange": {"travels": ["backbone", "buffer"]}},
            'exchange: learning.blend "fedu" chooses between two projectors',
        ),
    ],
)
def test_what_cannot_be_is_said(values: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        build_config(values)
    assert refusal.value.problems[0].startswith(problem)


ROBUST = ["median", "trimmed-mean", "krum", "multi-krum"]


@pytest.mark.parametrize("rule", [*ROBUST, "ldawa", "ldawa-normalised"])
@pytest.mark.parametrize("optimiser", [None, "fedavgm", "fedadam"])
def test_late_updates_do_not_silently_count_in_full(rule: str, optimiser: str | None) -> None:
    values: dict[str, Any] = {"aggregator": rule}
    if optimiser:
        values = {"aggregator": optimiser, "aggregation": {"over": rule}}
    build_config(values)
    for staleness in ("polynomial", "hinge"):
        late = {"enabled": True, "staleness": staleness}
        with pytest.raises(ConfigError) as caught:
            build_config({**values, "asynchronous": late})
        (problem,) = caught.value.problems
        shown = f"{optimiser} over {rule}" if optimiser else rule
        assert problem.startswith(
            f"asynchronous.discounts: {shown} does not weigh updates by how late they are"
        )
        assert 'set discounts = "step"' in problem
        assert problem.endswith("(got 'weight')")
        build_config({**values, "asynchronous": {**late, "discounts": "step"}})
    build_config({**values, "asynchronous": {"enabled": True, "staleness": "constant"}})


@pytest.mark.parametrize("rule", ["fedavg", "fedvssl", "fedavgm", "fedadagrad", "fedyogi", "fedadam"])
def test_rules_over_means_discount_late_updates(rule: str) -> None:
    build_config({"aggregator": rule, "asynchronous": {"enabled": True}})


def test_mistakes_beside_lateness_are_said_once() -> None:
    for values in ({"aggregation": 3}, {"aggregator": "mode"}, {"aggregation": {"memory": 1}}):
        with pytest.raises(ConfigError) as caught:
            build_config({"aggregator": "median", "asynchronous": {"enabled": True}, **values})
        assert len(caught.value.problems) == 1
    with pytest.raises(ConfigError, match="asynchronous"):
        build_config({"aggregator": "median", "asynchronous": 3})


PRIVATE = {"noise_multiplier": 1.0, "clip": 1.0, "updates": 10, "epsilon": 1.0, "delta": 1e-3}
ODD: list[Any] = [
    [],
    ["fedavg"],
    [[1]],
    {},
    {"a": 1},
    "x",
    "",
    True,
    -1,
    1.5,
    float("inf"),
    float("nan"),
    2**64,
]
"""What TOML can have in any place."""


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_any_value_in_any_place_is_taken_or_a_mistake(odd: Any) -> None:
    whole = {**build_config({"privacy": PRIVATE}).model_dump(mode="json", exclude_none=True), "plugins": []}
    whole = {**whole, "aggregator": "fedavgm", "aggregation": {"over": "fedavg", "over_settings": {}}}
    for key, value in whole.items():
        inside = value if isinstance(value, dict) else {}
        changes = [odd, *({**inside, name: odd} for name in inside)]
        for changed in changes:
            with suppress(ConfigError):
                build_config({**whole, key: changed})


def test_a_list_of_aggregators_is_a_mistake(tmp_path: Path, pocketfed: Callable[..., Shown]) -> None:
    """In one's own configuration, and in that of a bundle of somebody else."""
    expected = "aggregator: input should be a valid string (got ['fedavg'])"
    with pytest.raises(ConfigError) as caught:
        build_config({"aggregator": ["fedavg"]})
    assert caught.value.problems == (expected,)
    contents = Contents(
        SPEC, LAYOUT, np.zeros(SPEC.weights, np.float32), 'aggregator = ["fedavg"]', {PROGRAM: b""}
    )
    shown = pocketfed("verify", write_bundle(tmp_path / "bundle", contents).folder)
    assert (shown.code, shown.err) == (2, f"Error: {expected}\n")


def test_what_travels_is_in_one_order() -> None:
    config = build_config({"exchange": {"travels": ["buffer", "backbone", "buffer"]}})
    assert travel_of(config).roles == (Role.BACKBONE, Role.BUFFER)


def test_shares_must_not_exceed_one() -> None:
    with pytest.raises(ConfigError, match="add up to more than 1"):
        build_config({"fleet": {"photos_only": 0.7, "sounds_only": 0.7}})


def test_flags_go_over_the_file_and_absent_flags_do_not() -> None:
    values = {"rounds": 3, "fleet": {"phones": 4}}
    config = build_config(overlay(values, {"rounds": 7, "fleet.alpha": 2.0, "fleet.phones": None, "seed": 0}))
    assert (config.rounds, config.fleet.phones, config.fleet.alpha, config.seed) == (7, 4, 2.0, 0)
    assert values == {"rounds": 3, "fleet": {"phones": 4}}


def test_what_is_written_is_what_was_meant(tmp_path: Path) -> None:
    config = build_config(
        {"captures": {"photos": "/somewhere/a b"}, "learning": {"mode": "mixed"}, "seed": 9}
    )
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert build_config(read_toml(tmp_path / "config.toml")) == config


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[captures]\nphotos = "album"\nsounds = "/abs"\n')
    config = build_config(read_toml(tmp_path / "c.toml"))
    assert config.captures.photos == tmp_path / "album"
    assert config.captures.sounds == Path("/abs")


def test_files_that_are_no_toml_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml cannot be read"):
        read_toml(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("rounds = = 3")
    with pytest.raises(ConfigError, match=r"bad\.toml is no valid TOML"):
        read_toml(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 5000,
        "[[x]]\na" + ".a" * 5000 + " = 1",
        "rounds = 0x" + "f" * 10_000,
        '[captures]\nphotos = "a\\u0000b"',
        'plugins = ["a\\u0000b"]',
    ],
)
def test_a_file_of_anybody_is_a_mistake_and_no_traceback(text: str, tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"odd\.toml is no valid TOML: it |'a\\x00b' is no path"):
        build_config(read_toml(tmp_path / "odd.toml"))


def test_keys_are_shown_and_not_obeyed() -> None:
    with pytest.raises(ConfigError) as raised:
        build_config({"a\x1b[2J\nall is well": 1})
    (problem,) = raised.value.problems
    assert problem.isprintable()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    build_config(read_toml(path))


def test_a_flag_over_a_table_that_is_none_is_a_mistake_of_the_file() -> None:
    with pytest.raises(ConfigError, match="fleet"):
        build_config(overlay({"fleet": 3}, {"fleet.phones": 5}))
