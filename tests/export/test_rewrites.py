"""Advice names operators that exist, and reaches the user by the operator's full name."""

import torch

from pocketfed.export.rewrites import GENERAL, REWRITES, advice


def test_every_operator_exists() -> None:
    assert [name for name in REWRITES if not hasattr(torch.ops.aten, name)] == []


def test_names_with_overloads_find_their_advice() -> None:
    assert advice("aten.cumsum.default") == REWRITES["cumsum"]
    assert advice("aten.index.Tensor") == REWRITES["index"]
    assert advice("aten.something_else.default") == advice("getitem") == GENERAL
