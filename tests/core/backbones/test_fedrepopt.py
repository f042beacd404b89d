"""FedRepOpt: one kernel with multiplied gradients is trained exactly as the branches that it stands for."""

import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketfed.core.backbones import BACKBONES, ghost, repvgg
from pocketfed.core.backbones.folding import fuse
from pocketfed.core.backbones.linear_branches import (
    Branches,
    Form,
    Multiplied,
    ScaledSum,
    Scales,
    linear,
    searched,
)
from pocketfed.core.errors import ConfigError
from pocketfed.core.gradient_multipliers import gradient_multipliers
from pocketfed.core.learning_step import learn_from_views
from pocketfed.core.learning_task import LearningTask, initial_weights, learning_task
from pocketfed.core.modality import Modality
from pocketfed.core.optimisers import NESTEROV, SGD, Optimiser, Rates, choose_optimiser
from pocketfed.core.views import PhotoView
from tests.core.backbones.networks import parameters, shake_norms

VGG = repvgg.Size((6, 8), (2, 3), (2, 2), nn.SiLU)
GHOST = replace(ghost.PHONE, width=0.5, rows=((3, 8, 12, True, 1), (3, 16, 12, False, 1)), stride=2, tail=32)
BATCH = 6
RATES = {
    "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01, "proximal": 0.1, "temperature": 0.5,
}  # fmt: skip


def built(family: str, form: Form, scales: list[Scales] | None = None) -> nn.Module:
    return repvgg.RepVgg(VGG, form, scales) if family == "repvgg" else ghost.Ghost(GHOST, form, scales)


