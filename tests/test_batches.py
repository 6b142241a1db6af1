"""The stream of examples: which watches an epoch visits, how often, in what batches, and what goes
with them.
"""

import numpy as np
import pytest

from features.histories import histories_of, samples_of
from features.side_features import SideFeatures
from recall import batches
from recall.batches import HOUR, Examples, capped, keep_probability
from recall.config import RecallConfig
from recall.inputs import UserInputs
from recall.tower import TowerSpec

USERS, ITEMS, UNTIL = 31, 50, 1000
SHAPE = TowerSpec(
    as_of=UNTIL, items=ITEMS, dim=4, hidden=(), recency_windows=(1, 5), example_age=True
)
EACH = RecallConfig(batch=1, negatives=5, example_age="hours")


def log(rng, watches):
    """Watches of users of very different diligence, the popular items often; times 0 to 1200, past
    the tower's.
    """
    users = np.sort(np.minimum(rng.geometric(0.12, watches), USERS - 1))
    timestamps_us = rng.integers(0, 1200, watches)
    items = np.minimum(rng.geometric(0.1, watches), ITEMS - 1)
    order = np.lexsort((timestamps_us, users))
    return histories_of(users[order], items[order], timestamps_us[order], USERS)


HISTORIES = log(np.random.default_rng(0), 900)
INSIDE = (HISTORIES.timestamps_us >= 100) & (HISTORIES.timestamps_us < UNTIL)


def training_run(config=EACH, histories=HISTORIES, shown=None, since=100):
    user_inputs = UserInputs(histories, None, SideFeatures({}, {}, {}))
    return Examples(user_inputs, samples_of(histories), shown, SHAPE, config, since, 0)


def timestamps_us_of(batches):
    """When the watches of batches happened, as their example age in hours tells, [examples]."""
    ages = np.concatenate([batch.inputs.example_age for batch in batches])
    return UNTIL - np.round(ages.astype(np.float64) * HOUR).astype(np.int64)


def visited(batches):
    items = np.concatenate([batch.items for batch in batches])
    return sorted(zip(timestamps_us_of(batches).tolist(), items.tolist(), strict=True))


def watched(histories=HISTORIES, chosen=INSIDE):
    return sorted(
        zip(histories.timestamps_us[chosen].tolist(), histories.items[chosen].tolist(), strict=True)
    )


@pytest.mark.parametrize("shard", [10_000_000, 400, 60, 1])
def test_an_epoch_visits_each_watch_of_the_stretch_once_in_however_many_shards(monkeypatch, shard):
    monkeypatch.setattr(batches, "SHARD_WATCHES", shard)
    found = list(training_run().batches(np.random.default_rng(1)))
    assert visited(found) == watched()
    assert visited(found) != list(
        zip(timestamps_us_of(found).tolist(), [int(b.items[0]) for b in found], strict=True)
    )


@pytest.mark.parametrize("shard", [10_000_000, 400, 60, 1])
def test_shards_hold_whole_users_and_all_of_them(monkeypatch, shard):
    monkeypatch.setattr(batches, "SHARD_WATCHES", shard)
    shards = training_run()._shards
    assert shards[0, 0] == 0
    assert shards[-1, 1] == len(HISTORIES.items)
    assert (shards[1:, 0] == shards[:-1, 1]).all()
    assert np.isin(shards, HISTORIES.offsets).all()
    largest = np.diff(HISTORIES.offsets).max()
    assert (shards[:, 1] - shards[:, 0] <= min(shard, 10_000) + largest).all()
    assert len(shards) > (shard < 900)


def test_a_log_without_watches_has_no_batches():
    nobody = np.zeros(0, np.int64)
    empty = training_run(histories=histories_of(nobody, nobody, nobody, USERS))
    assert list(empty.batches(np.random.default_rng(0))) == []
    assert list(training_run(since=UNTIL).batches(np.random.default_rng(0))) == []


