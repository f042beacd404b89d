"""A flat picture of an embedding space: t-SNE of a bounded, seeded sample of captures.

The map is for looking at. t-SNE keeps neighbourhoods and little else, so neither the distance between two groups nor
the size of a group is a measurement; `core.evaluation` measures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from pocketfed.core.modality import Modality

PERPLEXITY = 30.0
"""Neighbours that each point tries to keep, where there are that many (van der Maaten and Hinton, 2008)."""

COMPONENTS = 50
"""Principal components that t-SNE sees."""

SAME = 1e-6
"""A dimension whose spread is below this fraction of its size is rounding noise, and is treated as constant."""


@dataclass(frozen=True)
class EmbeddingMap:
    """One point per capture.

    Attributes:
        points: float32 [n, 2]; no unit, no orientation.
        modality: n entries.
        label: n entries, the class name, or "" where there is none.
    """

    points: NDArray[np.float32]
    modality: tuple[Modality, ...]
    label: tuple[str, ...]


def map_embeddings(
    embeddings: Mapping[Modality, NDArray[np.float32]],
    labels: Mapping[Modality, Sequence[str]],
    seed: int,
    limit: int = 400,
) -> EmbeddingMap:
    """Lay out at most `limit` captures of each modality on one plane, all modalities together.

    The same arguments give the same map; which captures are drawn depends only on the seed, the limit and the number
    of captures, so the maps of two encoders over the same captures show the same points. Captures whose embedding is
    not finite are left out.

    Args:
        embeddings: float32 [n_m, d] for each modality, with one d; n_m may be 0.
        labels: n_m class names for each modality that has them.
        seed: of the sample; the layout itself draws nothing at random.
        limit: positive.

    Returns:
        photos first, then sounds, each in their given order.

    Raises:
        ValueError: a modality has labels, but not one for each of its embeddings.
    """
    rows: list[NDArray[np.float64]] = []
    modality: list[Modality] = []
    label: list[str] = []
    for member in (m for m in Modality if m in embeddings):
        names = labels.get(member, [""] * len(embeddings[member]))
        if len(names) != len(embeddings[member]):
            raise ValueError(f"{member}: {len(names)} labels for {len(embeddings[member])} embeddings")
        for index in sample(len(names), limit, seed):
            row = np.asarray(embeddings[member][index], dtype=np.float64)  # [d]
            if np.isfinite(row).all():
                rows.append(row)
                modality.append(member)
                label.append(names[index])
    if not rows:
        return EmbeddingMap(np.zeros((0, 2), np.float32), (), ())
    with threadpool_limits(1):  # more threads only wait: 2 s became 26 s on a busy machine of two cores
        points = plane(standardise(np.stack(rows)))
    return EmbeddingMap(points, tuple(modality), tuple(label))


def sample(count: int, limit: int, seed: int) -> NDArray[np.intp]:
    """At most `limit` different indices below `count`, ascending; intp [min(count, limit)]."""
    chosen = np.random.default_rng(seed).permutation(count)[:limit]
    return np.sort(chosen).astype(np.intp)


def standardise(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zero mean and unit variance in each dimension; constant dimensions are dropped.

    Args:
        rows: float64 [n, d].

    Returns:
        float64 [n, k], k <= d the number of dimensions that vary.
    """
    spread = rows.std(axis=0)  # [d]
    varies = spread > SAME * np.abs(rows).max(axis=0)
    varying = rows[:, varies]  # [n, k]
    scaled: NDArray[np.float64] = (varying - varying.mean(axis=0)) / spread[varies]
    return scaled


def plane(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """t-SNE that starts from the first two principal components; with fewer than four rows, those components alone.

    Args:
        rows: float64 [n, k], standardised; k may be 0, and then all points fall on the origin.

    Returns:
        float32 [n, 2].
    """
    count, dimensions = rows.shape
    if dimensions == 0 or count < 2:
        return np.zeros((count, 2), np.float32)
    components = PCA(min(COMPONENTS, count, dimensions), svd_solver="full").fit_transform(rows)  # [n, c]
    first = np.zeros((count, 2), np.float32)
    first[:, : min(2, components.shape[1])] = components[:, :2]
    if count < 4:
        return first
    return np.asarray(
        TSNE(
            perplexity=min(PERPLEXITY, (count - 1) / 3),
            init=first / first[:, 0].std() * 1e-4,  # the scale that scikit-learn gives its own start
            random_state=0,  # not used with a start of our own
            n_jobs=1,
        ).fit_transform(components.astype(np.float32)),
        dtype=np.float32,
    )