@pytest.fixture(params=["repvgg", "ghost"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tasks(family: str, monkeypatch: pytest.MonkeyPatch) -> dict[Form, LearningTask]:
    return {form: small_task(family, form, monkeypatch) for form in Form}


def small_task(
    family: str, form: Form, patch: pytest.MonkeyPatch, optimiser: Optimiser = SGD
) -> LearningTask:
    name, features = f"small-{family}-{form}", built(family, form).features
    assert isinstance(features, int)
    patch.setitem(BACKBONES, name, (partial(built, family, form), features))
    return learning_task(name, {Modality.PHOTO: PhotoView(side=16)}, BATCH, optimiser)


def precise(task: LearningTask) -> LearningTask:
    """The task in float64, its constants squared in float64 as well."""
    encoder = copy.deepcopy(task.encoder).double()
    return replace(task, encoder=encoder, multipliers=gradient_multipliers(encoder, task.layout))


def collapsed(task: LearningTask, theta: Tensor, into: LearningTask) -> Tensor:
    """Weights of a `csla` as weights of the network with one kernel in its place."""
    encoder = copy.deepcopy(task.encoder).to(theta.dtype)
    task.layout.load(encoder, theta)
    tensors = task.layout.values(encoder)
    for name, part in encoder.named_modules():
        if isinstance(part, ScaledSum):
            tensors = {key: value for key, value in tensors.items() if not key.startswith(f"{name}.")}
            (tensors[f"{name}.conv.weight"],) = part.fused().state_dict().values()
    return into.layout.pack(tensors)


def trained(task: LearningTask, theta: Tensor, steps: int = 10, seed: int = 0) -> Tensor:
    """After that many steps on random views, with a momentum that begins at zero."""
    rates = {name: torch.tensor(value) for name, value in RATES.items()}
    state, anchor = torch.zeros(task.state_size, dtype=theta.dtype), theta
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        views = torch.randn(2 * BATCH, 3, 16, 16, generator=generator).to(theta.dtype)
        valid = [torch.ones(BATCH, dtype=theta.dtype)]
        _, theta, state = learn_from_views(task, theta, state, anchor, [views], valid, rates)
    return theta


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def start(task: LearningTask, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(initial_weights(task, 5)).to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("optimiser", [SGD, NESTEROV])
def test_ten_steps_equal_those_of_the_branches_and_plain_sgd_does_not(
    family: str, monkeypatch: pytest.MonkeyPatch, optimiser: Optimiser, dtype: torch.dtype, tolerance: float
) -> None:
    """With momentum, weight decay and the proximal term."""
    branches = small_task(family, Form.CSLA, monkeypatch, optimiser)
    multiplied = small_task(family, Form.REPOPT, monkeypatch, optimiser)
    if dtype is torch.float64:
        branches, multiplied = precise(branches), precise(multiplied)
    first = collapsed(branches, start(branches, dtype), multiplied)
    assert distance(first, start(multiplied, dtype)) < 1e-7  # the same function from the same seed
    expected = collapsed(branches, trained(branches, start(branches, dtype)), multiplied)
    moved = trained(multiplied, first) - first
    assert distance(first + moved, expected) < tolerance
    assert distance(moved, expected - first) < 10 * tolerance
    plain = trained(replace(multiplied, multipliers=None), first)
    assert distance(plain, expected) > 1e-3


def test_a_federation_keeps_the_equality(tasks: dict[Form, LearningTask]) -> None:
    """Three phones of different weight, three rounds of FedAvg over all weights and running statistics."""
    branches, multiplied = precise(tasks[Form.CSLA]), precise(tasks[Form.REPOPT])
    shares = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    theta = start(branches, torch.float64)
    whole = plain = collapsed(branches, theta, multiplied)

    def averaged(task: LearningTask, theta: Tensor, turn: int) -> Tensor:
        phones = [trained(task, theta, 2, seed=3 * turn + phone) for phone in range(3)]
        return torch.einsum("k, kp -> p", shares, torch.stack(phones))

    for turn in range(3):
        theta, whole = averaged(branches, theta, turn), averaged(multiplied, whole, turn)
        plain = averaged(replace(multiplied, multipliers=None), plain, turn)
        assert distance(whole, collapsed(branches, theta, multiplied)) < 1e-12
    assert distance(plain, whole) > 1e-3


@pytest.mark.parametrize(
    "branches", [Branches(4, 4, (3, 1)), Branches(3, 5, (3, 1)), Branches(4, 4, (3, 1), stride=2), Branches(4, 4, (5, 3), groups=2), Branches(4, 4, (3,), groups=4)]
)  # fmt: skip
def test_multipliers_number_by_number(branches: Branches) -> None:
    generator = torch.Generator().manual_seed(0)
    scales = Scales(
        tuple(torch.rand(branches.outputs, generator=generator) for _ in branches.kernels),
        torch.rand(branches.outputs, generator=generator),
    )
    part = linear(branches, Form.REPOPT, scales)
    assert isinstance(part, Multiplied)
    found = part.gradient_multipliers()["conv.weight"]
    assert found.shape == part.conv.weight.shape
    middle = branches.kernels[0] // 2
    for (o, i, a, b), value in np.ndenumerate(found.numpy()):
        reach = max(abs(a - middle), abs(b - middle))
        expected = sum(
            float(scale[o]) ** 2
            for kernel, scale in zip(branches.kernels, scales.kernels, strict=True)
            if reach <= kernel // 2
        )
        first_input = o // (branches.outputs // branches.groups) * (branches.inputs // branches.groups)
        if branches.identity and reach == 0 and first_input + i == o:
            expected += 1.0
        assert value == pytest.approx(expected, rel=1e-6)


def test_branches_are_the_sum_that_they_say() -> None:
    torch.manual_seed(0)
    scales = Scales((torch.rand(4), torch.rand(4)), torch.rand(4))
    part = linear(Branches(4, 4, (3, 1)), Form.CSLA, scales)
    assert isinstance(part, ScaledSum)
    x = torch.randn(2, 4, 6, 7)
    three, one = part.convolutions
    expected = (
        scales.kernels[0].reshape(4, 1, 1) * functional.conv2d(x, three.weight, padding=1)  # type: ignore[arg-type]
        + scales.kernels[1].reshape(4, 1, 1) * functional.conv2d(x, one.weight)  # type: ignore[arg-type]
        + scales.identity.reshape(4, 1, 1) * x
    )
    assert torch.allclose(part(x), expected, atol=1e-6)


def test_published_sizes_have_the_published_counts() -> None:
    """200 classes; the paper's programs count the constants of a csla as weights."""
    vgg, small = 2048 * 200 + 200, 1280 * 200 + 200
    with torch.device("meta"):
        for form, vggs, ghosts in (
            (Form.TARGET, 50_202_632, 1_284_208),
            (Form.REPOPT, 50_202_632, 1_284_208),
            (Form.REP, 55_800_520, 1_289_168),
            (Form.HS, 55_766_472, 1_289_168),
        ):
            assert parameters(repvgg.b1(form)) + vgg == vggs
            assert parameters(ghost.half(form)) + small == ghosts
        for searching, fixed in (
            (repvgg.b1("hs"), repvgg.b1("csla")),
            (ghost.half("hs"), ghost.half("csla")),
        ):
            constants = sum(part.numel() for name, part in fixed.named_buffers() if "scales" in name)
            assert parameters(searching) == parameters(fixed) + constants
        theirs = timm.create_model("repghostnet_050", num_classes=200)
    assert parameters(theirs) == 1_289_168


def test_a_phone_sends_no_more_than_the_plain_network(tasks: dict[Form, LearningTask]) -> None:
    size = {form: task.layout.size for form, task in tasks.items()}
    assert size[Form.REPOPT] == size[Form.TARGET] < size[Form.CSLA] < size[Form.REP]
    assert [form for form, task in tasks.items() if task.multipliers is not None] == [Form.REPOPT]
    assert not any("scales" in part.name for part in tasks[Form.CSLA].layout.slices)


def test_a_search_moves_all_scales_and_its_result_is_what_others_are_built_with(
    tasks: dict[Form, LearningTask], family: str
) -> None:
    task = tasks[Form.HS]
    before = list(searched(task.encoder))
    found = copy.deepcopy(task.encoder)
    task.layout.load(found, trained(task, start(task, torch.float32), 3))
    scales = list(searched(found))
    for old, new in zip(before, scales, strict=True):
        assert all(bool((a != b).all()) for a, b in zip(old.kernels, new.kernels, strict=True))
    torch.manual_seed(0)
    branches = built(family, Form.CSLA, scales)
    torch.manual_seed(0)
    whole = built(family, Form.REPOPT, scales)
    x = torch.randn(2, 3, 16, 16)
    assert torch.allclose(branches(x), whole(x), atol=1e-5)
    first = next(part for part in branches.modules() if isinstance(part, ScaledSum))
    assert torch.equal(first.present().kernels[0], scales[0].kernels[0])


@pytest.mark.parametrize("form", [Form.CSLA, Form.REP, Form.HS])
def test_branches_fuse_into_one_convolution(family: str, form: Form) -> None:
    torch.manual_seed(0)
    network = built(family, form).eval().double()
    shake_norms(network)
    fused = fuse(network)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    assert (fused(x) - network(x)).abs().max() < 1e-10 * network(x).abs().max()
    assert parameters(fused) < parameters(network)


def test_constants_before_a_search() -> None:
    every = [part.present().kernels[0][0].item() for part in repvgg.RepVgg(VGG, Form.CSLA).modules() if isinstance(part, ScaledSum)]  # fmt: skip
    assert every == pytest.approx([1.0, 1.0, 1.0, 1.0, (2 / 3) ** 0.5])
    first = [scales.kernels[0][0].item() for scales in ghost.constants(ghost.HALF)[:6]]
    assert first == pytest.approx([1.0, (2 / 3) ** 0.5, 1.0, (2 / 3) ** 0.5, 0.5**0.5, 0.4**0.5])


def test_rules_that_are_not_linear_are_refused(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """AdamW; and clipped gradients, whose rule cannot say that it is linear: `test_optimisers` checks who does."""

    def clipped(theta: Tensor, gradient: Tensor, state: Tensor, rates: Rates) -> tuple[Tensor, Tensor]:
        size = torch.clamp(gradient.norm(), min=1.0)
        return SGD.update(theta, gradient / size, state, rates)

    clipping = Optimiser("clipping", vectors=1, scalars=0, learning_rate=0.03, update=clipped)
    for optimiser in (choose_optimiser("adamw"), clipping):
        with pytest.raises(ConfigError, match=f"{optimiser.name} is not linear in the gradient; choose sgd"):
            small_task(family, Form.REPOPT, monkeypatch, optimiser)
        assert small_task(family, Form.CSLA, monkeypatch, optimiser).multipliers is None
