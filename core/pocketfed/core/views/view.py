"""What a view is: the seam between raw captures and the encoder."""

from typing import Protocol

from torch import Tensor


class View(Protocol):
    """Turns raw captures into inputs of the encoder, inside the exported program.

    The work that does not depend on chance (`front`) is done once per capture; each of the two views is then drawn
    from it with its own uniform random numbers. There is no hidden randomness: the same numbers give the same view.
    """

    @property
    def noise(self) -> tuple[str, ...]:
        """What each uniform random number in [0, 1) decides; its length is how many one view of one capture takes."""
        ...

    @property
    def capture_shape(self) -> tuple[int, ...]:
        """Shape of one raw capture."""
        ...

    def front(self, captures: Tensor) -> Tensor:
        """Raw captures [batch, *capture_shape] -> the part that all their views share."""
        ...

    def draw(self, base: Tensor, noise: Tensor) -> Tensor:
        """`front`'s result and float32 [batch, len(noise)] -> one augmented view, float32 [batch, 3, h, w]."""
        ...

    def plain(self, base: Tensor) -> Tensor:
        """`front`'s result -> the view without augmentation, float32 [batch, 3, h, w]; what embeddings are made of."""
        ...
