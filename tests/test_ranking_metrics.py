"""The metrics of scored impressions against brute force over all pairs and against scikit-learn."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score

from ranking.metrics import (
    auc,
    by_bucket,
    by_duration,
    by_item_age,
    by_user_clicks,
    calibration_interval,
    calibration_ratio,
    gauc_by_clicks,
    gauc_by_rows,
    inversions,
    mae,
    ndcg_of_seconds,
    quantile_buckets,
    share_of_unclicked_below,
    weighted_user_loss,
    xauc,
)

# Few values each, so that ties, one-class users and users without seconds are all common.
ROW = st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 5), st.integers(0, 4))


@st.composite
def impressions(draw, at_least=0):
    """Columns users, clicked, seconds (0 where not clicked) and predicted."""
    rows = draw(st.lists(ROW, min_size=at_least, max_size=30))
    users, clicked, seconds, predicted = (
        np.array([row[i] for row in rows], dtype=float) for i in range(4)
    )
    clicked = clicked.astype(bool)
    return users.astype(int), clicked, np.where(clicked, seconds, 0), predicted / 4


def same(ours, expected):
    assert ours == pytest.approx(expected, nan_ok=True)


def auc_by_sklearn(clicked, predicted):
    return roc_auc_score(clicked, predicted) if 0 < clicked.sum() < clicked.size else math.nan


def gauc_by_sklearn(users, clicked, predicted, weigh):
    masks = [users == user for user in np.unique(users)]
    evaluation = [mask for mask in masks if 0 < clicked[mask].sum() < mask.sum()]
    weights = [weigh(clicked[mask]) for mask in evaluation]
    aucs = [roc_auc_score(clicked[mask], predicted[mask]) for mask in evaluation]
    return np.average(aucs, weights=weights) if evaluation else math.nan


@given(impressions())
def test_auc_is_that_of_scikit_learn(rows):
    _, clicked, _, predicted = rows
    same(auc(clicked, predicted), auc_by_sklearn(clicked, predicted))


@given(impressions())
def test_both_gaucs_are_weighted_means_of_scikit_learns_auc_per_user(rows):
    users, clicked, _, predicted = rows
    same(
        gauc_by_rows(users, clicked, predicted), gauc_by_sklearn(users, clicked, predicted, np.size)
    )
    same(
        gauc_by_clicks(users, clicked, predicted),
        gauc_by_sklearn(users, clicked, predicted, np.sum),
    )


def test_the_two_gaucs_weigh_users_differently():
    users = np.array([1, 1, 2, 2, 2, 2])
    clicked = np.array([True, False, True, True, True, False])
    predicted = np.array([0.1, 0.9, 0.9, 0.8, 0.7, 0.1])
    assert gauc_by_rows(users, clicked, predicted) == pytest.approx(4 / 6)
    assert gauc_by_clicks(users, clicked, predicted) == pytest.approx(3 / 4)


def loss_by_pairs(users, clicked, seconds, predicted):
    lost = total = 0.0
    for i in np.flatnonzero(clicked):
        rivals = predicted[(users == users[i]) & ~clicked]
        if rivals.size:
            lost += seconds[i] * np.mean((rivals > predicted[i]) + 0.5 * (rivals == predicted[i]))
            total += seconds[i]
    return lost / total if total else math.nan


@given(impressions())
def test_weighted_user_loss_is_the_papers_sum_over_all_pairs(rows):
    same(weighted_user_loss(*rows), loss_by_pairs(*rows))


def test_weighted_user_loss_by_hand():
    users, clicked = np.array([7, 7, 7, 8]), np.array([True, True, False, True])
    seconds, predicted = np.array([30.0, 10.0, 0.0, 999.0]), np.array([0.9, 0.1, 0.5, 0.0])
    assert weighted_user_loss(users, clicked, seconds, predicted) == 0.25


def xauc_by_pairs(seconds, predicted):
    pairs = [
        (i, j) for i, j in itertools.permutations(range(len(seconds)), 2) if seconds[i] > seconds[j]
    ]
    if not pairs:
        return (math.nan,) * 3
    right = np.mean([predicted[i] > predicted[j] for i, j in pairs])
    tied = np.mean([predicted[i] == predicted[j] for i, j in pairs])
    return right, right + tied / 2, tied


@given(impressions())
def test_xauc_is_counted_over_all_pairs_of_unequal_seconds(rows):
    _, _, seconds, predicted = rows
    for ours, expected in zip(
        xauc(seconds, predicted), xauc_by_pairs(seconds, predicted), strict=True
    ):
        same(ours, expected)


def test_a_constant_prediction_is_all_ties_even_on_rows_sorted_by_seconds():
    assert xauc(np.arange(100.0), np.ones(100)) == (0, 0.5, 1)


@given(impressions(at_least=1), st.integers(0, 2**32 - 1))
def test_no_figure_depends_on_the_order_of_the_rows(rows, seed):
    users, clicked, seconds, predicted = rows
    order = np.random.default_rng(seed).permutation(len(users))
    moved = [column[order] for column in rows]
    for ours, again in zip(xauc(seconds, predicted), xauc(moved[2], moved[3]), strict=True):
        same(ours, again)
    same(weighted_user_loss(*rows), weighted_user_loss(*moved))
    same(gauc_by_rows(users, clicked, predicted), gauc_by_rows(moved[0], moved[1], moved[3]))
    np.testing.assert_allclose(
        ndcg_of_seconds(3, users, seconds, predicted),
        ndcg_of_seconds(3, moved[0], moved[2], moved[3]),
    )


@given(impressions())
def test_a_rising_transformation_of_the_predictions_changes_no_order(rows):
    users, clicked, seconds, predicted = rows
    steep = np.exp(3 * predicted)
    assert str(xauc(seconds, steep)) == str(xauc(seconds, predicted))
    same(weighted_user_loss(users, clicked, seconds, steep), weighted_user_loss(*rows))


@given(st.lists(st.integers(-3, 9), max_size=40))
def test_inversions_are_the_pairs_out_of_order(values):
    expected = sum(a > b for a, b in itertools.combinations(values, 2))
    assert inversions(np.array(values)) == expected


def test_xauc_over_a_million_rows_is_exact_and_takes_seconds():
    n = 1_000_000
    seconds = np.random.default_rng(3).permutation(n).astype(float)
    started = time.perf_counter()
    half_reversed = xauc(seconds, np.where(seconds < n / 2, -seconds, seconds))
    assert time.perf_counter() - started < 10
    pairs, low_pairs = n * (n - 1) // 2, n // 2 * (n // 2 - 1) // 2
    assert half_reversed.strict == (pairs - low_pairs) / pairs


def ndcg_by_sklearn(k, seconds, predicted):
    if not seconds.any():
        return math.nan
    return ndcg_score([seconds], [predicted], k=k) if seconds.size > 1 else 1.0


@given(impressions(at_least=1), st.integers(1, 6))
def test_ndcg_of_seconds_is_that_of_scikit_learn_user_by_user(rows, k):
    users, _, seconds, predicted = rows
    masks = [users == user for user in np.unique(users)]
    expected = [ndcg_by_sklearn(k, seconds[mask], predicted[mask]) for mask in masks]
    np.testing.assert_allclose(ndcg_of_seconds(k, users, seconds, predicted), expected)


def test_the_share_of_unclicked_below_is_per_row_and_within_the_user():
    users, clicked = np.array([1, 2, 1, 1, 3]), np.array([True, False, False, False, True])
    share = share_of_unclicked_below(users, clicked, np.array([0.5, 0.1, 0.5, 0.2, 0.9]))
    np.testing.assert_array_equal(share, [0.75, 0.5, 0.75, 0.25, np.nan])


def test_errors_and_calibration_are_in_seconds():
    seconds, predicted = np.array([0.0, 10.0, 30.0]), np.array([2.0, 10.0, 38.0])
    assert mae(seconds, predicted) == pytest.approx(10 / 3)
    assert calibration_ratio(seconds, predicted) == 1.25


def test_single_precision_predictions_lose_nothing_over_many_rows():
    single = np.full(3_000_000, 0.1, dtype=np.float32)
    double = single.astype(np.float64)
    assert calibration_ratio(single, double) == pytest.approx(1, abs=1e-12)
    assert calibration_ratio(double, single) == pytest.approx(1, abs=1e-12)


def test_quantile_buckets_are_equally_full_and_keep_equal_values_together():
    assert quantile_buckets(np.array([5, 1, 4, 2, 3, 0]), 3).tolist() == [2, 0, 2, 1, 1, 0]
    assert quantile_buckets(np.array([1, 1, 1, 9]), 2).tolist() == [0, 0, 0, 1]
    assert quantile_buckets(np.array([]), 4).size == 0


def test_calibration_by_bucket_has_one_row_for_each_bucket():
    table = by_bucket(
        np.array(["short", "long", "long", "never"]),
        np.array([4.0, 10.0, 20.0, 0.0]),
        np.array([2.0, 12.0, 24.0, 1.0]),
    )
    assert list(table.columns) == [
        "bucket",
        "rows",
        "seconds",
        "predicted",
        "calibration_ratio",
        "mae",
    ]
    assert table.drop(columns="calibration_ratio").to_numpy().tolist() == [
        ["long", 2, 15.0, 18.0, 3.0],
        ["never", 1, 0.0, 1.0, 1.0],
        ["short", 1, 4.0, 2.0, 2.0],
    ]
    np.testing.assert_allclose(table["calibration_ratio"], [1.2, np.nan, 0.5])


def test_where_there_is_nothing_to_measure_the_figure_is_nan():
    none, users = np.array([]), np.array([], dtype=int)
    nobody = none.astype(bool)
    figures = [
        auc(nobody, none),
        gauc_by_rows(users, nobody, none),
        gauc_by_clicks(users, nobody, none),
    ]
    figures += [weighted_user_loss(users, nobody, none, none), *xauc(none, none)]
    figures += [
        mae(none, none),
        calibration_ratio(none, none),
        calibration_ratio(np.zeros(2), np.ones(2)),
    ]
    assert np.isnan(figures).all()
    assert ndcg_of_seconds(5, users, none, none).size == 0
    assert by_bucket(users, none, none).empty


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_null_and_infinite_numbers_are_refused_rather_than_sorted(bad):
    with pytest.raises(ValueError, match="finite"):
        xauc(np.array([1.0, 2.0]), np.array([0.0, bad]))
    with pytest.raises(ValueError, match="finite"):
        weighted_user_loss(np.ones(2), np.array([True, False]), np.array([bad, 0.0]), np.ones(2))


def test_columns_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        mae(np.ones(2), np.ones(3))
    with pytest.raises(ValueError, match="True or False"):
        auc(np.array([0, 1]), np.ones(2))


def bootstrapped(seed, users=300, ratio=1.2):
    """Users whose impressions resemble each other, predicted `ratio` times what they are worth on
    average.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, users)
    taste = np.repeat(rng.gamma(1, 1, users), sizes)
    user = np.repeat(np.arange(users), sizes)
    return user, taste * rng.gamma(1, 10, len(user)), np.full(len(user), 10.0 * ratio)


