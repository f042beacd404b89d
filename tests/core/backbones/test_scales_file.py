"""Files of FedRepOpt's constants: what is written is read, what is shipped fits, and what is neither is refused."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from pocketfed.core.backbones import BACKBONES, build_backbone, ghost, repvgg
from pocketfed.core.backbones.linear_branches import Form, Multiplied, ScaledSum, Scales
from pocketfed.core.backbones.scales_file import (
    SHIPPED,
    about_scales,
    read_scales,
    shipped_scales,
    write_scales,
)
from pocketfed.core.errors import ConfigError


def scales(kernels: list[int]) -> list[Scales]:
    """One block for each number of kernels, of 2, 3, ... channels."""
    return [
        Scales(tuple(torch.randn(width) for _ in range(count)), torch.randn(width))
        for width, count in enumerate(kernels, 2)
    ]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=12))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, kernels: list[int]) -> None:
    path, written = tmp_path_factory.mktemp("scales") / "s.safetensors", scales(kernels)
    write_scales(path, written, {"seed": "3"})
    for ours, theirs in zip(read_scales(path), written, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours.kernels, theirs.kernels, strict=True))
        assert torch.equal(ours.identity, theirs.identity)
    assert about_scales(path) == {"seed": "3"}


def test_what_holds_no_scales_is_refused(tmp_path: Path) -> None:
    foreign, gap = tmp_path / "foreign.safetensors", tmp_path / "gap.safetensors"
    save_file({"weights": torch.zeros(3).numpy()}, foreign)
    save_file({"1.kernel0": torch.zeros(3).numpy(), "1.identity": torch.zeros(3).numpy()}, gap)
    with pytest.raises(ConfigError, match=r"absent\.safetensors cannot be read as scales"):
        read_scales(tmp_path / "absent.safetensors")
    with pytest.raises(ConfigError, match="holds no scales"):
        read_scales(foreign)
    with pytest.raises(ConfigError, match=r"lacks '0\.identity'"):
        read_scales(gap)


def test_scales_of_another_network_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="scales of 2 blocks with 2, 3 channels do not fit a network of 8 blocks"
    ):
        repvgg.RepVgg(repvgg.PHONE, Form.REPOPT, scales([2, 2]))
    with pytest.raises(ConfigError, match="do not fit a network of 18 blocks"):
        ghost.Ghost(ghost.PHONE, Form.CSLA, scales([1]))


@pytest.mark.parametrize("family", ["repvgg", "ghost"])
def test_the_phone_size_has_the_scales_of_the_shipped_search(family: str) -> None:
    """The bare name and its branches; `-initial` has those with which a search begins, as every published size."""
    found = shipped_scales(family)
    assert all(bool(part.isfinite().all()) for own in found for part in (*own.kernels, own.identity))
    assert about_scales(SHIPPED / f"{family}.safetensors")["backbone"] == family

    def kernels(name: str) -> list[torch.Tensor]:
        parts = [p for p in build_backbone(name)[0].modules() if isinstance(p, (Multiplied, ScaledSum))]
        return [scale.detach() for part in parts for scale in part.scales.each()]

    expected = [kernel for own in found for kernel in own.kernels]
    begun = kernels(f"{family}-hs")
    for name, wanted in ((family, expected), (f"{family}-csla", expected), (f"{family}-initial", begun)):
        assert all(torch.equal(a, b) for a, b in zip(kernels(name), wanted, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(expected, begun, strict=True))


def test_all_scales_that_are_shipped_are_of_a_backbone() -> None:
    assert {path.stem for path in SHIPPED.iterdir()} == {
        name.removesuffix("-initial") for name in BACKBONES if name.endswith("-initial")
    }
