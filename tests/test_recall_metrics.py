"""The metrics of candidate lists against brute force, against scikit-learn and by their
properties.
"""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from recall import metrics
from recall.metrics import (
    RelevantItems,
    accuracy,
    coverage,
    gini,
    hits,
    listed_share,
    mean_popularity,
    places,
)

CATALOGUE = 12
NAMES = ("hr", "recall", "ndcg")


def at(k, name, ranked, relevant):
    return accuracy([k], ranked, relevant)[f"{name}@{k}"]


def in_test(*users):
    sizes = [len(items) for items in users]
    return RelevantItems(
        np.append(0, np.cumsum(sizes)).astype(np.int64),
        np.array([*itertools.chain(*users)], dtype=np.int32),
    )


def lists(*users):
    return np.array(users, dtype=np.int32)


@st.composite
def worlds(draw, distinct=True):
    """Lists of some users, some cut short, and what they watched: perhaps nothing, perhaps item
    0.
    """
    users = draw(st.integers(1, 5))
    width = draw(st.integers(1, 8))
    item = st.integers(1, CATALOGUE)
    listed = [draw(st.lists(item, max_size=width, unique=distinct)) for _ in range(users)]
    ranked = lists(*[row + [0] * (width - len(row)) for row in listed])
    watched = [draw(st.lists(st.integers(0, CATALOGUE), max_size=6)) for _ in range(users)]
    return ranked, in_test(*watched)


def by_hand(k, row, watched):
    """One user's hit rate, recall and NDCG, straight from their definitions."""
    targets = set(watched) - {0}
    size = len(targets) + list(watched).count(0)
    if size == 0:
        return {"hr": math.nan, "recall": math.nan, "ndcg": math.nan}
    places = {}
    for place, item in enumerate(row[:k].tolist()):
        if item in targets:
            places.setdefault(item, place)
    gain = sum(1 / math.log2(place + 2) for place in places.values())
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, size)))
    return {"hr": float(bool(places)), "recall": len(places) / size, "ndcg": gain / ideal}


@given(worlds(distinct=False), st.integers(1, 10))
def test_every_metric_equals_its_definition_user_by_user(world, k):
    ranked, relevant = world
    expected = [
        by_hand(k, row, relevant.items[a:b])
        for row, (a, b) in zip(ranked, itertools.pairwise(relevant.offsets), strict=True)
    ]
    for name in NAMES:
        np.testing.assert_allclose(
            at(k, name, ranked, relevant), [user[name] for user in expected], atol=1e-12
        )


@given(worlds(), st.integers(1, 8))
def test_ndcg_agrees_with_scikit_learn_where_the_whole_catalogue_is_ranked(world, k):
    ranked, _ = world
    rng = np.random.default_rng(k)
    full = np.array([rng.permutation(np.arange(1, CATALOGUE + 1)) for _ in ranked], dtype=np.int32)
    watched = [
        rng.choice(np.arange(1, CATALOGUE + 1), size=3, replace=False).tolist() for _ in ranked
    ]
    relevance, scores = np.zeros((2, len(full), CATALOGUE))
    for user, items in enumerate(watched):
        relevance[user, np.array(items) - 1] = 1
        scores[user, full[user] - 1] = -np.arange(CATALOGUE)
    ours = at(k, "ndcg", full, in_test(*watched)).mean()
    assert ours == pytest.approx(ndcg_score(relevance, scores, k=k))


@given(worlds())
def test_every_metric_lies_between_0_and_1(world):
    ranked, relevant = world
    for values in accuracy([1, 3, 8], ranked, relevant).values():
        known = values[~np.isnan(values)]
        assert ((known >= 0) & (known <= 1 + 1e-12)).all()


@given(worlds())
def test_hit_rate_and_recall_never_fall_as_the_list_grows(world):
    ranked, relevant = world
    together = accuracy(range(1, 9), ranked, relevant)
    for name in ("hr", "recall"):
        values = np.array([together[f"{name}@{k}"] for k in range(1, 9)])
        assert (np.nan_to_num(np.diff(values, axis=0)) >= 0).all()


@given(worlds(), st.randoms(use_true_random=False))
def test_renaming_the_items_changes_no_metric(world, random):
    ranked, relevant = world
    names = np.arange(CATALOGUE + 1)
    tail = names[1:].tolist()
    random.shuffle(tail)
    names[1:] = tail
    renamed = RelevantItems(relevant.offsets, names[relevant.items])
    before, after = accuracy([2, 5], ranked, relevant), accuracy([2, 5], names[ranked], renamed)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@given(worlds())
def test_the_order_of_the_users_is_only_the_order_of_the_answers(world):
    ranked, relevant = world
    watched = [part.tolist() for part in np.split(relevant.items, relevant.offsets[1:-1])]
    backwards = at(4, "recall", ranked[::-1], in_test(*watched[::-1]))
    np.testing.assert_array_equal(backwards[::-1], at(4, "recall", ranked, relevant))


def test_slabs_of_users_give_what_one_slab_gives(monkeypatch):
    rng = np.random.default_rng(5)
    ranked = rng.integers(0, 40, (101, 9)).astype(np.int32)
    relevant = in_test(*[rng.integers(0, 40, size).tolist() for size in rng.integers(0, 6, 101)])
    whole = hits(ranked, relevant)
    monkeypatch.setattr(metrics, "_SLAB_CELLS", 40 * 7)
    np.testing.assert_array_equal(hits(ranked, relevant), whole)
    assert whole.any()


