"""Retrieval against brute force over users, items and what each user had seen by the instant."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.histories import histories_of
from recall import candidates
from recall.candidates import Candidates, nearest, pairs_before, pairs_between
from recall.index import index_of

ITEMS, AS_OF = 12, 10
CLICK = st.tuples(st.integers(1, 5), st.integers(0, 20), st.integers(1, ITEMS - 1))


def histories(events, users=6):
    """Histories of (user, instant, item) events."""
    rows = np.array(sorted(events), np.int64).reshape(-1, 3)
    return histories_of(rows[:, 0], rows[:, 2], rows[:, 1], users)


def brute_force(users, vectors, item_vectors, events, k):
    """Lists of (item, score) by sorting the whole catalogue in Python."""
    lists = []
    for user, vector in zip(users, vectors, strict=True):
        seen = {item for who, timestamp_us, item in events if who == user and timestamp_us < AS_OF}
        fresh = [i for i in range(1, len(item_vectors)) if i not in seen]
        lists.append(sorted(fresh, key=lambda i: -float(vector @ item_vectors[i]))[:k])
    return lists


def offered(users, vectors, item_vectors, clicks, k):
    """The k nearest unseen items of each user, as the tower's generator takes them."""
    return Candidates(
        users, *nearest(vectors, index_of(item_vectors), pairs_before(users, clicks, AS_OF), k)
    )


@pytest.fixture(scope="module")
def item_vectors():
    return np.random.default_rng(1).normal(size=(ITEMS, 4)).astype(np.float32)


@given(events=st.lists(CLICK, max_size=60), k=st.sampled_from([1, 4, ITEMS - 1, 30]))
def test_lists_are_the_best_unseen_items_of_the_whole_catalogue(item_vectors, events, k):
    users = np.array([4, 1, 5, 2], np.int32)
    vectors = np.random.default_rng(2).normal(size=(4, 4)).astype(np.float32)
    lists = offered(users, vectors, item_vectors, histories(events), k)
    assert lists.items.shape == lists.scores.shape == (4, k)
    for row, expected in enumerate(brute_force(users, vectors, item_vectors, events, k)):
        filled = len(expected)
        assert lists.items[row].tolist() == expected + [0] * (k - filled)
        np.testing.assert_allclose(
            lists.scores[row, :filled], item_vectors[expected] @ vectors[row], rtol=1e-5
        )
        assert np.isneginf(lists.scores[row, filled:]).all()


@given(
    events=st.lists(CLICK, max_size=40),
    asked=st.lists(st.integers(0, ITEMS), min_size=3, max_size=3),
)
def test_what_was_seen_is_what_python_sets_say(events, asked):
    clicks, users = histories(events), np.array([2, 5, 1])
    rows, items = np.arange(3)[:, None], np.tile(np.array(asked, np.int32), (3, 1))
    before, since = pairs_before(users, clicks, AS_OF), pairs_between(users, clicks, AS_OF, 15)
    for pairs, first, last in ((before, 0, AS_OF), (since, AS_OF, 15)):
        meant = [(who, item) for who, timestamp_us, item in events if first <= timestamp_us < last]
        assert pairs.holds(rows, items).tolist() == [
            [(user, item) in meant for item in asked] for user in users
        ]
        assert pairs.counts.tolist() == [sum(who == user for who, _ in meant) for user in users]


def test_a_click_at_the_instant_itself_is_not_yet_seen(item_vectors):
    clicks = histories([(1, AS_OF - 1, 3), (1, AS_OF, 7)])
    lists = offered(np.array([1], np.int32), item_vectors[:1], item_vectors, clicks, ITEMS)
    assert 3 not in lists.items
    assert 7 in lists.items


def test_a_user_without_history_gets_a_full_list(item_vectors):
    lists = offered(np.array([3], np.int32), item_vectors[1:2], item_vectors, histories([]), 5)
    assert (lists.items > 0).all()


def test_a_user_who_saw_everything_gets_an_empty_list(item_vectors):
    clicks = histories([(1, 0, item) for item in range(1, ITEMS)])
    lists = offered(np.array([1], np.int32), item_vectors[1:2], item_vectors, clicks, 4)
    assert lists.items.tolist() == [[0, 0, 0, 0]]


def test_shards_and_reruns_give_the_same_lists(item_vectors, monkeypatch):
    rng = np.random.default_rng(5)
    drawn = rng.integers([[1], [0], [1]], [[40], [20], [ITEMS]], (3, 300))
    events = [tuple(event) for event in drawn.T.tolist()]
    clicks, users = histories(events, 40), rng.permutation(np.arange(1, 40, dtype=np.int32))
    vectors = rng.normal(size=(39, 4)).astype(np.float32)
    whole = offered(users, vectors, item_vectors, clicks, 5)
    monkeypatch.setattr(candidates, "SHARD", 7)
    sharded = offered(users, vectors, item_vectors, clicks, 5)
    np.testing.assert_array_equal(whole.items, sharded.items)
    np.testing.assert_allclose(whole.scores, sharded.scores, rtol=1e-5)


def test_whoever_has_seen_very_much_is_in_a_shard_that_fetches_no_more_than_others(monkeypatch):
    monkeypatch.setattr(candidates, "SHARD", 50)
    monkeypatch.setattr(candidates, "FETCHED", 1_000)
    counts = np.random.default_rng(0).permutation(np.append(np.arange(120) % 7, [400, 990, 5_000]))
    found = list(candidates.shards_of(counts, 10))
    assert sorted(np.concatenate(found)) == list(range(123))
    assert max(len(rows) for rows in found) == 50
    for rows in found:
        assert len(rows) == 1 or len(rows) * (10 + counts[rows].max()) <= 1_000
    assert not list(candidates.shards_of(counts[:0], 10))


def test_taking_rows_keeps_users_and_lists_together(item_vectors):
    users = np.array([4, 1, 5], np.int32)
    lists = offered(users, item_vectors[1:4], item_vectors, histories([]), 3)
    taken = lists.take(np.array([2, 0]))
    assert len(taken) == 2
    assert taken.users.tolist() == [5, 4]
    np.testing.assert_array_equal(taken.items, lists.items[[2, 0]])
    np.testing.assert_array_equal(taken.scores, lists.scores[[2, 0]])
