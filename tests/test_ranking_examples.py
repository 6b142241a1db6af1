"""Ranking rows: T of clicks with unknown seconds, thinning that keeps the odds, and what is kept on
disk.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from features.asof_counts import Events
from features.asof_features import AsOfFeatures, Block
from features.asof_log import AsOfLog
from features.schema import HOUR
from features.side_features import SideFeatures
from ranking.examples import (
    LABELS,
    SHRINKAGE,
    Exposures,
    RankingRows,
    blocks_of,
    filled_seconds,
    target_seconds,
    thinned,
)


def watches(items, clicked, seconds):
    return SimpleNamespace(
        items=np.array(items, np.int32),
        clicked=np.array(clicked, bool),
        seconds=np.array(seconds, float),
    )


NAN = np.nan


def test_an_unclicked_impression_is_worth_nothing_whatever_the_log_says():
    rows = watches([1, 1], [False, True], [7.0, 5.0])
    assert filled_seconds(rows, rows).tolist() == [0, 5]


def test_unknown_seconds_take_the_items_mean_drawn_towards_the_mean_of_all():
    known = watches(
        [1, 1, 2, 2, 3], [True, True, True, False, True], [10.0, 20.0, 60.0, 999.0, NAN]
    )
    rows = watches([1, 2, 3, 9], [True] * 4, [NAN] * 4)
    overall = 30.0
    expected = [
        (30 + SHRINKAGE * overall) / (2 + SHRINKAGE),
        (60 + SHRINKAGE * overall) / (1 + SHRINKAGE),
        overall,
        overall,
    ]
    np.testing.assert_allclose(filled_seconds(rows, known), expected)


def test_no_mean_is_learnt_from_the_rows_that_are_filled():
    known = watches([1], [True], [10.0])
    rows = watches([1, 1], [True, True], [NAN, 1000.0])
    np.testing.assert_allclose(filled_seconds(rows, known), [10, 1000])


def test_a_log_without_any_known_seconds_fills_zeros():
    rows = watches([1], [True], [NAN])
    assert filled_seconds(rows, rows).tolist() == [0]


def test_where_watches_are_counted_a_click_is_one():
    rows = watches([1, 1], [False, True], [7.0, 5.0])
    assert target_seconds(rows, rows, "watches").tolist() == [0, 1]
    assert target_seconds(rows, rows, "seconds").tolist() == [0, 5]


def test_thinning_keeps_every_click_and_at_most_so_many_unclicked_rows_a_user():
    rng = np.random.default_rng(0)
    users, clicked = rng.integers(1, 6, 400).astype(np.int32), rng.random(400) < 0.2
    rows, weight = thinned(clicked, users, 15, rng)
    assert (np.diff(rows) > 0).all()
    assert set(np.flatnonzero(clicked)) <= set(rows)
    left = np.bincount(users[rows][~clicked[rows]], minlength=6)
    np.testing.assert_array_equal(left, np.minimum(np.bincount(users[~clicked], minlength=6), 15))
    np.testing.assert_array_equal(weight[clicked[rows]], 1)


def test_thinned_rows_weigh_what_they_stand_for_so_each_users_odds_stay():
    """Under `exact` the odds are sum(w T) / sum(w): with T on clicks alone the sum of weights must
    be kept.
    """
    rng = np.random.default_rng(1)
    users, clicked = rng.integers(1, 6, 400).astype(np.int32), rng.random(400) < 0.2
    seconds = np.where(clicked, rng.exponential(50, 400), 0)
    rows, weight = thinned(clicked, users, 15, rng)
    for user in range(1, 6):
        of, kept = users == user, users[rows] == user
        assert weight[kept].sum() == pytest.approx(of.sum())
        thin = (weight * seconds[rows])[kept].sum() / weight[kept].sum()
        assert thin == pytest.approx(seconds[of].mean())


def test_few_unclicked_rows_are_all_kept_at_weight_one():
    users, clicked = np.array([1, 1, 2], np.int32), np.array([False, True, False])
    rows, weight = thinned(clicked, users, 5, np.random.default_rng(0))
    assert rows.tolist() == [0, 1, 2]
    assert weight.tolist() == [1, 1, 1]


def test_the_rows_left_are_a_random_sample():
    users, clicked = np.ones(100, np.int32), np.zeros(100, bool)
    first, second = (thinned(clicked, users, 10, np.random.default_rng(seed))[0] for seed in (1, 2))
    assert set(first) != set(second)
    assert first.max() > 30


def random_rows(n=20):
    rng = np.random.default_rng(4)
    blocks = {
        "user": Block(
            n,
            {"b": rng.random(n), "a": np.where(rng.random(n) < 0.5, NAN, 1.5)},
            {"country": rng.integers(0, 3, n).astype(np.int32)},
        ),
        "item": Block(
            n, {"x": rng.normal(size=n)}, {"item": rng.integers(0, 9, n).astype(np.int32)}
        ),
        "pair": Block(n, {"recall_z": rng.normal(size=n)}, {}),
    }
    clicked = rng.random(n) < 0.5
    timestamps_us, places = (
        rng.permutation(n).astype(np.int64),
        rng.integers(0, 9, n).astype(np.int32),
    )
    return RankingRows(
        blocks, timestamps_us, clicked, np.where(clicked, 3.3, 0), np.full(n, 2.5), places
    )


def assert_same(first, second):
    for name in LABELS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for name, block in first.blocks.items():
        assert list(block.numbers) == list(second.blocks[name].numbers)
        for column, values in block.numbers.items():
            np.testing.assert_array_equal(
                values.astype(np.float32), second.blocks[name].numbers[column].astype(np.float32)
            )
        for column, values in block.codes.items():
            np.testing.assert_array_equal(values, second.blocks[name].codes[column])


def test_saving_and_loading_keeps_the_order_of_rows_and_columns_and_all_values(tmp_path):
    rows = random_rows()
    rows.save(tmp_path / "rows.parquet")
    loaded = RankingRows.load(tmp_path / "rows.parquet")
    assert_same(rows, loaded)
    assert len(loaded) == 20


def test_taking_rows_keeps_features_and_labels_together():
    rows, order = random_rows(), np.array([7, 0, 3])
    taken = rows.take(order)
    assert len(taken) == 3
    np.testing.assert_array_equal(taken.timestamps_us, rows.timestamps_us[order])
    np.testing.assert_array_equal(
        taken.blocks["item"].codes["item"], rows.blocks["item"].codes["item"][order]
    )
    np.testing.assert_array_equal(
        taken.blocks["pair"].numbers["recall_z"], rows.blocks["pair"].numbers["recall_z"][order]
    )


def test_the_label_of_an_impression_is_in_none_of_its_own_features():
    """Clicks and seconds of rows at one instant are swapped for others: their features stay."""
    users, items, timestamps_us = (
        np.array([1, 1, 2], np.int32),
        np.array([1, 2, 1], np.int32),
        np.array([5, 5, 5]),
    )
    exposures = Exposures(users, items, timestamps_us, {"recall_z": np.array([0.1, NAN, 0.3])})
    none = SideFeatures({}, {}, {})
    features = [
        blocks_of(
            AsOfFeatures(
                AsOfLog(
                    Events.of(users, items, timestamps_us, clicked, np.where(clicked, 9.0, 0)),
                    none,
                    none,
                    True,
                )
            ),
            exposures,
        )
        for clicked in (np.zeros(3, bool), np.ones(3, bool))
    ]
    for name, block in features[0].items():
        for column, values in block.numbers.items():
            np.testing.assert_array_equal(values, features[1][name].numbers[column], err_msg=column)
    np.testing.assert_allclose(
        features[0]["pair"].numbers["recall_z"], exposures.recall["recall_z"], rtol=1e-6
    )
    assert len(exposures) == 3


@pytest.mark.parametrize("shard", [1, 7, 40, 64])
def test_rows_made_in_shards_are_those_made_at_once(shard, monkeypatch):
    rng, rows = np.random.default_rng(4), 40
    users, items = (rng.integers(1, 5, rows).astype(np.int32) for _ in range(2))
    clicked = rng.random(rows) < 0.4
    seconds = np.where(clicked, rng.exponential(30, rows), 0.0)
    none, device = SideFeatures({}, {}, {}), {"device": rng.integers(0, 3, rows).astype(np.int32)}
    at = rng.integers(0, 9, rows) * HOUR
    log = AsOfLog(Events.of(users, items, at, clicked, seconds), none, none, True, device)
    exposures = Exposures(users, items, at, {"recall_z": rng.normal(size=rows)}, device)
    asked = (users, items, at, device, exposures.recall)
    whole = AsOfFeatures(log).blocks(log.rows(*asked))
    monkeypatch.setattr("ranking.examples.SHARD", shard)
    for name, block in blocks_of(AsOfFeatures(log), exposures).items():
        assert list(block.numbers) == list(whole[name].numbers)
        for column, values in block.numbers.items():
            expected = whole[name].numbers[column].astype(np.float32)
            np.testing.assert_array_equal(values, expected, err_msg=column)
        for column, codes in block.codes.items():
            np.testing.assert_array_equal(codes, whole[name].codes[column], err_msg=column)


def test_an_impression_is_read_in_its_own_context_and_a_request_in_the_last_one():
    users, items, timestamps_us = (
        np.array([1, 1, 2], np.int32),
        np.array([1, 2, 1], np.int32),
        np.array([5, 8, 6]),
    )
    events, none = (
        Events.of(users, items, timestamps_us, np.zeros(3, bool), np.zeros(3)),
        SideFeatures({}, {}, {}),
    )
    features = AsOfFeatures(
        AsOfLog(events, none, none, True, {"device": np.array([1, 2, 3], np.int32)})
    )
    shown = Exposures(users, items, timestamps_us, {}, contexts=features.log.contexts)
    assert blocks_of(features, shown)["user"].codes["device"].tolist() == [1, 2, 3]
    asked = Exposures(
        np.array([1, 1, 1, 2, 3], np.int32), np.ones(5, np.int32), np.array([9, 8, 5, 7, 9]), {}
    )
    assert blocks_of(features, asked)["user"].codes["device"].tolist() == [2, 1, 0, 3, 0]
