"""The share of watch seconds that a list holds, by hand and by brute force."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features import SplitConfig, read_dataset
from funnel import evaluate_lists
from funnel.evaluation.list_metrics import listed_seconds_at, watch_seconds_share_at
from recall.metrics import RelevantItems

LISTS = np.array([[1, 2, 0], [3, 4, 5]], dtype=np.int32)


def watched(offsets, items):
    return RelevantItems(np.array(offsets), np.array(items, dtype=np.int32))


def test_the_share_is_of_all_seconds_and_not_a_mean_over_users():
    relevant = watched([0, 2, 3], [2, 9, 5])
    assert watch_seconds_share_at(3, LISTS, relevant, np.array([30.0, 50.0, 20.0])) == 0.5


def test_each_watch_of_an_item_watched_twice_counts_its_seconds():
    relevant = watched([0, 3, 3], [2, 2, 9])
    assert listed_seconds_at(3, LISTS, relevant, np.array([10.0, 20.0, 70.0])).tolist() == [30, 0]


def test_watches_of_unseen_items_are_missed_although_lists_hold_zeros():
    relevant = watched([0, 2, 2], [0, 1])
    assert watch_seconds_share_at(3, LISTS, relevant, np.array([75.0, 25.0])) == 0.25


def test_a_holdout_without_seconds_has_no_share():
    assert math.isnan(watch_seconds_share_at(1, LISTS, watched([0, 1, 1], [1]), np.zeros(1)))
    assert math.isnan(watch_seconds_share_at(1, LISTS, watched([0, 0, 0], []), np.zeros(0)))


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_the_share_equals_the_definition_row_by_row(k, seed):
    rng = np.random.default_rng(seed)
    ranked = rng.integers(0, 9, (4, 5)).astype(np.int32)
    offsets = np.append(0, np.cumsum(rng.integers(0, 5, 4)))
    relevant = RelevantItems(offsets, rng.integers(0, 12, offsets[-1]).astype(np.int32))
    seconds = rng.integers(0, 60, offsets[-1]).astype(float)
    by_hand = [
        sum(seconds[row] for row in range(a, b) if 0 < relevant.items[row] in ranked[user, :k])
        for user, (a, b) in enumerate(itertools.pairwise(offsets))
    ]
    np.testing.assert_array_equal(listed_seconds_at(k, ranked, relevant, seconds), by_hand)


@given(st.integers(0, 2**32 - 1))
def test_the_share_never_falls_as_the_list_grows_and_stays_within_0_and_1(seed):
    rng = np.random.default_rng(seed)
    ranked = rng.integers(0, 9, (3, 6)).astype(np.int32)
    relevant, seconds = watched([0, 4, 4, 9], rng.integers(1, 9, 9)), rng.random(9)
    shares = [watch_seconds_share_at(k, ranked, relevant, seconds) for k in range(1, 7)]
    assert (np.diff(shares) >= 0).all()
    assert 0 <= shares[0] <= shares[-1] <= 1


@pytest.mark.parametrize("seconds", [[1.0], [1.0, np.nan], [1.0, np.inf], [1.0, -2.0]])
def test_seconds_that_are_missing_null_or_negative_are_refused(seconds):
    with pytest.raises(ValueError, match="seconds must be"):
        watch_seconds_share_at(1, LISTS, watched([0, 1, 2], [1, 2]), np.array(seconds))


def test_a_list_of_no_places_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        watch_seconds_share_at(0, LISTS, watched([0, 1, 2], [1, 2]), np.ones(2))


def test_lists_are_judged_by_what_was_watched_next_beside_popularity(tmp_path):
    """User 1 watches b and c next, 20 and 60 seconds; user 2 watches c; everybody watched a."""
    rows = [(user, "a", 1, 30) for user in (1, 2, 3)] + [(3, "b", 2, 30)]
    rows += [(1, "b", 9, 20), (1, "c", 9, 60), (2, "c", 9, 20), (3, "c", 1, 30)]
    lines = [f"{user},{item},2024-05-0{day},{seconds}" for user, item, day, seconds in rows]
    log = "\n".join(["user_id,item_id,timestamp,watch_seconds", *lines])
    (tmp_path / "interactions.csv").write_text(log)
    dataset = read_dataset("canonical", tmp_path, SplitConfig(test_start="2024-05-09"))
    users = dataset.users.index_of(pa.array([1, 2]))
    a, b, c = dataset.items.index_of(pa.array(["a", "b", "c"])).tolist()
    lists = {
        "best": np.array([[c, b], [c, a]], np.int32),
        "worst": np.array([[a, 0]] * 2, np.int32),
    }
    table = evaluate_lists(dataset, users, lists, k=1)
    assert table.index.tolist() == ["best", "worst", "popularity"]
    assert table.loc["best"].tolist() == [0.8, 1.0, 1.0]
    assert table.loc["worst"].tolist() == [0.0, 0.0, 0.0]
    # Of b and c, watched once each before, the newer one comes first: b, for both users.
    assert table.loc["popularity", ["watch_seconds_share@1", "hr@1"]].tolist() == [0.2, 0.5]
