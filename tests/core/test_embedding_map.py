"""The picture of an embedding space: bounded, repeatable, and hard to upset."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketfed.core.embedding_map import EmbeddingMap, map_embeddings, sample, standardise
from pocketfed.core.modality import Modality


def embeddings(count: int, seed: int = 0, width: int = 16) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def same(first: EmbeddingMap, second: EmbeddingMap) -> bool:
    return (
        first.points.tobytes() == second.points.tobytes()
        and first.modality == second.modality
        and first.label == second.label
    )


def test_is_deterministic_and_follows_the_seed() -> None:
    both = {Modality.PHOTO: embeddings(60), Modality.SOUND: embeddings(40, seed=1)}
    first = map_embeddings(both, {}, seed=3, limit=30)
    assert same(first, map_embeddings(both, {}, seed=3, limit=30))
    assert not same(first, map_embeddings(both, {}, seed=4, limit=30))


def test_is_bounded_for_each_modality_and_keeps_photos_first() -> None:
    found = map_embeddings(
        {Modality.SOUND: embeddings(90), Modality.PHOTO: embeddings(10)},
        {Modality.SOUND: [f"sound {index}" for index in range(90)]},
        seed=0,
        limit=25,
    )
    assert found.points.shape == (35, 2)
    assert found.points.dtype == np.float32
    assert np.isfinite(found.points).all()
    assert found.modality == (Modality.PHOTO,) * 10 + (Modality.SOUND,) * 25
    assert found.label[:10] == ("",) * 10
    assert len(set(found.label[10:])) == 25  # drawn without repetition


def test_two_encoders_show_the_same_captures() -> None:
    labels = {Modality.PHOTO: [str(index) for index in range(50)]}
    first = map_embeddings({Modality.PHOTO: embeddings(50)}, labels, seed=0, limit=20)
    second = map_embeddings({Modality.PHOTO: embeddings(50, seed=1, width=3)}, labels, seed=0, limit=20)
    assert first.label == second.label


def test_labels_stay_with_their_points() -> None:
    far = np.concatenate([embeddings(30) + 50, embeddings(30, seed=1) - 50])
    found = map_embeddings({Modality.SOUND: far}, {Modality.SOUND: ["high"] * 30 + ["low"] * 30}, seed=0)
    high = np.array(found.label) == "high"
    distances = np.linalg.norm(found.points[:, None] - found.points[None], axis=2)  # [60, 60]
    np.fill_diagonal(distances, np.inf)
    assert (high[distances.argmin(axis=1)] == high).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 31])
def test_any_number_of_captures_will_do(count: int) -> None:
    found = map_embeddings({Modality.PHOTO: embeddings(count)}, {}, seed=0)
    assert found.points.shape == (count, 2)
    assert np.isfinite(found.points).all()


@pytest.mark.parametrize(
    "collapsed",
    [np.zeros((40, 8)), np.full((40, 8), 0.1), np.full((40, 8), 1e4) + embeddings(40, width=8) * 1e-4],
    ids=["zero", "constant", "rounding noise"],
)
def test_a_collapsed_encoder_is_one_point(collapsed: NDArray[np.float64]) -> None:
    found = map_embeddings({Modality.PHOTO: collapsed.astype(np.float32)}, {}, seed=0)
    assert not found.points.any()


@pytest.mark.parametrize("distinct", [2, 3])
def test_repeated_embeddings_do_no_harm(distinct: int) -> None:
    found = map_embeddings({Modality.PHOTO: np.repeat(embeddings(distinct), 20, axis=0)}, {}, seed=0)
    assert np.isfinite(found.points).all()


def test_embeddings_that_are_not_finite_are_left_out() -> None:
    damaged = embeddings(12)
    damaged[3, 0], damaged[7, 1] = np.nan, np.inf
    found = map_embeddings(
        {Modality.PHOTO: damaged}, {Modality.PHOTO: [str(index) for index in range(12)]}, seed=0
    )
    assert found.label == ("0", "1", "2", "4", "5", "6", "8", "9", "10", "11")
    assert np.isfinite(found.points).all()


def test_labels_must_match() -> None:
    with pytest.raises(ValueError, match="photo: 2 labels for 3 embeddings"):
        map_embeddings({Modality.PHOTO: embeddings(3)}, {Modality.PHOTO: ["a", "b"]}, seed=0)


def test_sample_is_ascending_without_repetition() -> None:
    chosen = sample(100, 30, seed=5)
    assert len(chosen) == 30
    assert (np.diff(chosen) > 0).all()
    assert sample(4, 30, seed=5).tolist() == [0, 1, 2, 3]


def test_standardise_on_paper() -> None:
    rows = np.array([[1.0, 7.0, 10.0], [3.0, 7.0, 30.0]])
    assert standardise(rows).tolist() == [[-1.0, -1.0], [1.0, 1.0]]