def test_nobody_never_hits_and_an_unseen_item_in_the_holdout_counts_as_missed():
    relevant = in_test([0, 3])
    assert hits(lists([0, 3, 0]), relevant).tolist() == [[False, True, False]]
    assert at(3, "recall", lists([0, 3, 0]), relevant).tolist() == [0.5]


def test_the_minus_one_of_an_index_that_ran_out_is_not_the_last_item():
    assert not hits(lists([-1, 2]), in_test([9])).any()


def test_a_user_without_holdout_is_nan_and_an_empty_list_is_zero():
    for name in NAMES:
        without, empty = at(2, name, lists([1, 2], [0, 0]), in_test([], [1]))
        assert math.isnan(without)
        assert empty == 0


def test_an_item_listed_or_watched_twice_counts_once():
    relevant = in_test([4, 4, 5])
    assert relevant.sizes.tolist() == [2]
    assert hits(lists([4, 4, 9]), relevant).tolist() == [[True, False, False]]


def test_a_short_list_is_evaluated_against_the_ideal_of_the_k_that_was_asked_for():
    assert at(3, "ndcg", lists([1]), in_test([1, 2, 3]))[0] == pytest.approx(
        1 / (1 + 1 / math.log2(3) + 0.5)
    )


def test_no_user_at_all_gives_no_figure():
    nobody = RelevantItems(np.array([0]), np.array([], dtype=np.int32))
    assert at(5, "recall", np.zeros((0, 5), dtype=np.int32), nobody).size == 0


def test_all_metrics_at_all_ks_are_those_computed_one_by_one():
    ranked, relevant = lists([1, 2, 3], [4, 5, 6]), in_test([2, 9], [6])
    together = accuracy([1, 3], ranked, relevant)
    assert list(together) == ["hr@1", "recall@1", "ndcg@1", "hr@3", "recall@3", "ndcg@3"]
    for name, values in together.items():
        metric, k = name.split("@")
        np.testing.assert_array_equal(values, at(int(k), metric, ranked, relevant))


def test_coverage_counts_items_that_somebody_is_offered_and_never_nobody():
    ranked = lists([1, 2, 0], [1, 3, 0])
    assert coverage(1, ranked, 4) == 0.25
    assert coverage(3, ranked, 4) == 0.75


def test_gini_is_0_for_equal_shares_and_grows_to_1_for_the_same_list_for_all():
    assert gini(2, lists([1, 2], [3, 4]), 4) == pytest.approx(0)
    assert gini(1, lists([7], [7]), 100) == pytest.approx(0.99)
    assert math.isnan(gini(1, lists([0]), 4))


@given(worlds())
def test_gini_is_half_the_relative_mean_difference(world):
    ranked, _ = world
    times = np.bincount(ranked.ravel(), minlength=CATALOGUE + 1)[1:]
    if times.sum():
        difference = np.abs(times[:, None] - times[None, :]).mean()
        assert gini(8, ranked, CATALOGUE) == pytest.approx(
            difference / (2 * times.mean()), abs=1e-12
        )


def test_mean_popularity_is_the_mean_count_over_the_places_that_are_filled():
    counts = np.array([1000, 10, 20, 60])
    assert mean_popularity(2, lists([1, 2], [3, 0]), counts) == 30
    assert math.isnan(mean_popularity(2, lists([0, 0]), counts))


def test_the_listed_share_is_of_the_places_that_are_filled():
    new = np.array([True, True, False, False])
    assert listed_share(2, lists([1, 2, 1], [3, 0, 0]), new) == pytest.approx(1 / 3)
    assert listed_share(3, lists([1, 2, 1], [3, 0, 0]), new) == 0.5
    assert math.isnan(listed_share(1, lists([0]), new))


def test_each_watch_is_told_the_place_of_its_item_in_the_list():
    assert places(lists([5, 3, 0], [3, 9, 3]), in_test([3, 7, 0, 5], [3, 3, 9])).tolist() == [
        2,
        0,
        0,
        1,
        1,
        1,
        2,
    ]
    assert places(lists([0, 0]), in_test([])).tolist() == []


@given(worlds(distinct=False))
def test_places_equal_the_definition_watch_by_watch(world):
    ranked, relevant = world
    rows = [ranked[user].tolist() for user in relevant.rows]
    expected = [
        row.index(item) + 1 if item and item in row else 0
        for row, item in zip(rows, relevant.items, strict=True)
    ]
    assert places(ranked, relevant).tolist() == expected


@pytest.mark.parametrize(
    ("offsets", "items"),
    [([1, 2], [5, 6]), ([0, 3], [5, 6]), ([0, 2, 1, 2], [5, 6]), ([0, 1], [-1]), ([], [])],
)
def test_a_holdout_whose_offsets_do_not_fit_is_refused(offsets, items):
    with pytest.raises(ValueError, match=r"relevant items|offsets"):
        RelevantItems(np.array(offsets, dtype=np.int64), np.array(items, dtype=np.int32))


def test_what_can_not_be_meant_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        accuracy([0], lists([1]), in_test([1]))
    with pytest.raises(ValueError, match="2 users"):
        accuracy([1], lists([1]), in_test([1], [2]))
    with pytest.raises(ValueError, match="item 5 is listed, but the catalogue ends at 4"):
        coverage(1, lists([5]), 4)
