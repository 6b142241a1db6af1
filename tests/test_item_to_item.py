"""Inverted lists against cosines of every pair of items."""

import numpy as np
import pytest

from recall.generators import item_to_item as module
from recall.generators.item_to_item import link_nearest

ITEMS = 9
CATALOGUE = np.arange(1, ITEMS, dtype=np.int32)


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(3).normal(size=(ITEMS, 3)).astype(np.float32)


def cosines(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    between = unit @ unit.T
    np.fill_diagonal(between, 0)
    between[:, 0] = 0
    return np.maximum(between, 0)


def test_each_watched_item_lists_its_nearest_others(vectors, monkeypatch):
    monkeypatch.setattr(module, "NEIGHBOURS", 3)
    nearest = link_nearest(
        vectors, CATALOGUE, np.array([[2, 5, 0], [5, 7, ITEMS]])
    ).nearest.toarray()
    between = cosines(vectors)
    for item in range(ITEMS):
        best = np.argsort(-between[item])[:3] if item in (2, 5, 7) else []
        expected = [between[item, other] if other in best else 0 for other in range(ITEMS)]
        np.testing.assert_allclose(nearest[item], expected, atol=1e-5)


def test_items_outside_the_catalogue_are_nobodys_neighbours(vectors):
    nearest = link_nearest(vectors, CATALOGUE[::2], CATALOGUE).nearest.toarray()
    assert not nearest[:, 2::2].any()
    assert nearest[2].any()


def test_a_user_is_offered_what_is_near_the_last_watch_first(vectors, asked):
    generator = link_nearest(vectors, CATALOGUE, CATALOGUE)
    named = generator.answer(asked([[4, 0, 0]], seen=((0, 4),))).named(2)
    assert named.items[0, 0] == np.argmax(cosines(vectors)[4])
    assert 4 not in named.items


def test_where_no_item_is_known_nobody_has_neighbours(vectors):
    assert link_nearest(vectors, CATALOGUE[:0], CATALOGUE).nearest.nnz == 0
