"""What is new: seen first lately, watched by few, in the tower's order."""

import numpy as np

from recall.generators.base import FEW_WATCHES, HOUR, is_new
from recall.generators.new_items import gather_new

FIRST_SEEN = np.array([0, 10, 50, 90, 100, 95])
WATCHES = np.array([0.0, 1.0, 1.0, 1.0, 0.0, FEW_WATCHES + 1])


def test_new_is_what_appeared_within_the_span_before_the_instant_and_few_have_watched():
    assert is_new(FIRST_SEEN, WATCHES, 100, 50).tolist() == [False, False, True, True, False, False]


def test_new_items_come_in_the_towers_order_without_what_was_seen(asked):
    vectors = np.array([[9, 9], [1, 0], [0.5, 0], [2, 0], [0, 3]], np.float32)
    generator = gather_new(
        FIRST_SEEN, np.array([False, True, True, True, True, True]), vectors, 100
    )
    assert generator.items.tolist() == [4, 3, 2, 1]
    named = generator.answer(asked([[0], [0]], seen=((1, 3),), vectors=[[1, 0.1], [0, 1]])).named(5)
    assert named.items.tolist() == [[3, 1, 2, 4, 0], [4, 2, 1, 0, 0]]
    np.testing.assert_allclose(named.scores[0, :4], [2, 1, 0.5, 0.3], rtol=1e-6)


def test_the_newest_are_looked_at_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr("recall.generators.new_items.NEWEST", 2)
    generator = gather_new(FIRST_SEEN, np.arange(6) > 0, np.ones((6, 2), np.float32), 100)
    assert generator.items.tolist() == [4, 5]


def test_every_item_has_an_age_column(asked):
    generator = gather_new(
        FIRST_SEEN * HOUR, np.zeros(6, bool), np.ones((6, 2), np.float32), 100 * HOUR
    )
    columns = generator.answer(asked([[0]])).columns(
        np.zeros(3, int), np.array([1, 4, 3], np.int32)
    )
    np.testing.assert_allclose(columns["age"], np.log1p([90, 0, 10]), rtol=1e-6)
