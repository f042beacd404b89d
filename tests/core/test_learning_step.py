"""The pure flat step against an ordinary training loop, and the promises of sequential and mixed batches."""

import pytest
import torch
from torch.func import functional_call

from pocketfed.core.encoder import build_encoder
from pocketfed.core.learning_step import embedding, learning_step, methods, step_method
from pocketfed.core.learning_task import LearningTask, initial_weights
from pocketfed.core.modality import Modality
from pocketfed.core.objectives import nt_xent
from tests.conftest import random_inputs


@pytest.mark.parametrize("modality", list(Modality))
def test_ten_steps_equal_torch_optim(small_task: LearningTask, modality: Modality) -> None:
    """The oracle is a module with parameters, autograd through `backward`, and torch.optim.SGD."""
    method = step_method(small_task, [modality])
    theta, _, anchor, captures, _, hyper = random_inputs(method, small_task, seed=3)
    hyper[0] = 0.005  # at larger rates ten steps amplify roundings, which differ between processors
    rate, momentum, decay, proximal, temperature = (float(x) for x in hyper[:5])
    encoder = build_encoder("compact", seed=3)
    optimiser = torch.optim.SGD(encoder.parameters(), rate, momentum, weight_decay=decay)
    start = small_task.layout.unpack(anchor)
    view, state = small_task.views[modality], torch.zeros(small_task.state_size)

    for i in range(10):
        noise = random_inputs(method, small_task, seed=100 + i)[4]
        loss, theta, state = method.function(theta, state, anchor, captures, noise, hyper)

        base = view.front(captures)
        views = torch.cat([view.draw(base, noise[:, k]) for k in range(2)])
        first, second = encoder([views], torch.ones(12)).split(6)
        oracle = nt_xent(first, second, torch.tensor(temperature), torch.ones(6))
        pull = sum(((p - start[name]) ** 2).sum() for name, p in encoder.named_parameters())
        optimiser.zero_grad()
        (oracle + 0.5 * proximal * pull).backward()  # type: ignore[no-untyped-call]
        optimiser.step()

        assert abs(float(loss) - float(oracle.detach())) < 5e-5
    expected = small_task.layout.pack(dict(encoder.named_parameters())).detach()
    assert torch.linalg.norm(theta - expected) < 1e-5 * torch.linalg.norm(expected)


def test_inputs_are_left_alone(small_task: LearningTask) -> None:
    method = step_method(small_task, [Modality.PHOTO])
    inputs = random_inputs(method, small_task, seed=0)
    copies = [tensor.clone() for tensor in inputs]
    method.function(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


def test_absent_captures_change_nothing(small_task: LearningTask) -> None:
    method = step_method(small_task, [Modality.PHOTO])
    inputs = random_inputs(method, small_task, seed=1)
    inputs[-1][-1] = 4
    other = [tensor.clone() for tensor in inputs]
    other[3][4:] = 255 - other[3][4:]
    other[4][4:] = 0.123
    for a, b in zip(method.function(*inputs), method.function(*other), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-7)


def test_mixed_photos_change_the_sounds_gradient(small_task: LearningTask) -> None:
    """In the mixed form photos are negatives of sounds: with sounds fixed, other photos change what sounds teach."""
    modalities = [Modality.PHOTO, Modality.SOUND]
    inputs = random_inputs(step_method(small_task, modalities), small_task, seed=4)
    gradients = []
    for seed in (0, 1):
        theta = inputs[0].clone()
        photos = torch.randint(0, 256, inputs[3].shape, generator=torch.Generator().manual_seed(seed)).to(
            torch.uint8
        )
        weights = small_task.layout.unpack(theta)
        views = {
            m: small_task.views[m].draw(small_task.views[m].front(c), n[:, 0])
            for m, c, n in ((Modality.PHOTO, photos, inputs[4]), (Modality.SOUND, inputs[5], inputs[6]))
        }
        sounds = views[Modality.SOUND].requires_grad_()
        z = functional_call(small_task.encoder, weights, (list(views.values()), torch.ones(6)))
        loss = nt_xent(z, z.roll(1, 0), torch.tensor(0.4), torch.ones(len(z)))
        gradients.append(torch.autograd.grad(loss, sounds)[0])
    assert not torch.equal(*gradients)

    first = learning_step(small_task, modalities)(*inputs)[0]
    inputs[3] = 255 - inputs[3]
    assert float(first) != float(learning_step(small_task, modalities)(*inputs)[0])


def test_sounds_alone_move_the_trunk_that_photos_use(small_task: LearningTask) -> None:
    method = step_method(small_task, [Modality.SOUND])
    inputs = random_inputs(method, small_task, seed=5)
    inputs[1].zero_()
    inputs[-1][2:4] = 0  # neither weight decay nor the proximal term, which move weights by themselves
    _, theta, _ = method.function(*inputs)
    before, after = (small_task.layout.unpack(vector) for vector in (inputs[0], theta))
    assert all(not torch.equal(before[name], after[name]) for name in before)
    photos = random_inputs(step_method(small_task, [Modality.PHOTO]), small_task, seed=5)[3]
    embed = embedding(small_task, Modality.PHOTO)
    assert not torch.allclose(embed(inputs[0], photos)[0], embed(theta, photos)[0])


def test_a_second_modality_costs_no_weights(small_task: LearningTask) -> None:
    from pocketfed.core.learning_task import learning_task

    one = learning_task("compact", {Modality.PHOTO: small_task.views[Modality.PHOTO]}, 6)
    assert one.layout == small_task.layout
    assert 100_000 <= one.layout.size <= 500_000


def test_examples_fit_the_functions(small_task: LearningTask) -> None:
    for method in methods(small_task, mixed=True):
        outputs = method.function(*method.example)
        if method.name.startswith("step"):
            assert [tuple(o.shape) for o in outputs] == [
                (),
                (small_task.layout.size,),
                (small_task.state_size,),
            ]
        else:
            assert outputs[0].shape == (6, 160)


def test_initial_weights_follow_the_seed_and_leave_the_global_generator_alone(
    small_task: LearningTask,
) -> None:
    state = torch.get_rng_state()
    a, b, c = (initial_weights(small_task, seed) for seed in (0, 0, 1))
    assert (a == b).all()
    assert (a != c).any()
    assert torch.equal(state, torch.get_rng_state())
