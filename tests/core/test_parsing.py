"""JSON and TOML of strangers: what Python's own readers end a process on is an ordinary mistake."""

from collections.abc import Callable

import pytest

from pocketfed.core.parsing import DEEPEST, parse_json, parse_toml, whole


def test_what_an_honest_file_has_is_read() -> None:
    assert parse_json(b'{"a": [1, {"b": [null, 2.5, "c"]}]}') == {"a": [1, {"b": [None, 2.5, "c"]}]}
    assert parse_json("7") == 7
    assert parse_toml("a = 1\n[b]\nc = [1, {d = 2}]") == {"a": 1, "b": {"c": [1, {"d": 2}]}}
    nested = "[" * DEEPEST + "]" * DEEPEST
    assert str(parse_json(nested)) == nested


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (parse_json, "[" * 100_000),
        (parse_json, '{"a":' * 100_000),
        (parse_json, "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1)),
        (parse_json, '{"a":' * 200 + "1" + "}" * 200),
        (parse_toml, "x = " + "[" * 100_000),
        (parse_toml, "x = " + "[" * 200 + "]" * 200),
        (parse_toml, "a" + ".a" * 5000 + " = 1"),
        (parse_toml, "[[x]]\na" + ".a" * 5000 + " = 1"),
    ],
)
def test_nothing_is_nested_deeper_than_can_be_walked_through(
    parse: Callable[[str], object], text: str
) -> None:
    with pytest.raises(ValueError, match=f"nested more than {DEEPEST} deep"):
        parse(text)


@pytest.mark.parametrize(
    ("parse", "text"), [(parse_json, '{"a": [1' + "0" * 400 + "]}"), (parse_toml, "a = 0x" + "f" * 10_000)]
)
def test_no_number_is_larger_than_can_be_computed_with(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match="a number of more than 64 bits"):
        parse(text)


def test_a_whole_number_is_no_fraction_text_or_truth_value() -> None:
    assert [whole(value, "size") for value in (0, 7, 2**64)] == [0, 7, 2**64]
    for value in (-1, 2.9, 3.0, float("inf"), True, "5", None, [1]):
        with pytest.raises(ValueError, match=r"is no size$"):
            whole(value, "size")
    with pytest.raises(ValueError, match=r"^0 is no version$"):
        whole(0, "version", least=1)
