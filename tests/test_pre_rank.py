"""The light scorer finds a known sum, keeps what brute force keeps, and says what that costs."""

import numpy as np
import pytest

from features.asof_features import Block
from ranking import recommend
from ranking.pre_rank import INPUTS, RIDGE, PreRanker, distilled, kept, seconds_lost
from ranking.recommend import Lists

USERS, ITEMS, K, KEEP = 40, 200, 60, 12


@pytest.fixture(scope="module")
def items():
    rng = np.random.default_rng(0)
    numbers = {
        "item_seconds_per_impression": rng.random(ITEMS),
        "item_age_hours": rng.exponential(9, ITEMS),
    }
    numbers["item_age_hours"][rng.random(ITEMS) < 0.1] = np.nan
    return Block(ITEMS, numbers, {})


@pytest.fixture(scope="module")
def lists():
    """Lists of different items, some shorter than others, not always filled from the front."""
    rng = np.random.default_rng(1)
    chosen = np.stack([rng.permutation(np.arange(1, ITEMS))[:K] for _ in range(USERS)]).astype(
        np.int32
    )
    chosen[3, 20:], chosen[5], chosen[7, ::2] = 0, 0, 0
    users = rng.permutation(np.arange(1, 100))[:USERS].astype(np.int32)
    recall = {
        "recall_z": rng.random(chosen.shape),
        "recall_merged": np.where(chosen > 0, -rng.random(chosen.shape), -np.inf),
    }
    return Lists(users, chosen, recall, recall["recall_merged"])


def seconds_of(items, lists, noise=0.0):
    """A known sum: e^(3 sqrt(yield) + 2 z^2), less where the age is unknown, times what is the
    user's own.
    """
    rng = np.random.default_rng(2)
    known = ~np.isnan(items.numbers["item_age_hours"][lists.items])
    logarithms = (
        3 * np.sqrt(items.numbers["item_seconds_per_impression"][lists.items])
        + 2 * lists.recall["recall_z"] ** 2
        + known
    )
    own = 3 * rng.normal(size=(len(lists.users), 1))
    seconds = np.exp(logarithms + own + noise * rng.normal(size=lists.items.shape))
    return np.where(lists.items > 0, seconds, -np.inf)


def four_inputs(x):
    known = np.nan_to_num(x)
    return np.stack([known, known**2, np.sqrt(known), np.isnan(x)], axis=1)


def scores_of(pre_ranker, items, lists):
    return pre_ranker.scores(pre_ranker.worth(items), lists)


def test_a_sum_of_items_and_recalls_columns_is_found_whatever_the_user_adds(items, lists):
    seconds = seconds_of(items, lists)
    scores = scores_of(distilled(items, lists, seconds), items, lists)
    there = lists.items > 0
    for row in range(USERS):
        if there[row].any():
            assert (
                np.corrcoef(scores[row, there[row]], np.log(seconds[row, there[row]]))[0, 1] > 0.98
            )
    lost = seconds_lost(seconds, scores, KEEP, [5])[5]
    by_chance = seconds_lost(
        seconds, np.where(there, -np.arange(K, dtype=float), -np.inf), KEEP, [5]
    )[5]
    assert lost < 0.01
    assert by_chance > 0.3


def test_the_weights_are_those_of_least_squares_row_by_row(items, lists):
    """Every pair a row of a matrix, its logarithm about its list's mean, weighed by its share of
    the list's seconds.
    """
    seconds = seconds_of(items, lists, noise=0.5)
    found = distilled(items, lists, seconds)
    quantile = {name: found.quantiles[name].normalised for name in found.quantiles}
    rows, targets = [], []
    for n in range(USERS):
        there = lists.items[n] > 0
        if not there.any():
            continue
        columns = [
            quantile[name](items.numbers[name][lists.items[n, there]]) for name in items.numbers
        ]
        columns += [quantile[name](lists.recall[name][n, there]) for name in lists.recall]
        inputs = np.concatenate([four_inputs(column) for column in columns], axis=1)
        share = seconds[n, there] / seconds[n, there].sum()
        rows.append((inputs - share @ inputs) * np.sqrt(share)[:, None])
        targets.append(
            (np.log(seconds[n, there]) - share @ np.log(seconds[n, there])) * np.sqrt(share)
        )
    matrix, target = np.concatenate(rows), np.concatenate(targets)
    size = matrix.shape[1]
    penalty = np.sqrt(RIDGE * (matrix**2).sum() / size) * np.eye(size)
    expected = np.linalg.lstsq(
        np.concatenate([matrix, penalty]), np.append(target, np.zeros(size)), rcond=None
    )[0]
    weights = np.concatenate([*found.item.values(), *found.recall.values()])
    assert len(weights) == len(INPUTS) * 4
    np.testing.assert_allclose(weights, expected, atol=1e-4)


