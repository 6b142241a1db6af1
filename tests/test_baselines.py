"""Item-based neighbours and EASE against their formulas done densely, and in worlds whose right
answer is known.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.histories import histories_of
from recall import baselines
from recall.baselines import (
    LogBefore,
    ease,
    ease_fits,
    ease_lists,
    item_cosines,
    item_knn_lists,
    watched_before,
)
from recall.candidates import Candidates

ITEMS, AS_OF = 9, 20
WATCH = st.tuples(st.integers(1, 6), st.integers(0, 25), st.integers(1, ITEMS + 1))
EVENTS = st.lists(WATCH, max_size=60)
Lists = Callable[..., Candidates]
BOTH = pytest.mark.parametrize("lists", [item_knn_lists, ease_lists])


def histories(events: Any, users: int = 8) -> Any:
    rows = np.array(sorted(events), np.int64).reshape(-1, 3)
    return histories_of(rows[:, 0], rows[:, 2], rows[:, 1], users)


def binary(events: Any, users: int = 8) -> Any:
    """The distinct watches before AS_OF, dense: [users, ITEMS]."""
    dense = np.zeros((users, ITEMS))
    for user, timestamp_us, item in events:
        if timestamp_us < AS_OF and item < ITEMS:
            dense[user, item] = 1
    return dense


def dense_cosines(watched: Any) -> Any:
    norms = np.sqrt(watched.sum(axis=0))
    cosines = watched.T @ watched / (np.outer(norms, norms) + baselines.SHRINK)
    np.fill_diagonal(cosines, 0)
    return cosines


def dense_ease(watched: Any, penalty: float) -> Any:
    """B of the watched items, [ITEMS, ITEMS], as in the paper's listing."""
    inverse = np.linalg.inv(watched.T @ watched + penalty * np.eye(ITEMS))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


def asked(*users: int) -> Any:
    return np.array(users, np.int32)


