"""The learning step: raw captures in, loss and new weights out, as one pure function over flat vectors.

This is the artefact. Exported, it is the program that phones run; called directly, it is that program's eager twin.

    captures -> front -> two views -> encoder -> NT-Xent -> backward -> optimiser
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.func import functional_call

from pocketfed.core.hyper import HYPER, Hyper
from pocketfed.core.learning_task import LearningTask
from pocketfed.core.modality import Modality
from pocketfed.core.objectives import nt_xent
from pocketfed.core.optimisers import Rates, multiplied, proximal

TensorFunction: TypeAlias = Callable[..., tuple[Tensor, ...]]

OBJECTIVE = "nt-xent"
"""How manifests call what the step minimises."""


@dataclass(frozen=True)
class Method:
    """A pure tensor function with a name and inputs of fixed shapes; one entry of an exported program.

    Attributes:
        name: `step_photo`, `step_sound`, `step_mixed`, `gradient_photo`, `gradient_sound`, `embed_photo` or
            `embed_sound`.
        function: takes tensors like `example`, returns a tuple of tensors.
        example: inputs of the right shapes and dtypes, distinct tensors with harmless values.
    """

    name: str
    function: TensorFunction
    example: tuple[Tensor, ...]


def step_name(modalities: Sequence[Modality]) -> str:
    """The method that trains on a batch of these modalities."""
    return f"step_{modalities[0]}" if len(modalities) == 1 else "step_mixed"


def share(task: LearningTask, modalities: Sequence[Modality]) -> int:
    """How many captures of each modality one batch holds."""
    return task.batch // len(modalities)


def learning_step(task: LearningTask, modalities: Sequence[Modality]) -> TensorFunction:
    """The step for batches of the given modalities.

    One modality gives the sequential form, whose loss and gradient no other modality can touch. Two give the mixed
    form: each has half of the batch, and views of the other modality are extra negatives.

    The function takes, with b = batch // len(modalities):
        theta: float32 [p], the weights in the task's layout.
        state: float32 [state_size], the optimiser's.
        anchor: float32 [p], the weights with which the round began (for the proximal term).
        for each modality: its captures [b, *capture_shape], then float32 [b, 2, len(noise)], uniform in [0, 1).
        hyper: float32 [7 + len(modalities)], see `Hyper`.
    and returns (loss [], theta' [p], state' [state_size]). It changes none of its inputs.
    """
    size = share(task, modalities)

    def step(theta: Tensor, state: Tensor, anchor: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        *batches, hyper = rest
        rates = dict(zip(HYPER, hyper, strict=False))
        counts = hyper[len(HYPER) :]
        places = torch.arange(size, dtype=torch.float32)
        views, valid = [], []
        for i, modality in enumerate(modalities):
            views.append(_two_views(task, modality, batches[2 * i], batches[2 * i + 1]))
            valid.append(torch.clamp(counts[i] - places, 0.0, 1.0))
        return learn_from_views(task, theta, state, anchor, views, valid, rates)

    return step


def learn_from_views(
    task: LearningTask,
    theta: Tensor,
    state: Tensor,
    anchor: Tensor,
    views: Sequence[Tensor],
    valid: Sequence[Tensor],
    rates: Rates,
) -> tuple[Tensor, Tensor, Tensor]:
    """The part of the step behind augmentation: encoder, objective, gradient, update.

    Args:
        task, theta, state, anchor: as in `learning_step`.
        views: of each modality, float32 [2b, 3, h, w], all first views before all second ones.
        valid: of each modality, float32 [b] of ones and zeros: which captures count.
        rates: the fields of `Hyper`, each float32 [].

    Returns:
        (loss [], theta' [p], state' [state_size]).
    """
    loss, gradient, statistics = gradient_from_views(task, theta, views, valid, rates["temperature"])
    after, state = updated(task, theta, gradient, state, anchor, rates)
    return loss, torch.cat([after, *statistics]), state


def updated(
    task: LearningTask, theta: Tensor, gradient: Tensor, state: Tensor, anchor: Tensor, rates: Rates
) -> tuple[Tensor, Tensor]:
    """The part of the step behind the gradient: the proximal term, then the optimiser.

    Args:
        task, theta, state, anchor, rates: as in `learn_from_views`.
        gradient: float32 [layout.trained], the loss's, times the task's multipliers.

    Returns:
        (the weights that train [layout.trained], state' [state_size]).
    """
    before = theta[: task.layout.trained]
    gradient = proximal(gradient, before, anchor[: task.layout.trained], rates["proximal"])
    return task.optimiser.update(before, gradient, state, rates)


def gradient_from_views(
    task: LearningTask, theta: Tensor, views: Sequence[Tensor], valid: Sequence[Tensor], temperature: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The part of the step that is the same for every optimiser: encoder, objective, gradient.

    Args:
        task, theta, views, valid: as in `learn_from_views`.
        temperature: of the objective, float32 [].

    Returns:
        (loss [], its gradient [layout.trained] times the task's multipliers, new running statistics, each flat).
    """
    tensors, size = task.layout.unpack(theta), len(valid[0])
    # Layers write running statistics in place, so those are copies, and leave the step as its results.
    statistics = {name: tensors.pop(name).clone() for name in task.layout.buffers}
    weights = {name: part.detach().requires_grad_() for name, part in tensors.items()}

    rows = torch.cat([part for part in valid for _ in range(2)])
    projected = functional_call(
        task.encoder, {**weights, **statistics}, (views, rows)
    )  # [2b * modalities, d]
    parts = projected.split(size)  # of each modality, the first views, then the second
    first, second = torch.cat(parts[0::2]), torch.cat(parts[1::2])
    loss = nt_xent(first, second, temperature, torch.cat(list(valid)))

    gradients = torch.autograd.grad(loss, list(weights.values()))
    gradient = multiplied(torch.cat([part.reshape(-1) for part in gradients]), task.multipliers)
    return loss.detach(), gradient, tuple(part.reshape(-1) for part in statistics.values())


def learning_gradient(task: LearningTask, modality: Modality) -> TensorFunction:
    """The step of one modality without its update, for a host that applies one of its own.

    The function takes:
        theta: float32 [p], the weights in the task's layout.
        captures: [batch, *capture_shape].
        noise: float32 [batch, 2, len(noise)], uniform in [0, 1).
        hyper: float32 [8], see `Hyper`; the temperature and the number of captures count.
    and returns (loss [], gradient [layout.trained]) and, where layers have any, new running statistics
    [p - layout.trained]. The gradient is the loss's, times the task's multipliers; the proximal term is not in it.
    """

    def gradient(theta: Tensor, captures: Tensor, noise: Tensor, hyper: Tensor) -> tuple[Tensor, ...]:
        rates = dict(zip(HYPER, hyper, strict=False))
        valid = torch.clamp(hyper[len(HYPER)] - torch.arange(task.batch, dtype=torch.float32), 0.0, 1.0)
        views = _two_views(task, modality, captures, noise)
        loss, slope, statistics = gradient_from_views(task, theta, [views], [valid], rates["temperature"])
        return (loss, slope, torch.cat(statistics)) if statistics else (loss, slope)

    return gradient


def embedding(task: LearningTask, modality: Modality) -> TensorFunction:
    """(theta float32 [p], captures [batch, *capture_shape]) -> (features float32 [batch, features],)."""

    backbone = copy.deepcopy(task.encoder.backbone).eval()  # by running statistics, where it has them

    def embed(theta: Tensor, captures: Tensor) -> tuple[Tensor]:
        view = task.views[modality]
        weights = {
            name.removeprefix("backbone."): part
            for name, part in task.layout.unpack(theta).items()
            if name.startswith("backbone.")
        }
        return (functional_call(backbone, weights, (view.plain(view.front(captures)),)),)

    return embed


def _two_views(task: LearningTask, modality: Modality, captures: Tensor, noise: Tensor) -> Tensor:
    """Two augmented views of each capture, all first ones before all second ones: [2b, 3, h, w]."""
    view = task.views[modality]
    base = view.front(captures)
    return view.draw(torch.cat([base, base]), torch.cat([noise[:, 0], noise[:, 1]]))


def _blank(task: LearningTask, modality: Modality, count: int) -> Tensor:
    dtype = torch.uint8 if modality is Modality.PHOTO else torch.float32
    return torch.zeros((count, *task.views[modality].capture_shape), dtype=dtype)


def step_method(task: LearningTask, modalities: Sequence[Modality]) -> Method:
    """The learning step as a method of a program."""
    size, weights = share(task, modalities), task.layout.size
    example = [torch.zeros(weights), torch.zeros(task.state_size), torch.zeros(weights)]
    for modality in modalities:
        noise = torch.full((size, 2, len(task.views[modality].noise)), 0.5)
        example += [_blank(task, modality, size), noise]
    hyper = torch.from_numpy(Hyper().vector([size] * len(modalities)))
    return Method(step_name(modalities), learning_step(task, modalities), (*example, hyper))


def gradient_method(task: LearningTask, modality: Modality) -> Method:
    """The step of one modality without its update, as a method of a program."""
    theta, _, _, captures, noise, hyper = step_method(task, [modality]).example
    return Method(f"gradient_{modality}", learning_gradient(task, modality), (theta, captures, noise, hyper))


def embed_method(task: LearningTask, modality: Modality) -> Method:
    """The embedding of one modality as a method of a program."""
    example = (torch.zeros(task.layout.size), _blank(task, modality, task.batch))
    return Method(f"embed_{modality}", embedding(task, modality), example)


def methods(task: LearningTask, mixed: bool = False) -> tuple[Method, ...]:
    """All methods of the task's program, one step and one embedding per modality, and the mixed step if asked for."""
    every = [step_method(task, [modality]) for modality in task.views]
    if mixed and len(task.views) > 1:
        every.append(step_method(task, list(task.views)))
    return (*every, *(embed_method(task, modality) for modality in task.views))
