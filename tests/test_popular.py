"""The baseline of popularity: counted before the instant, unseen items only."""

from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.histories import histories_of
from recall import popular
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


def test_of_equally_watched_items_the_newest_comes_first():
    lists = popular_lists(np.array([9.0, 1, 2, 0, 1, 2]), np.array([4], np.int32), WATCHES, 0, 6)
    assert lists.items.tolist() == [[5, 2, 4, 1, 3, 0]]
    assert lists.scores.tolist() == [[2, 2, 1, 1, 0, -np.inf]]


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_lists_equal_the_definition_user_by_user_also_past_the_catalogue_and_over_shards(k, seed):
    rng = np.random.default_rng(seed)
    users = np.sort(rng.integers(1, 6, 25))
    seen = histories_of(users, rng.integers(1, 12, 25), np.zeros(25, np.int64), 7)
    counts, asked = rng.integers(0, 4, 9).astype(float), rng.permutation(np.arange(1, 7, dtype=np.int32))
    best = sorted(range(1, 9), key=lambda item: (-counts[item], -item))
    with mock.patch.object(popular, "SHARD", 2):
        lists = popular_lists(counts, asked, seen, 1, k)
    for user, items, scores in zip(asked, lists.items, lists.scores, strict=True):
        mine = [item for item in best if item not in seen.items[seen.offsets[user] : seen.offsets[user + 1]]][:k]
        assert items.tolist() == mine + [0] * (k - len(mine))
        assert scores.tolist() == [*counts[mine], *[-np.inf] * (k - len(mine))]
