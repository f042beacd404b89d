"""The projector's standardisation, against torch's batch normalisation, and what absent rows do to it."""

import torch

from pocketfed.core.encoder import Projector, build_encoder


def test_the_projector_is_linear_batch_norm_silu_linear() -> None:
    projector = Projector(5, 7, 3)
    x = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
    hidden = torch.nn.functional.batch_norm(projector.first(x), None, None, training=True, eps=1e-5)
    expected = projector.second(torch.nn.functional.silu(hidden))
    assert torch.allclose(projector(x, torch.ones(11)), expected, atol=1e-5)


def test_rows_that_are_not_there_do_not_touch_the_others() -> None:
    projector = Projector(5, 7, 3)
    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(1))
    valid = torch.tensor([1.0] * 6 + [0.0] * 3)
    garbage = torch.cat([x[:6], 50 * x[6:]])
    assert torch.allclose(projector(x, valid)[:6], projector(x[:6], torch.ones(6)), atol=1e-5)
    assert torch.allclose(projector(garbage, valid)[:6], projector(x[:6], torch.ones(6)), atol=1e-5)


def test_one_encoder_takes_inputs_of_different_sizes() -> None:
    encoder = build_encoder("compact", seed=0)
    inputs = [torch.zeros(4, 3, 16, 16), torch.zeros(2, 3, 16, 24)]
    assert encoder(inputs, torch.ones(6)).shape == (6, 128)
