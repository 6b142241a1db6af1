"""Slices of users and items, and what is found in each, by hand and against loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recall.metrics import RelevantItems, places
from recall.slices import (
    evaluation_users,
    found_shares,
    items_by_age,
    items_by_popularity,
    sliced_means,
    users_by_activity,
)

COUNTS = st.lists(st.integers(0, 6), min_size=1, max_size=12)


def members(slices):
    return {name: np.flatnonzero(chosen).tolist() for name, chosen in slices.items()}


def test_users_are_sliced_by_their_watches_at_1_10_and_50():
    assert members(users_by_activity(np.array([0, 1, 9, 10, 49, 50, 500]))) == {
        "users_with_0_watches": [0],
        "users_with_1_to_9_watches": [1, 2],
        "users_with_10_to_49_watches": [3, 4],
        "users_with_50_or_more_watches": [5, 6],
    }


def test_items_are_sliced_by_age_and_one_that_is_not_there_yet_is_in_no_slice():
    assert members(items_by_age(np.array([-np.inf, 0, 0.01, 0.99, 1, 6.9, 7, 900]))) == {
        "items_younger_than_1_day": [2, 3],
        "items_of_1_to_7_days": [4, 5],
        "items_of_7_days_or_more": [6, 7],
    }


def test_items_are_sliced_at_thirds_of_the_watches_and_equals_stay_together():
    watches = np.array([0, 40, 20, 10, 10, 10, 0, 0])
    there = np.array([False, True, True, True, True, True, True, False])
    assert members(items_by_popularity(watches, there)) == {
        "items_with_0_watches": [6],
        "items_of_the_tail": [3, 4, 5],
        "items_of_the_middle": [2],
        "items_of_the_head": [1],
    }


def test_where_nothing_was_watched_every_item_has_no_watch():
    slices = members(items_by_popularity(np.zeros(3), np.array([False, True, True])))
    assert slices.pop("items_with_0_watches") == [1, 2]
    assert list(slices.values()) == [[], [], []]


@given(COUNTS)
def test_every_item_is_in_the_slice_that_the_watches_of_more_popular_items_reach(counts):
    slices = members(items_by_popularity(np.array(counts), np.ones(len(counts), dtype=bool)))
    names = ("items_of_the_head", "items_of_the_middle", "items_of_the_tail")
    for item, count in enumerate(counts):
        third = 3 * sum(other for other in counts if other > count) // max(sum(counts), 1)
        name = names[third] if count else "items_with_0_watches"
        assert [found for found, items in slices.items() if item in items] == [name]


@given(COUNTS, st.randoms(use_true_random=False))
def test_the_order_of_the_items_changes_no_slice(counts, random):
    order = list(range(len(counts)))
    random.shuffle(order)
    there = np.ones(len(counts), dtype=bool)
    before, after = (
        items_by_popularity(np.array(counts)[rows], there) for rows in (slice(None), order)
    )
    for name, chosen in before.items():
        assert chosen[order].tolist() == after[name].tolist()


def test_means_are_over_the_users_of_a_slice_that_have_a_holdout():
    slices = {
        "all": np.array([True, True, True]),
        "last": np.array([False, False, True]),
        "none": np.zeros(3, bool),
    }
    means = sliced_means(
        {"hr@5": np.array([1.0, 0.0, np.nan]), "recall@5": np.array([0.5, 0.0, np.nan])}, slices
    )
    assert list(means) == [f"{metric}/{name}" for name in slices for metric in ("hr@5", "recall@5")]
    assert means["hr@5/all"] == 0.5
    assert means["recall@5/all"] == 0.25
    assert all(
        math.isnan(means[f"{metric}/{name}"])
        for metric in ("hr@5", "recall@5")
        for name in ("last", "none")
    )
    relevant = RelevantItems(np.array([0, 1, 3, 3]), np.array([7, 8, 9]))
    assert evaluation_users(relevant, slices) == {"all": 2, "last": 0, "none": 0}


def test_found_shares_count_watches_and_not_users():
    slices = {"a": np.array([True, True, True, False]), "b": np.zeros(4, bool)}
    shares = found_shares([1, 5], np.array([1, 5, 0, 1]), slices)
    assert shares.pop("watches_found@1/a") == pytest.approx(1 / 3)
    assert shares.pop("watches_found@5/a") == pytest.approx(2 / 3)
    assert list(shares) == ["watches_found@1/b", "watches_found@5/b"]
    assert all(math.isnan(share) for share in shares.values())


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_found_shares_of_items_equal_a_loop_over_the_watches(k, seed):
    rng = np.random.default_rng(seed)
    ranked = np.array([rng.permutation(9)[:5] for _ in range(4)], dtype=np.int32)
    offsets = np.append(0, np.cumsum(rng.integers(0, 5, 4)))
    relevant = RelevantItems(offsets, rng.integers(0, 9, offsets[-1]).astype(np.int32))
    young = rng.random(9) < 0.5
    watches = [
        (u, item) for u, item in zip(relevant.rows, relevant.items, strict=True) if young[item]
    ]
    found = [item > 0 and item in ranked[user, :k] for user, item in watches]
    share = found_shares([k], places(ranked, relevant), {"young": young[relevant.items]})[
        f"watches_found@{k}/young"
    ]
    assert share == pytest.approx(np.mean(found)) if found else math.isnan(share)
