"""Scaled dot-product attention as explicit products."""

import math

import torch
from torch import Tensor

from pocketfed.core.errors import ExportError

LOWEST = -1e9


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """query [B, H, L, E], key and value [B, H, S, E] -> (output [B, H, L, E], unused statistics [B, H, L])."""
    weights = _weights(query, key, dropout, is_causal, attn_mask, scale)
    output = torch.bmm(weights, _batched(value)).reshape(*query.shape[:3], value.shape[3])
    return output, query[:, :, :, 0]


def attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    statistics: Tensor,
    dropout: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient [B, H, L, E] of the output -> gradients of query, key and value."""
    del statistics
    weights = _weights(query, key, dropout, is_causal, attn_mask, scale)  # [B*H, L, S]
    to_output = _batched(grad)
    to_weights = torch.bmm(to_output, _batched(value).transpose(1, 2))  # [B*H, L, S]
    shared = (to_output * _batched(output)).sum(2, keepdim=True)  # [B*H, L, 1]
    to_scores = weights * (to_weights - shared) * _scale(query, scale)
    return (
        torch.bmm(to_scores, _batched(key)).reshape(query.shape),
        torch.bmm(to_scores.transpose(1, 2), _batched(query)).reshape(key.shape),
        torch.bmm(weights.transpose(1, 2), to_output).reshape(value.shape),
    )


def safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax; rows that are masked throughout, which the safe variant makes zero, do not occur."""
    del dtype
    return torch.softmax(x, dim)


def _weights(
    query: Tensor, key: Tensor, dropout: float, is_causal: bool, mask: Tensor | None, scale: float | None
) -> Tensor:
    """softmax(q k^T · scale + mask), [B*H, L, S]."""
    if dropout:
        raise ExportError(
            "attention with dropout draws random numbers inside the step; set its dropout to zero."
        )
    scores = torch.bmm(_batched(query), _batched(key).transpose(1, 2)) * _scale(query, scale)
    if is_causal:
        length, source = scores.shape[1:]
        scores = scores + torch.triu(torch.full((length, source), LOWEST), diagonal=1)
    if mask is not None:
        shape = (*query.shape[:3], key.shape[2])
        scores = (scores.reshape(shape) + mask).reshape(scores.shape)
    return torch.softmax(scores, 2)


def _batched(x: Tensor) -> Tensor:
    """[B, H, L, E] -> [B*H, L, E]."""
    return x.reshape(-1, x.shape[2], x.shape[3])


def _scale(query: Tensor, scale: float | None) -> float:
    return 1.0 / math.sqrt(query.shape[3]) if scale is None else scale
