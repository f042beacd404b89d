"""NT-Xent, the normalised temperature-scaled cross entropy of SimCLR (Chen et al., 2020, equation 1).

FSSUAVL trains one encoder with it on sounds and on photos in turn (notes in docs/papers.md).
"""

import torch
from torch import Tensor

FAR = 1e9
"""Subtracted from the similarity of pairs that must not count; exp(-1e9) is exactly zero in float32."""


def nt_xent(first: Tensor, second: Tensor, temperature: Tensor, valid: Tensor) -> Tensor:
    """Mean over both directions of -log softmax of the positive among all other views.

    With z the unit-norm rows of `cat(first, second)` and p(i) the other view of i's capture:

        L = -1/2n  sum_i log( exp(z_i . z_p(i) / t) / sum_{k != i} exp(z_i . z_k / t) )

    Only captures with `valid` 1 take part, as anchors and as negatives, so a batch that is not full gives exactly
    the loss of the smaller batch. An untrained encoder starts near ln(2n - 1), n the number of valid captures.

    Args:
        first: float32 [batch, d], one view of each capture.
        second: float32 [batch, d], the other view, in the same order.
        temperature: float32 [], positive.
        valid: float32 [batch], 0 or 1; at least two ones.

    Returns:
        float32 [], at least 0.
    """
    batch = first.shape[0]
    z = torch.cat([first, second])  # [2b, d]
    z = z * torch.rsqrt((z * z).sum(1, keepdim=True) + 1e-12)
    similarity = torch.mm(z, z.t()) / temperature  # [2b, 2b]
    counts = torch.cat([valid, valid])  # [2b]
    eye = torch.eye(2 * batch, dtype=z.dtype)
    excluded = eye + (1.0 - counts).unsqueeze(0)  # itself, and views of captures that are not there
    similarity = similarity - FAR * excluded
    highest = similarity.detach().amax(1, keepdim=True)  # keeps exp in range; has no gradient
    log_sum = torch.log(torch.exp(similarity - highest).sum(1)) + highest.squeeze(1)  # [2b]
    partner = torch.cat([eye[batch:], eye[:batch]])  # [2b, 2b], 1 at (i, p(i))
    positive = (torch.mm(z, z.t()) / temperature * partner).sum(1)  # [2b]
    return ((log_sum - positive) * counts).sum() / counts.sum()