def test_scores_go_by_item_and_recall_alone(items, lists):
    """What makes it light: the same item with the same columns scores the same in every list."""
    pre_ranker = distilled(items, lists, seconds_of(items, lists))
    others = Lists(lists.users[::-1].copy(), lists.items, lists.recall, lists.log_chances)
    np.testing.assert_array_equal(
        scores_of(pre_ranker, items, lists), scores_of(pre_ranker, items, others)
    )


@pytest.mark.parametrize("keep", [1, KEEP, K - 1, K, K + 5])
def test_the_best_are_kept_in_the_lists_own_order(items, lists, keep):
    scores = scores_of(distilled(items, lists, seconds_of(items, lists)), items, lists)
    left = kept(lists, scores, keep)
    assert left.items.shape == (USERS, min(keep, K))
    np.testing.assert_array_equal(left.users, lists.users)
    for row in range(USERS):
        there = [place for place in range(K) if lists.items[row, place]]
        best = sorted(sorted(there, key=lambda place: -scores[row, place])[:keep])
        chosen = left.items[row] > 0
        assert left.items[row, chosen].tolist() == lists.items[row, best].tolist()
        for name, values in lists.recall.items():
            assert left.recall[name][row, chosen].tolist() == values[row, best].tolist()


def test_what_a_cut_loses_is_what_brute_force_misses(items, lists):
    rng = np.random.default_rng(3)
    seconds = seconds_of(items, lists)
    scores = np.where(lists.items > 0, rng.random(lists.items.shape), -np.inf)
    lost = seconds_lost(seconds, scores, KEEP, [1, 5])
    for k, share in lost.items():
        whole = left = 0.0
        for row in range(USERS):
            pairs = [(scores[row, p], seconds[row, p]) for p in range(K) if lists.items[row, p]]
            whole += sum(sorted((s for _, s in pairs), reverse=True)[:k])
            left += sum(
                sorted((s for _, s in sorted(pairs, reverse=True)[:KEEP]), reverse=True)[:k]
            )
        assert share == pytest.approx(1 - left / whole)
        assert 0 < share < 1
    assert seconds_lost(seconds, scores, K, [5]) == {5: 0}
    assert np.isnan(seconds_lost(seconds[:0], scores[:0], KEEP, [5])[5])


def test_without_teachers_the_first_of_each_list_are_kept(items, lists):
    nobody = lists.take(slice(0))
    pre_ranker = distilled(items, nobody, np.zeros((0, K)))
    left = kept(lists, scores_of(pre_ranker, items, lists), KEEP)
    np.testing.assert_array_equal(left.items[0], lists.items[0, :KEEP])
    assert kept(nobody, scores_of(pre_ranker, items, nobody), KEEP).items.shape == (0, KEEP)


def test_a_ranker_that_expects_nothing_of_some_lists_teaches_by_the_others(items, lists):
    seconds = seconds_of(items, lists)
    silent = np.where(np.arange(USERS)[:, None] % 2, np.minimum(seconds, 0), seconds)
    scores = scores_of(distilled(items, lists, silent), items, lists)
    assert np.isfinite(scores[lists.items > 0]).all()
    assert seconds_lost(seconds, scores, KEEP, [5])[5] < 0.02


def test_a_saved_scorer_scores_the_same(items, lists, tmp_path):
    pre_ranker = distilled(items, lists, seconds_of(items, lists))
    pre_ranker.save(tmp_path)
    again = PreRanker.load(tmp_path)
    np.testing.assert_array_equal(
        scores_of(pre_ranker, items, lists), scores_of(again, items, lists)
    )


def test_shards_change_nothing(items, lists, monkeypatch):
    seconds = seconds_of(items, lists)
    scores = scores_of(distilled(items, lists, seconds), items, lists)
    monkeypatch.setattr(recommend, "PAIRS_A_SHARD", 7 * K)
    np.testing.assert_allclose(
        scores_of(distilled(items, lists, seconds), items, lists), scores, rtol=1e-6
    )
