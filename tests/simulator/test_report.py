"""The page of a run: its numbers are those of the records, and nothing in it can run or be fetched."""

import math
import re
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pocketfed.core.embedding_map import EmbeddingMap
from pocketfed.core.modality import Modality
from pocketfed.simulator.report import COLOURS, REST, assign_colours, write_report
from pocketfed.simulator.run_folder import RunFolder, read_metrics

VOID = {"meta", "link", "br"}
CLOSED = {"path", "circle", "rect", "polyline"}


def record(number: int, **more: Any) -> dict[str, Any]:
    known = {
        "round": number,
        "loss": {"photo": 3.25 - number / 10, "sound": 2.5 - number / 10} if number else {},
        "phones": 10,
        "failures": 0,
        "failed": [],
        "bytes_down": 19_000_000,
        "bytes_up": 17_000_000,
        "seconds": 6.125,
    }
    return known | more


RECORDS = [
    record(0, knn={"photo": 0.3125, "sound": 0.5}, probe={"photo": 0.36, "sound": 0.7031}),
    record(1, failures=1, failed=[{"phone": 4, "reason": "update is not finite"}]),
    record(2, knn={"photo": 0.42, "sound": 0.61}, probe={"photo": 0.39, "sound": 0.75}),
    record(3),
    record(4, knn={"photo": 0.405, "sound": 0.6789}, probe={"photo": 0.48, "sound": 0.6821}),
]


def embedding_map(labels: Sequence[str], modality: Modality = Modality.PHOTO) -> EmbeddingMap:
    points = np.random.default_rng(0).normal(size=(len(labels), 2)).astype(np.float32)
    return EmbeddingMap(points, (modality,) * len(labels), tuple(labels))


def page(
    folder: Path,
    records: Sequence[Mapping[str, Any]] = RECORDS,
    summary: Mapping[str, str] | None = None,
    before: EmbeddingMap | None = None,
    after: EmbeddingMap | None = None,
    title: str = "A run",
) -> str:
    path = write_report(
        folder, title=title, summary=summary or {}, records=records, before=before, after=after
    )
    assert [child.name for child in folder.iterdir()] == ["report.html"]
    text = path.read_text("utf-8")
    Checked().feed(text)
    return text