def test_the_interval_of_the_calibration_covers_the_truth_as_often_as_it_says():
    """95 % nominal over 100 worlds; without drawing whole users it would be far too narrow."""
    inside = 0
    for seed in range(100):
        users, seconds, predicted = bootstrapped(seed)
        low, high = calibration_interval(
            users, seconds, predicted, np.random.default_rng(seed), draws=200
        )
        assert low < high
        inside += low <= 1.2 <= high
    assert 87 <= inside <= 100
    rows = np.arange(len(users))
    narrow = calibration_interval(rows, seconds, predicted, np.random.default_rng(0))
    assert narrow[1] - narrow[0] < 0.75 * (high - low)


def test_the_interval_is_the_same_whatever_the_number_of_draws_at_once(monkeypatch):
    rows = bootstrapped(0)
    wide = calibration_interval(*rows, np.random.default_rng(1), draws=400)
    monkeypatch.setattr("ranking.metrics.DRAWS_AT_ONCE", 400)
    assert calibration_interval(*rows, np.random.default_rng(1), draws=400) == pytest.approx(wide)


def test_without_seconds_there_is_no_interval():
    interval = calibration_interval(np.arange(3), np.zeros(3), np.ones(3), np.random.default_rng(0))
    assert np.isnan(interval).all()


NAN = float("nan")


def member(slices, row):
    return [name for name, rows in slices.items() if rows[row]]


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        (NAN, "unknown"),
        (0, "under_10"),
        (9.9, "under_10"),
        (10, "10_to_20"),
        (20, "20_to_60"),
        (60, "over_60"),
        (9e9, "over_60"),
    ],
)
def test_every_duration_lies_in_one_slice(seconds, name):
    assert member(by_duration(np.array([seconds])), 0) == [f"duration_{name}"]


@pytest.mark.parametrize(
    ("clicks", "name"),
    [(0, "0"), (1, "1_to_9"), (9, "1_to_9"), (10, "10_to_49"), (50, "50_or_more")],
)
def test_every_viewer_lies_in_one_slice(clicks, name):
    assert member(by_user_clicks(np.array([float(clicks)])), 0) == [f"users_with_{name}_clicks"]


@pytest.mark.parametrize(
    ("hours", "names"),
    [
        (0, ["items_younger_than_1_day"]),
        (24, ["items_of_1_to_7_days"]),
        (168, ["items_of_7_days_or_more"]),
        (NAN, []),
    ],
)
def test_every_known_age_lies_in_one_slice(hours, names):
    assert member(by_item_age(np.array([float(hours)])), 0) == names
