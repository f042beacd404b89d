"""A program runs where the runtime is not older than its exporter; what cannot be compared is tried."""

from typing import Any

import pytest

from pocketfed.core.errors import BundleError
from pocketfed.core.runtime_version import check_runtime


@pytest.mark.parametrize(
    ("made", "installed"), [("1.4.1", "1.4.0"), ("1.10", "1.9.3"), ("2", "1.99"), ("1.4.1a0+cpu", "1.4")]
)
def test_an_older_runtime_is_refused(made: str, installed: str) -> None:
    message = rf"there was made with executorch {made.replace('+', '[+]')}, .* older, {installed}; install"
    with pytest.raises(BundleError, match=message):
        check_runtime({"made_with": {"executorch": made}}, installed, "there")


@pytest.mark.parametrize(
    ("made_with", "installed"),
    [
        ({"executorch": "1.4.1"}, "1.4.1"),
        ({"executorch": "1.4.0"}, "1.4"),
        ({"executorch": "1.9"}, "1.10.0"),
        ({"executorch": "1.4.1"}, "1.4.1+cpu"),
        ({"executorch": "1.4.1"}, ""),
        ({"executorch": "1.4.1"}, "main"),
        ({"executorch": "main"}, "1.4.1"),
        ({"executorch": None}, "1.4.1"),
        ({"torch": "99"}, "1.4.1"),
        ("1.9", "1.4.1"),
        (None, "1.4.1"),
    ],
)
def test_others_are_tried(made_with: Any, installed: str) -> None:
    check_runtime({"made_with": made_with}, installed, "there")
    check_runtime({}, installed, "there")
