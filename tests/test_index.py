"""The exact index: faiss against a matrix product, and what it answers when it runs out of items."""

import numpy as np
import pytest

from recall.index import ItemIndex, index_of


@pytest.fixture
def vectors():
    return np.random.default_rng(3).normal(size=(41, 6)).astype(np.float32)


def test_the_best_items_are_those_of_the_largest_inner_products(vectors):
    users = np.random.default_rng(4).normal(size=(9, 6)).astype(np.float32)
    items, scores = index_of(vectors).search(users, 10)
    products = users @ vectors[1:].T
    expected = np.argsort(-products, axis=1)[:, :10]
    np.testing.assert_array_equal(items, expected + 1)
    np.testing.assert_allclose(scores, np.take_along_axis(products, expected, axis=1), rtol=1e-5, atol=1e-6)


def test_a_long_vector_outscores_a_short_one_of_the_same_direction():
    """The tower is trained on the inner product: an index of cosines would call these two equal."""
    vectors = np.array([[0, 0], [1, 0], [3, 0]], np.float32)
    items, scores = index_of(vectors).search(np.array([[2, 0]], np.float32), 2)
    assert items.tolist() == [[2, 1]]
    assert scores.tolist() == [[6, 2]]


def test_nobody_is_never_found_even_when_every_item_scores_worse():
    vectors = -np.ones((5, 3), np.float32)
    vectors[0] = 100
    items, _ = index_of(vectors).search(np.ones((1, 3), np.float32), 4)
    assert sorted(items[0]) == [1, 2, 3, 4]


def test_more_places_than_items_end_in_item_0_with_score_minus_infinity(vectors):
    items, scores = index_of(vectors[:4]).search(vectors[5:7], 6)
    assert (items[:, 3:] == 0).all()
    assert np.isneginf(scores[:, 3:]).all()
    assert (items[:, :3] > 0).all()


def test_an_index_counts_its_items_and_survives_saving(vectors, tmp_path):
    index = index_of(vectors)
    assert len(index) == 40
    index.save(tmp_path / "items.faiss")
    reloaded = ItemIndex.load(tmp_path / "items.faiss")
    for ours, theirs in zip(index.search(vectors[:5], 7), reloaded.search(vectors[:5], 7), strict=True):
        np.testing.assert_array_equal(ours, theirs)
