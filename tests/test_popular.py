"""Popularity, as the baseline and as a generator: counted before the instant, unseen items only."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.histories import histories_of
from recall import candidates
from recall.candidates import Pairs, pairs_before
from recall.generators.base import seen_only
from recall.generators.popular import (
    HOUR,
    Popular,
    counts_by_span,
    decayed,
    hit_share,
    popular_lists,
    popularity,
    shares,
)

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


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_lists_equal_the_definition_user_by_user_also_past_the_catalogue_and_over_shards(k, seed):
    rng = np.random.default_rng(seed)
    users = np.sort(rng.integers(1, 6, 25))
    seen = histories_of(users, rng.integers(1, 12, 25), np.zeros(25, np.int64), 7)
    counts, asked = (
        rng.integers(0, 4, 9).astype(float),
        rng.permutation(np.arange(1, 7, dtype=np.int32)),
    )
    best = sorted(range(1, 9), key=lambda item: (-counts[item], -item))
    with mock.patch.object(candidates, "SHARD", 2):
        lists = popular_lists(counts, asked, seen, 1, k)
    for user, items, scores in zip(asked, lists.items, lists.scores, strict=True):
        mine = [
            item
            for item in best
            if item not in seen.items[seen.offsets[user] : seen.offsets[user + 1]]
        ][:k]
        assert items.tolist() == mine + [0] * (k - len(mine))
        assert scores.tolist() == [*counts[mine], *[-np.inf] * (k - len(mine))]


def test_a_watch_counts_half_after_each_half_life():
    counts = decayed(WATCHES, 5, 10 * HOUR, 2.0)[0]
    expected = [
        sum(0.5 ** ((10 - hour / HOUR) / 2) for hour in INSTANTS[item == ITEMS])
        for item in range(5)
    ]
    np.testing.assert_allclose(counts, expected)
    np.testing.assert_array_equal(
        decayed(WATCHES, 5, 10 * HOUR, None)[0], popularity(WATCHES, 5, 10 * HOUR)
    )


def test_decayed_counts_by_segment_are_those_of_its_users_alone():
    segments = np.array([0, 2, 0, 2, 1], np.int32)
    counts = decayed(WATCHES, 5, 6 * HOUR, 3.0, segments)
    for segment in range(3):
        mine = np.isin(USERS, np.flatnonzero(segments == segment))
        alone = histories_of(USERS[mine], ITEMS[mine], INSTANTS[mine], 5)
        np.testing.assert_allclose(counts[segment], decayed(alone, 5, 6 * HOUR, 3.0)[0])


def test_decayed_watches_after_the_instant_change_nothing():
    later = histories_of(USERS, np.where(INSTANTS >= 6 * HOUR, 1, ITEMS), INSTANTS, 5)
    np.testing.assert_array_equal(
        decayed(later, 5, 6 * HOUR, 1.0), decayed(WATCHES, 5, 6 * HOUR, 1.0)
    )


def test_a_small_segment_is_drawn_to_the_whole_and_a_large_one_stands_alone():
    counts = np.array([[0, 1.0, 0], [0, 1e6, 0], [0, 0, 1e6]])
    small, large, other = shares(counts)
    np.testing.assert_allclose(small, [0, 0.5, 0.5], atol=1e-2)
    np.testing.assert_allclose(large, [0, 1, 0], atol=1e-2)
    np.testing.assert_allclose(other, [0, 0, 1], atol=1e-2)


def segmented(catalogue=(1, 2, 3, 4)):
    """Segment 0 (users 0 to 2) watches item 1, segment 1 (users 3 and 4) item 3."""
    counts = np.array([[0, 9e5, 1, 0, 0], [0, 0, 1, 9e5, 0]])
    return Popular(
        shares(counts), np.isin(np.arange(5), catalogue), np.array([0, 0, 0, 1, 1], np.int32), {}
    )


def test_a_new_user_gets_what_is_popular_in_the_segment():
    named = segmented().answer(
        seen_only(np.array([1, 4], np.int32), Pairs(np.zeros(0, np.int64), np.zeros(2, int)))
    )
    assert named.named(2).items.tolist() == [[1, 3], [3, 1]]


def test_what_is_not_in_the_catalogue_is_not_named_and_items_without_a_watch_fill_the_list():
    requests = seen_only(np.array([1], np.int32), pairs_before(np.array([1]), WATCHES, 3 * HOUR))
    assert segmented().answer(requests).named(5).items.tolist() == [[3, 2, 4, 0, 0]]
    assert segmented(catalogue=(1, 3, 4)).answer(requests).named(5).items.tolist() == [
        [3, 4, 0, 0, 0]
    ]


def test_users_with_many_seen_items_still_get_full_lists(monkeypatch):
    monkeypatch.setattr("recall.candidates.SHARD", 2)
    seen = histories_of(np.repeat([1, 2, 3], [3, 0, 1]), np.array([1, 2, 3, 4]), np.zeros(4), 5)
    lists = popular_lists(np.array([0, 4.0, 3, 2, 1]), np.array([3, 2, 1], np.int32), seen, 1, 2)
    assert lists.items.tolist() == [[1, 2], [1, 2], [4, 0]]


def test_of_equals_the_newest_comes_first():
    lists = popular_lists(np.array([0, 1.0, 2, 1]), np.array([4], np.int32), WATCHES, 0, 3)
    assert lists.items.tolist() == [[2, 3, 1]]


def test_columns_are_logs_of_shares_and_of_the_segments_lift():
    generator = replace(segmented(), by_half_life={"popular_1h": np.array([1, 0.1, 0.01, 1, 1])})
    requests = seen_only(np.array([1, 4], np.int32), Pairs(np.zeros(0, np.int64), np.zeros(2, int)))
    columns = generator.answer(requests).columns(np.array([0, 1, 1]), np.array([1, 1, 2], np.int32))
    np.testing.assert_allclose(columns["popular_1h"], [-1, -1, -2], rtol=1e-6)
    assert columns["segment"][0] > 0 > columns["segment"][1]


def test_the_hit_share_counts_users_who_went_on_to_watch_one_of_their_first():
    requests = seen_only(
        np.array([1, 2, 4], np.int32), Pairs(np.zeros(0, np.int64), np.zeros(3, int))
    )
    watched = Pairs(np.array([(0 << 32) | 1, (1 << 32) | 3], np.int64), np.array([1, 1, 0]))
    answer = segmented().answer(requests)
    assert hit_share(answer, watched, 1) == pytest.approx(1 / 3)
    assert hit_share(answer, watched, 2) == pytest.approx(2 / 3)


def test_the_baseline_counts_spans_that_are_shorter_than_the_log():
    spans = counts_by_span(WATCHES, 5, 10 * HOUR, timed=True)
    assert list(spans) == ["last hour", "all time"]
    year = histories_of(USERS, ITEMS, INSTANTS * 100, 5)
    assert {"last hour", "last day", "last week", "last month"} <= set(
        counts_by_span(year, 5, 1_000 * HOUR, timed=True)
    )
    assert list(counts_by_span(year, 5, 1_000 * HOUR, timed=False)) == ["all time"]