class Checked(HTMLParser):
    """Refuses tags that do not match, ids that clash, and anything that would be run or fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        assert tag not in {"script", "link", "img", "iframe", "object", "use", "image"}
        assert not [name for name in named if name.startswith("on") or name in ("src", "href", "xlink:href")]
        if "id" in named:
            assert named["id"] not in self.ids
            self.ids.add(str(named["id"]))
        if tag == "svg":
            assert named.get("aria-hidden") == "true" or named.get("aria-label") or "ul" in self.open
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in CLOSED
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def headline(text: str) -> list[list[str]]:
    """The cells of the headline's lines: metric, untrained, trained, gain, best."""
    tables = re.findall(r'<table class="headline">(.*?)</table>', text, re.DOTALL)
    lines = [line for table in tables for line in re.findall(r"<tr>(.*?)</tr>", table)[1:]]
    return [
        [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?>.*?</t[hd]>", line)] for line in lines
    ]


def test_every_number_of_the_headline_is_in_the_records(tmp_path: Path) -> None:
    expected = []
    for modality in ("photo", "sound"):
        for key, name in (("knn", "k-NN"), ("probe", "linear probe")):
            first, last = RECORDS[0][key][modality], RECORDS[4][key][modality]
            gain = f"{100 * (last - first):+.1f}".replace("-", "−")
            best, at = max((r[key][modality], -r["round"]) for r in (RECORDS[2], RECORDS[4]))
            expected.append(
                [name, f"{100 * first:.1f} %", f"{100 * last:.1f} %", gain, f"{100 * best:.1f} % round {-at}"]
            )
    text = page(tmp_path)
    assert headline(text) == expected
    assert expected[3][3] == "−2.1"  # a loss is shown as one
    assert "round 4" in text
    assert "this seed's untrained encoder" in text


def test_the_order_of_the_records_does_not_matter_and_the_last_of_a_round_counts(tmp_path: Path) -> None:
    stale = record(4, knn={"photo": 0.99, "sound": 0.99})
    assert page(tmp_path, [stale, *reversed(RECORDS)]) == page(tmp_path)


def test_metrics_judged_in_different_rounds_say_so(tmp_path: Path) -> None:
    text = page(tmp_path, [*RECORDS, record(5, probe={"photo": 0.5})])
    assert headline(text)[:2] == [
        ["k-NN", "31.2 %", "40.5 % round 4", "+9.3", "42.0 % round 2"],
        ["linear probe", "36.0 %", "50.0 % round 5", "+14.0", "50.0 % round 5"],
    ]


def test_a_gain_that_rounds_to_nothing_has_no_sign(tmp_path: Path) -> None:
    text = page(tmp_path, [record(0, knn={"photo": 0.4}), record(1, knn={"photo": 0.3999})])
    assert headline(text) == [["k-NN", "40.0 %", "40.0 %", "0.0", "40.0 % round 1"]]


def test_without_round_0_there_is_no_gain(tmp_path: Path) -> None:
    assert headline(page(tmp_path, RECORDS[4:]))[0] == ["k-NN", "–", "40.5 %", "–", "40.5 % round 4"]


def test_same_inputs_same_bytes(tmp_path: Path) -> None:
    drawn = embedding_map(["cat", "dog", ""] * 20)
    first = page(tmp_path, summary={"seed": "0"}, before=drawn, after=drawn)
    assert page(tmp_path, summary={"seed": "0"}, before=drawn, after=drawn) == first


def test_nothing_is_fetched(tmp_path: Path) -> None:
    text = page(tmp_path, summary={"seed": "0"}, before=embedding_map(["a"]), after=embedding_map(["b"]))
    assert not re.search(r"https?://|//\w|url\(|@import|<script", text)
    assert "default-src 'none'" in text


def test_what_users_name_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('\"&')</script>"
    failed = [{"phone": 1, "reason": evil}]
    text = page(
        tmp_path,
        [record(0), record(1, failures=1, failed=failed)],
        summary={evil: evil},
        before=embedding_map([evil, "ok"]),
        after=embedding_map([evil, "ok"], Modality.SOUND),
        title=evil,
    )
    assert evil not in text
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&#39;&#34;&amp;&#39;)") >= 8


def test_a_class_whose_name_is_not_text_does_no_harm(tmp_path: Path) -> None:
    assert "caf?" in page(tmp_path, after=embedding_map(["caf\udce9", "ok"]))


@pytest.mark.parametrize(("kept", "gone"), [("photo", "sounds"), ("sound", "photos")])
def test_one_modality(tmp_path: Path, kept: str, gone: str) -> None:
    records = [
        {
            name: {kept: value[kept]} if isinstance(value, dict) and value else value
            for name, value in entry.items()
        }
        for entry in RECORDS
    ]
    text = page(tmp_path, records)
    assert len(headline(text)) == 2
    assert f"Training loss, {gone}" not in text
    assert f"Loss, {gone}" not in text


def test_no_labels(tmp_path: Path) -> None:
    unlabelled = embedding_map([""] * 9)
    text = page(tmp_path, [record(0), record(1), record(2)], before=unlabelled, after=unlabelled)
    assert headline(text) == []
    assert "no accuracy to report" in text
    assert "Training loss, photos" in text
    assert "Accuracy," not in text
    assert "its colour is its class" not in text


def test_only_the_untrained_encoder(tmp_path: Path) -> None:
    text = page(tmp_path, RECORDS[:1], before=embedding_map(["a", "b"]))
    assert "No round has finished yet." in text
    assert headline(text)[0] == ["k-NN", "31.2 %", "–", "–", "–"]
    assert "Untrained encoder" in text
    assert "Trained encoder" not in text


def test_no_records(tmp_path: Path) -> None:
    assert "No round has finished yet." in page(tmp_path, [])


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    assert "Unfinished: 4 of 20 rounds so far." in page(tmp_path, summary={"rounds": "20"})
    assert "Unfinished" not in page(tmp_path, summary={"rounds": "4"})
    assert "Unfinished" not in page(tmp_path, summary={"rounds": "until the battery is empty"})


def test_rounds_and_failures_are_listed(tmp_path: Path) -> None:
    text = page(tmp_path)
    cells = [f"<td>{value}</td>" for value in ("3.150", "2.400", "10", "1", "19.0", "17.0", "6.1")]
    assert f'<tr><th scope="row">1</th>{"".join(cells)}</tr>' in text
    assert '<tr><th scope="row">1</th><td>4</td><td>update is not finite</td></tr>' in text
    assert "76.0 MB" in text  # four rounds; round 0 sends nothing


def test_failures_without_a_reason_are_counted(tmp_path: Path) -> None:
    assert "2 without a recorded reason." in page(tmp_path, [record(1, failures=2)])
    assert "every round" in page(tmp_path, [record(1)])


def test_a_loss_that_is_not_finite_is_named_and_not_drawn(tmp_path: Path) -> None:
    text = page(tmp_path, [record(1), record(2, loss={"photo": math.nan, "sound": math.inf}), record(3)])
    assert text.count("<td>not finite</td>") == 2
    assert "nan" not in text
    assert "2 values are left out of the curves" in text
    assert "left out of the curves" not in page(tmp_path)


@pytest.mark.parametrize("value", [1e308, -1e308, 1.7e308, math.inf, -math.inf, math.nan])
def test_a_loss_too_large_to_draw_is_left_out(tmp_path: Path, value: float) -> None:
    text = page(tmp_path, [record(1), record(2, loss={"photo": value, "sound": 1.0}), record(3)])
    assert "1 value is left out of the curves" in text
    curves = re.findall(r'<polyline points="(.*?)"', text)
    assert [len(points.split()) for points in curves] == [2, 3]


@pytest.mark.parametrize(
    "values", [(1e300, -1e300), (1e300, 1e300), (-1e300, -1e300), (-1e300, 0.0), (5e-324, 0.0)]
)
def test_the_largest_losses_that_are_drawn(tmp_path: Path, values: tuple[float, float]) -> None:
    records = [record(number, loss={"photo": value}) for number, value in enumerate(values, start=1)]
    text = page(tmp_path, records)
    assert "left out of the curves" not in text
    assert not re.search(r"\b(nan|inf)\b", text)


def test_a_run_without_any_finite_value_says_so(tmp_path: Path) -> None:
    nothing = {"photo": math.nan}
    records = [record(0, knn=nothing, probe=nothing), record(1, loss=nothing, knn=nothing, seconds=math.inf)]
    text = page(tmp_path, records)
    assert "4 values are left out of the curves" in text
    assert "<polyline" not in text
    assert not re.search(r"\b(nan|inf)\b", text)


def test_an_accuracy_that_is_not_finite_is_named(tmp_path: Path) -> None:
    text = page(tmp_path, [*RECORDS, record(5, knn={"photo": math.nan, "sound": math.inf})])
    assert headline(text) == headline(page(tmp_path))
    assert not re.search(r"\b(nan|inf)\b", text)


@pytest.mark.parametrize(
    "damaged",
    [
        b'{"round": 1, "lo',
        b'{"loss": {}}',
        b'{"round": "1"}',
        b'{"round": 1.0}',
        b'{"round": true}',
        b'{"round": null}',
        b"[1]",
        b"1",
        b"null",
        b'{"round": 1, "name": "\xff\xfe"}',
        b"\xff\xfe\x00",
        b"\x00\x00\x00",
        b'{"round": 1, "loss": {"photo": NaN}}',
        b'{"round": 1, "loss": {"photo": 1e999}}',
        b"[" * 100_000,
        b"1" * 5000,
        b"",
    ],
)
def test_metrics_are_read_up_to_a_damaged_line(tmp_path: Path, damaged: bytes) -> None:
    folder = RunFolder(tmp_path)
    assert read_metrics(folder, 9) == []
    folder.metrics.write_bytes(b'{"round": 0}\n' + damaged + b'\n{"round": 2}\n')
    assert read_metrics(folder, 9) == [{"round": 0}]


def test_a_long_run_and_a_flat_curve(tmp_path: Path) -> None:
    text = page(tmp_path, [record(number, loss={"photo": 2.0}) for number in range(1, 1001)])
    assert text.count("<circle") == 0
    assert "2.000 in round 1000" in text


def test_a_collapsed_map_is_drawn(tmp_path: Path) -> None:
    one_point = EmbeddingMap(np.zeros((3, 2), np.float32), (Modality.SOUND,) * 3, ("a", "b", "c"))
    assert "M200.0 156.0" in page(tmp_path, after=one_point)


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk full")

    text = page(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", refuse)
        with pytest.raises(OSError, match="disk full"):
            page(tmp_path, title="Another run")
    assert [child.name for child in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text("utf-8") == text


def test_colours_are_shared_only_when_they_must_be() -> None:
    photos = [(Modality.PHOTO, f"p{index:02}") for index in range(8)]
    sounds = [(Modality.SOUND, f"s{index:02}") for index in range(8)]
    both = [(Modality.PHOTO, "dog"), (Modality.SOUND, "dog")]
    few = assign_colours(photos[:4] + sounds[:4] + both)
    assert len(set(few.values())) == 9
    assert few[both[0]] == few[both[1]]
    more = assign_colours(photos + sounds + both)
    for modality in Modality:
        assert len({colour for group, colour in more.items() if group[0] == modality}) == 9
    assert REST not in more.values()
    many = assign_colours([(Modality.PHOTO, f"p{index:02}") for index in range(30)])
    assert sorted(set(many.values())) == sorted({*COLOURS, REST})
    assert len(set(assign_colours([(Modality.PHOTO, ""), (Modality.SOUND, "")]).values())) == 2
