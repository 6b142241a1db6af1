"""The baseline of popularity: counted before the instant, unseen items only."""

import numpy as np

from features.histories import histories_of
from recall.popular import HOUR, popular_lists, popularity

USERS = np.array([1, 1, 2, 2, 3, 3])
ITEMS = np.array([1, 2, 2, 3, 2, 4])
INSTANTS = np.array([0, 5, 1, 6, 2, 9]) * HOUR
WATCHES = histories_of(USERS, ITEMS, INSTANTS, 5)


def test_popularity_counts_the_watches_strictly_before_the_instant():
    assert popularity(WATCHES, 5, 6 * HOUR).tolist() == [0, 1, 3, 0, 0]


def test_watches_after_the_instant_change_nothing():
    later = histories_of(USERS, np.where(INSTANTS >= 6 * HOUR, 1, ITEMS), INSTANTS, 5)
    np.testing.assert_array_equal(popularity(later, 5, 6 * HOUR), popularity(WATCHES, 5, 6 * HOUR))


def test_recent_popularity_counts_the_last_hours_only():
    assert popularity(WATCHES, 5, 9 * HOUR, hours=4).tolist() == [0, 0, 1, 1, 0]


def test_items_beyond_the_catalogue_are_not_counted():
    assert popularity(WATCHES, 3, 10 * HOUR).tolist() == [0, 1, 3]


def test_each_user_gets_the_most_watched_items_that_are_new_to_them():
    counts = popularity(WATCHES, 5, 10 * HOUR)
    lists = popular_lists(counts, np.array([1, 2, 4], np.int32), WATCHES, 10 * HOUR, 2)
    assert lists.scores.tolist() == [[1, 1], [1, 1], [3, 1]]
    assert set(lists.items[0]) == {3, 4}
    assert set(lists.items[1]) == {1, 4}
    assert lists.items[2, 0] == 2
