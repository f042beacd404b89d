"""Which rewrites a lowering uses."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Passes:
    """Switches of the lowering. Every combination gives the same results; they differ only in speed.

    Attributes:
        half_im2col: Dense convolutions gather the horizontal taps only, and add the vertical ones up as
            shifted products. Off: the general tap convolution.
        strided_phases: The same for strides above one, on the even and odd rows and columns.
        stem_planes: Dense convolutions of at most four channels work on planes of pixels.
        winograd: Dense 3x3 convolutions between wide layers use F(2x2, 3x3).
        depthwise_toeplitz: Depthwise convolutions become one banded matrix per channel.
        spatial_first_norm: Group normalisation works in [H, W, N, C].
        cancel_permutes: Permutations wait until an operator needs the order, and mostly cancel.
        split_permutes: A permutation that reverses three axes becomes two transpositions.
        activations_on_matrices: Between products, elementwise operators stay on the products' matrices.
        linear_from_mm: A product with a transposed right side becomes a linear operator.
        averaged_rows: Sums over the rows of a large matrix become averages over pixels.
        batch_pieces: Layers that treat images one by one go through the batch in pieces that fit the cache.
        common_subexpressions: Equal expressions are computed once.
    """

    half_im2col: bool = True
    strided_phases: bool = True
    stem_planes: bool = True
    winograd: bool = True
    depthwise_toeplitz: bool = True
    spatial_first_norm: bool = True
    cancel_permutes: bool = True
    split_permutes: bool = True
    activations_on_matrices: bool = True
    linear_from_mm: bool = True
    averaged_rows: bool = True
    batch_pieces: bool = True
    common_subexpressions: bool = True