@pytest.mark.parametrize("shard", [10_000_000, 60])
def test_a_long_epoch_is_cut_at_its_cap_and_takes_other_watches_the_next_time(monkeypatch, shard):
    monkeypatch.setattr(batches, "SHARD_WATCHES", shard)
    few, rng = (
        training_run(EACH.model_copy(update={"epoch_examples": 150})),
        np.random.default_rng(1),
    )
    first, second = visited(list(few.batches(rng))), visited(list(few.batches(rng)))
    assert len(first) == len(second) == 150
    assert len(set(first) & set(second)) < 100
    assert set(first) <= set(watched())


def test_batches_are_of_one_size_whatever_the_shards(monkeypatch):
    """Of one size, so that the step is compiled once; what is left over comes in another epoch."""
    monkeypatch.setattr(batches, "SHARD_WATCHES", 200)
    monkeypatch.setattr(batches, "STEPS_AN_EPOCH", 10)
    config = EACH.model_copy(update={"batch": 1024})
    sizes = {len(batch.items) for batch in training_run(config).batches(np.random.default_rng(1))}
    assert sizes == {INSIDE.sum() // 10}


def test_a_batch_is_never_larger_than_configured_nor_tiny():
    config = EACH.model_copy(update={"batch": 48})
    sizes = {len(batch.items) for batch in training_run(config).batches(np.random.default_rng(1))}
    assert sizes == {batches.SMALLEST_BATCH}
    few = {
        len(batch.items)
        for batch in training_run(config, since=UNTIL - 20).batches(np.random.default_rng(1))
    }
    assert few == {((HISTORIES.timestamps_us >= UNTIL - 20) & INSIDE).sum()}


def test_examples_read_the_history_before_them_and_their_age():
    """The next item is never among its own inputs' newest watches unless it was watched before."""
    found = training_run()
    positions = found.positions(0, len(HISTORIES.items))
    assert positions.tolist() == np.flatnonzero(INSIDE).tolist()
    inputs = found.inputs(positions)
    for row in (0, 57, len(positions) - 1):
        at = positions[row]
        before = (HISTORIES.users == HISTORIES.users[at]) & (
            HISTORIES.timestamps_us < HISTORIES.timestamps_us[at]
        )
        newest = HISTORIES.items[before][::-1][:5]
        assert inputs.watches[row, : len(newest)].tolist() == newest.tolist()
        assert not inputs.watches[row, len(newest) :].any()


@pytest.mark.parametrize(
    ("unit", "span"), [("hours", HOUR), ("days", 24 * HOUR), ("normalised", UNTIL - 0), ("none", 1)]
)
def test_the_example_age_is_the_time_since_the_watch_in_the_unit_chosen(unit, span):
    inputs = training_run(EACH.model_copy(update={"example_age": unit})).inputs(
        np.flatnonzero(INSIDE)
    )
    np.testing.assert_allclose(
        inputs.example_age, (UNTIL - HISTORIES.timestamps_us[INSIDE]) / span, rtol=1e-5
    )


def test_keep_probabilities_follow_the_formula():
    """(sqrt(z / t) + 1) t / z, by hand for shares .8, .19 and .01 at t = .05, and at most 1."""
    kept = keep_probability(np.array([0.0, 80, 19, 1]), 0.05)
    np.testing.assert_allclose(kept, [1, (4 + 1) / 16, (np.sqrt(3.8) + 1) / 3.8, 1])


def test_popular_positives_are_damped_by_the_formula():
    rng = np.random.default_rng(1)
    damped = training_run(EACH.model_copy(update={"damping": 0.01}))
    counts = np.bincount(HISTORIES.items[INSIDE], minlength=ITEMS)
    epochs = 300
    chosen = np.concatenate([damped._chosen(0, len(HISTORIES.items), rng) for _ in range(epochs)])
    taken = np.bincount(HISTORIES.items[chosen], minlength=ITEMS) / epochs
    expected = counts * keep_probability(counts.astype(float), 0.01)
    assert expected.sum() < 0.7 * counts.sum()
    np.testing.assert_allclose(taken, expected, atol=0.7)


@pytest.mark.parametrize(("damping", "cap"), [(0.0, 10**6), (0.01, 10**6), (0.0, 20), (0.01, 20)])
def test_the_samplers_know_how_often_an_epoch_has_each_item(monkeypatch, damping, cap):
    """The logQ correction of in-batch negatives needs the positives as they come: damped, and
    capped by user.
    """
    monkeypatch.setattr(batches, "SHARD_WATCHES", 300)
    found = training_run(EACH.model_copy(update={"damping": damping, "examples_per_user": cap}))
    rng, epochs = np.random.default_rng(3), 300
    chosen = np.concatenate(
        [found._chosen(*shard, rng) for _ in range(epochs) for shard in found._shards]
    )
    taken = np.bincount(HISTORIES.items[chosen], minlength=ITEMS) / epochs
    np.testing.assert_allclose(found._expected, taken, atol=0.8)
    assert found._expected.sum() == pytest.approx(taken.sum(), rel=0.02)


def test_no_user_gives_more_examples_than_the_cap():
    rng = np.random.default_rng(2)
    users = np.sort(rng.integers(1, 8, 500)).astype(np.int32)
    positions = np.arange(1000, 1500)
    chosen = capped(positions, users, 30, rng)
    counts = np.bincount(users[chosen - 1000], minlength=8)
    np.testing.assert_array_equal(counts, np.minimum(np.bincount(users, minlength=8), 30))
    assert len(np.unique(chosen)) == len(chosen)


def test_the_cap_chooses_at_random_and_shuffles():
    positions, users = np.arange(100), np.ones(100, np.int32)
    first, second = (capped(positions, users, 10, np.random.default_rng(seed)) for seed in (1, 2))
    assert set(first) != set(second)
    assert first.tolist() != sorted(first)
    np.testing.assert_array_equal(first, capped(positions, users, 10, np.random.default_rng(1)))


def test_shown_negatives_are_the_newest_unclicked_ones_before_the_watch():
    """User 1 ignored 11, 12, 13 at 10, 20, 30 and watched 5 at 20, 6 at 40; user 2 ignored
    nothing.
    """
    watches = histories_of(np.array([1, 1, 2]), np.array([5, 6, 7]), np.array([20, 40, 50]), USERS)
    ignored = histories_of(
        np.array([1, 1, 1]), np.array([11, 12, 13]), np.array([10, 20, 30]), USERS
    )
    config = EACH.model_copy(update={"shown_negatives": 2})
    batches = training_run(config, watches, ignored, since=0).batches(np.random.default_rng(0))
    shown = {int(batch.items[0]): batch.shown.tolist() for batch in batches}
    assert shown == {5: [[11, 0]], 6: [[13, 12]], 7: [[0, 0]]}


def test_without_shown_negatives_or_a_log_of_them_there_are_none():
    for config, ignored in (
        (EACH, HISTORIES),
        (EACH.model_copy(update={"shown_negatives": 2}), None),
    ):
        assert (
            next(training_run(config, shown=ignored).batches(np.random.default_rng(0))).shown
            is None
        )


def test_equal_seeds_give_equal_epochs():
    config = EACH.model_copy(update={"batch": 32, "damping": 0.01, "examples_per_user": 20})
    first, second = (list(training_run(config).batches(np.random.default_rng(4))) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.items, other.items)
        np.testing.assert_array_equal(one.negatives.items, other.negatives.items)
        np.testing.assert_array_equal(one.inputs.watches, other.inputs.watches)


def test_later_watches_change_no_epoch():
    kept = HISTORIES.timestamps_us < UNTIL
    arrays = (getattr(HISTORIES, name)[kept] for name in ("users", "items", "timestamps_us"))
    config = EACH.model_copy(update={"batch": 32, "sampler": "unigram"})
    full, cut = (
        training_run(config, histories) for histories in (HISTORIES, histories_of(*arrays, USERS))
    )
    for one, other in zip(
        *(list(e.batches(np.random.default_rng(4))) for e in (full, cut)), strict=True
    ):
        np.testing.assert_array_equal(one.items, other.items)
        np.testing.assert_array_equal(one.negatives.items, other.negatives.items)