def two_tastes() -> Any:
    """Users 1 to 6 watch 3 of the 4 items of their own parity; item 8 is watched by even users, 7
    by odd ones.
    """
    return [
        (user, hour, 2 * ((user // 2 + hour) % 4) + 2 - user % 2)
        for user in range(1, 7)
        for hour in range(3)
    ]


@BOTH
def test_even_users_are_offered_even_items(lists: Lists) -> None:
    watches = histories(two_tastes())
    found = lists(LogBefore(watches, watches, ITEMS, AS_OF), asked(1, 2, 3, 4, 5, 6), 1)
    for user, items in zip(found.users, found.items, strict=True):
        mine = watches.items[watches.offsets[user] : watches.offsets[user + 1]]
        assert items.tolist() == sorted({*range(2 - user % 2, ITEMS, 2)} - {*mine.tolist()})


@given(events=EVENTS)
def test_the_cosines_are_those_of_the_binary_columns_shrunk(events: Any) -> None:
    found = item_cosines(watched_before(histories(events), ITEMS, AS_OF)).toarray()
    np.testing.assert_allclose(found, dense_cosines(binary(events)), rtol=1e-5)


def test_the_product_in_many_blocks_is_the_product_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    events = [
        (int(u), 1, int(i))
        for u, i in zip(rng.integers(1, 7, 60), rng.integers(1, ITEMS, 60), strict=True)
    ]
    history = watched_before(histories(events), ITEMS, AS_OF)
    whole, scores = item_cosines(history).toarray(), ease(history, 2.0).scores(history)
    for block in (1, 20, 50):
        monkeypatch.setattr(baselines, "BLOCK", block)
        np.testing.assert_array_equal(item_cosines(history).toarray(), whole)
        np.testing.assert_allclose(ease(history, 2.0).scores(history), scores, rtol=1e-4, atol=1e-5)


def test_each_item_keeps_its_nearest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "NEIGHBOURS", 2)
    # With item 1, users watched item 2 four times, item 3 three times, items 4 and 5 once.
    events = [
        (1, 1, 1),
        (2, 1, 1),
        (3, 1, 1),
        (4, 1, 1),
        (1, 2, 2),
        (2, 2, 2),
        (3, 2, 2),
        (4, 2, 2),
    ]
    events += [(1, 3, 3), (2, 3, 3), (3, 3, 3), (1, 4, 4), (2, 4, 5)]
    found = item_cosines(watched_before(histories(events), ITEMS, AS_OF)).toarray()
    assert np.flatnonzero(found[1]).tolist() == [2, 3]
    assert ((found > 0).sum(axis=1) <= 2).all()


def test_whoever_watched_very_much_says_what_goes_together_by_the_last_watches_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "LAST", 3)
    # Item 8 is the most watched, so it would fill the list first; what user 1 watched with 4 before
    # goes unsaid.
    events = [(1, hour, item) for hour, item in enumerate([5, 6, 4, 3, 2])] + [(2, 1, 4)]
    events += [(1, AS_OF + 1, 5), (3, 1, 8), (4, 1, 8), (5, 1, 8)]
    found = item_knn_lists(LogBefore(histories(events), histories([]), ITEMS, AS_OF), asked(2), 4)
    assert set(found.items[0, :2].tolist()) == {2, 3}
    assert found.items[0, 2] == 8


def test_the_neighbours_of_all_that_a_user_watched_count() -> None:
    events = [
        (1, 1, 1),
        (1, 2, 2),
        (2, 1, 1),
        (2, 2, 3),
        (3, 1, 2),
        (3, 2, 4),
        (4, 1, 2),
        (4, 2, 4),
        (5, 1, 4),
    ]
    watched = binary(events)
    expected = (watched @ dense_cosines(watched))[1]
    found = item_knn_lists(
        LogBefore(histories(events), histories(events), ITEMS, AS_OF), asked(1), 2
    )
    assert found.items.tolist() == [[4, 3]]
    np.testing.assert_allclose(found.scores[0], expected[[4, 3]], rtol=1e-5)


@given(events=EVENTS, penalty=st.sampled_from([0.5, 3.0, 100.0]))
def test_ease_is_the_papers_formula_with_fewer_users_than_items_and_with_more(
    events: Any, penalty: float
) -> None:
    watched, history = binary(events), watched_before(histories(events), ITEMS, AS_OF)
    model = ease(history, penalty)
    expected = (watched @ dense_ease(watched, penalty))[:, model.known]
    np.testing.assert_allclose(model.scores(history), expected, rtol=1e-3, atol=1e-4)
    assert model.known.tolist() == np.flatnonzero(watched.any(axis=0)).tolist()


def test_ease_inverts_the_smaller_matrix_and_both_ways_give_the_same_scores() -> None:
    rng = np.random.default_rng(1)
    watched = [(user, 1, int(item)) for user in range(1, 6) for item in rng.permutation(8)[:4] + 1]
    few = watched_before(histories(watched, 6), ITEMS, AS_OF)
    # Three times the same watches and three times the penalty are three times the same matrix.
    many = watched_before(
        histories([(u + 5 * n, 1, i) for u, _, i in watched for n in range(3)], 16), ITEMS, AS_OF
    )
    by_users, by_items = ease(few, 2.0), ease(many, 6.0)
    assert (len(by_users.inverse), len(by_items.inverse)) == (5, 8)
    np.testing.assert_allclose(by_users.scores(few), by_items.scores(few), rtol=1e-4, atol=1e-5)


@given(events=EVENTS, k=st.integers(1, ITEMS))
@BOTH
def test_lists_are_the_best_unseen_items_then_the_most_watched(
    lists: Lists, events: Any, k: int
) -> None:
    watches, clicks = histories(events), histories([(u, t, i) for u, t, i in events if i % 3])
    watched, users = binary(events), asked(7, 1, 2, 3, 4, 5, 6)
    counts = np.bincount([i for _, t, i in events if t < AS_OF and i < ITEMS], minlength=ITEMS)
    is_ease = lists is ease_lists
    scores = watched @ (
        dense_ease(watched, baselines.PENALTY) if is_ease else dense_cosines(watched)
    )
    found = lists(LogBefore(watches, clicks, ITEMS, AS_OF), users, k)
    assert found.users.tolist() == users.tolist()
    for user, items, values in zip(users, found.items, found.scores, strict=True):
        eligible = {*range(1, ITEMS)} - {
            i for u, t, i in events if u == user and t < AS_OF and i % 3
        }
        said = watched.any(axis=0) & watched[user].any() if is_ease else scores[user] > 0
        named = {i for i in eligible if said[i]}
        count = min(k, len(eligible))
        listed = items[:count].tolist()
        assert len({*listed}) == count
        assert {*listed} <= eligible
        assert items[count:].tolist() == [0] * (k - count)
        assert (values[count:] == -np.inf).all()
        assert (np.diff(values[:count]) <= 0).all()
        best, rest = listed[: len(named)], listed[len(named) :]
        assert {*best} <= named
        np.testing.assert_allclose(
            scores[user][best], sorted(scores[user][[*named]])[::-1][:k], atol=1e-6
        )
        assert (
            rest == sorted(eligible - named, key=lambda item: (-counts[item], -item))[: len(rest)]
        )


@BOTH
def test_what_comes_at_or_after_the_instant_and_items_beyond_the_catalogue_change_nothing(
    lists: Lists,
) -> None:
    early = two_tastes()
    late = [
        (1, AS_OF, 2),
        (2, AS_OF + 1, 1),
        (7, AS_OF, 5),
        (3, AS_OF, 8),
        (2, 1, ITEMS),
        (4, 2, ITEMS),
    ]
    users = asked(*range(1, 8))
    before, after = (
        lists(LogBefore(w, w, ITEMS, AS_OF), users, 5)
        for w in (histories(early), histories(early + late))
    )
    np.testing.assert_array_equal(before.items, after.items)
    np.testing.assert_array_equal(before.scores, after.scores)


@BOTH
def test_a_user_without_history_gets_what_is_most_watched(lists: Lists) -> None:
    watches = histories([(1, 1, 3), (2, 1, 3), (3, 1, 3), (1, 2, 5), (2, 2, 5), (3, 2, 1)])
    found = lists(LogBefore(watches, histories([(7, 1, 5)]), ITEMS, AS_OF), asked(7), 4)
    assert found.items.tolist() == [[3, 1, 8, 7]]
    assert (found.scores < 0).all()


def test_what_fills_a_list_scores_less_than_what_ease_says_least_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Whoever watched 1 watched one of 2, 3, 4 and 8 beside it: to user 41, without 1, 8 is worth -1
    # - 1 - 1, about.
    pairs = [(user, 1, item) for user in range(1, 41) for item in (1, (2, 3, 4, 8)[user % 4])]
    watches = histories([*pairs, (41, 1, 2), (41, 1, 3), (41, 1, 4)], 42)
    monkeypatch.setattr(baselines, "PENALTY", 0.1)
    found = ease_lists(LogBefore(watches, watches, ITEMS, AS_OF), asked(41), 5)
    assert found.items.tolist() == [[1, 8, 7, 6, 5]]
    assert found.scores[0, 1] < -1
    assert (np.diff(found.scores[0]) <= 0).all()


@BOTH
def test_a_log_without_any_watch_yet_gives_the_newest_items(lists: Lists) -> None:
    nothing = histories([(1, AS_OF, 3)])
    assert lists(LogBefore(nothing, nothing, ITEMS, AS_OF), asked(1, 2), 2).items.tolist() == [
        [8, 7],
        [8, 7],
    ]


@BOTH
def test_lists_in_many_shards_are_the_lists_in_one(
    lists: Lists, monkeypatch: pytest.MonkeyPatch
) -> None:
    watches, users = histories(two_tastes()), asked(6, 2, 7, 1, 5)
    whole = lists(LogBefore(watches, watches, ITEMS, AS_OF), users, 6)
    monkeypatch.setattr("recall.candidates.SHARD", 2)
    monkeypatch.setattr(baselines, "SHARD", 2)
    parts = lists(LogBefore(watches, watches, ITEMS, AS_OF), users, 6)
    np.testing.assert_array_equal(parts.items, whole.items)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-5)


def test_ease_is_for_catalogues_of_a_limited_number_of_watched_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(baselines, "EASE_ITEMS", 2)
    watches = histories([(1, 1, 3), (1, 2, 5), (1, 3, 3), (1, AS_OF, 7), (2, 1, ITEMS)])
    assert ease_fits(LogBefore(watches, watches, ITEMS, AS_OF))
    assert ease_lists(LogBefore(watches, watches, ITEMS, AS_OF), asked(2), 1).items.shape == (1, 1)
    assert not ease_fits(LogBefore(watches, watches, ITEMS, AS_OF + 1))
    with pytest.raises(ValueError, match="at most 2 watched items, found 3"):
        ease_lists(LogBefore(watches, watches, ITEMS, AS_OF + 1), asked(2), 1)
