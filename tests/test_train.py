"""How towers roll through a log: what each may see, when each is finished, which epoch is kept,
what is offered.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from features.histories import histories_of, samples_of
from features.schema import HOUR, SECOND
from features.side_features import SideFeatures
from features.split import Split, text_of, timestamp_us_from
from features.vocabulary import Vocabulary
from recall import train_tower, validator
from recall.batches import SMALLEST_BATCH
from recall.candidates import Candidates, nearest, pairs_before
from recall.config import RecallConfig
from recall.index import index_of
from recall.inputs import ModelInputs, UserInputs
from recall.tower import Tower
from recall.train import TrainingJob, cut_offs_of, train_incrementally
from recall.train_tower import RATE_DROP
from recall.trainer import ID_DROPOUT, TowerTrainer

pytestmark = pytest.mark.slow

USERS, ITEMS, WATCHES = 40, 40, 24
WINDOWS = Split(mode="time", clock="time", start=0, label_start=800, test_start=900, test_end=1000)
QUICK = RecallConfig(
    dim=8,
    depth=1,
    width=16,
    recency_windows=(1, 5),
    history=5,
    dropout=0.1,
    epochs=2,
    refresh_epochs=1,
    blocks=3,
    negatives=16,
    learning_rate=0.02,
)


def published(timestamps_us):
    """How many items exist at each instant: 24 from the start, two more every 125."""
    return 24 + timestamps_us * 8 // 1000 * 2


def two_tastes(rng):
    """(user, item, instant) rows: user u watches only items of u's parity, from time 0 to 1000."""
    users, timestamps_us = (
        np.repeat(np.arange(1, USERS + 1), WATCHES),
        rng.integers(0, 1000, USERS * WATCHES),
    )
    return users, 2 * rng.integers(1, published(timestamps_us) // 2 + 1) - users % 2, timestamps_us


def training_job_of(
    users,
    items,
    timestamps_us,
    config=QUICK,
    split=WINDOWS,
    seed=5,
    users_side=None,
    items_side=None,
):
    order = np.lexsort((timestamps_us, users))
    watches = histories_of(users[order], items[order], timestamps_us[order], USERS + 5)
    first_seen = np.searchsorted(published(np.arange(1000)), np.arange(1, ITEMS + 1))
    vocabulary = Vocabulary(pa.array(np.arange(1, ITEMS + 1)), first_seen)
    side = users_side or SideFeatures({}, {}, {})
    user_inputs, timed = UserInputs(watches, None, side), split.clock == "time"
    model_inputs = ModelInputs(
        user_inputs, vocabulary, None, items_side or SideFeatures({}, {}, {}), timed
    )
    return TrainingJob(model_inputs, samples_of(watches), split, config, seed)


@pytest.fixture(scope="module")
def log():
    return two_tastes(np.random.default_rng(0))


@pytest.fixture(scope="module")
def told():
    """What `on_epoch` was told while `rolled` was made."""
    return []


@pytest.fixture(scope="module")
def rolled(log, told):
    """The towers and epochs of the two-tastes log."""
    return train_incrementally(replace(training_job_of(*log), on_epoch=told.append))


def same(first, second):
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


def test_towers_are_finished_at_the_edges_with_the_vocabulary_of_then(rolled):
    towers, _ = rolled
    assert [tower.shape.as_of for tower in towers] == cut_offs_of(WINDOWS, 3) == [300, 600, 900]
    assert [tower.shape.items for tower in towers] == [29, 33, 39]


def test_two_seeded_rolls_give_equal_towers(log, rolled):
    again, epochs = train_incrementally(training_job_of(*log))
    assert epochs == rolled[1]
    assert all(same(*pair) for pair in zip(rolled[0], again, strict=True))


def scrambled(log, edge, rng):
    """The log with every row at or after an instant replaced by another one, or dropped."""
    users, items, timestamps_us = log
    kept = (timestamps_us < edge) | (rng.random(len(users)) < 0.5)
    return (
        users[kept],
        np.where(timestamps_us < edge, items, rng.integers(1, published(timestamps_us) + 1))[kept],
        timestamps_us[kept],
    )


SINGLE = QUICK.model_copy(update={"epochs": 1})


@pytest.fixture(scope="module")
def rolled_once(log):
    """One epoch of warm-up, so that none is chosen by what followed."""
    return train_incrementally(training_job_of(*log, config=SINGLE))[0]


@pytest.mark.parametrize(("edge", "unmoved"), [(300, 1), (900, 3)])
def test_no_tower_is_trained_on_watches_at_or_after_its_instant(log, rolled_once, edge, unmoved):
    after, _ = train_incrementally(
        training_job_of(*scrambled(log, edge, np.random.default_rng(1)), config=SINGLE)
    )
    assert [same(*pair) for pair in zip(rolled_once, after, strict=True)] == [True] * unmoved + [
        False
    ] * (3 - unmoved)


def test_choosing_the_epoch_sees_no_further_than_the_next_edge(log, rolled):
    after, _ = train_incrementally(training_job_of(*scrambled(log, 600, np.random.default_rng(1))))
    assert [same(*pair) for pair in zip(rolled[0], after, strict=True)] == [True, True, False]


def test_each_epoch_is_told_and_reported(rolled, told):
    assert told == rolled[1]
    assert [row["tower"] for row in told] == [0, 0, 1, 2]
    assert all(np.isfinite(row["loss"]) for row in told)
    assert ["hit_rate@50" in row for row in told] == [True, True, False, False]


def overtrained():
    """A log whose future says little: training longer helps for a while and then stops helping."""
    rng = np.random.default_rng(3)
    users, timestamps_us = (
        np.repeat(np.arange(1, USERS + 1), WATCHES),
        rng.integers(0, 1000, USERS * WATCHES),
    )
    config = QUICK.model_copy(update={"epochs": 8, "learning_rate": 0.1, "blocks": 2})
    return training_job_of(
        users, rng.integers(1, published(timestamps_us) + 1), timestamps_us, config
    )


def test_the_best_epochs_weights_are_kept_and_patience_ends_the_warm_up(monkeypatch):
    """With a rate that does not drop: training ends where it would."""
    monkeypatch.setattr(validator, "JUDGED_AT", 8)
    monkeypatch.setattr(train_tower, "RATE_DROP", 1.0)
    job = overtrained()
    towers, epochs = train_incrementally(job)
    rates = [row["hit_rate@50"] for row in epochs if row["tower"] == 0]
    best = int(np.argmax(rates)) + 1
    assert best < len(rates) < 8
    assert len(rates) == best + job.config.patience
    short, _ = train_incrementally(
        replace(job, config=job.config.model_copy(update={"epochs": best}))
    )
    assert same(short[0], towers[0])


ORDER = Split(mode="last", clock="order", start=0, label_start=800, test_start=900, test_end=1000)


@pytest.fixture(scope="module")
def rolled_in_order(log):
    return train_incrementally(training_job_of(*log, split=ORDER))


def test_in_the_order_clock_one_refresh_at_the_last_rate_goes_over_all_but_the_holdout(
    log, rolled_in_order
):
    towers, epochs = rolled_in_order
    assert [tower.shape.as_of for tower in towers] == [800, 900]
    assert not any(tower.shape.example_age for tower in towers)
    refresh = [row for row in epochs if row["tower"] == 1]
    assert [row["rate"] for row in refresh] == [RATE_DROP] * QUICK.refresh_epochs
    assert {row["examples"] for row in refresh} == {
        int((log[2] < 900).sum()) // SMALLEST_BATCH * SMALLEST_BATCH
    }


@pytest.mark.parametrize(("split", "share"), [(WINDOWS, ID_DROPOUT), (ORDER, 0.0)])
def test_items_hide_who_they_are_only_where_new_ones_can_come(log, monkeypatch, split, share):
    told = []

    class Trainer(TowerTrainer):
        def __init__(self, tower, config, seed, id_dropout):
            told.append(id_dropout)
            super().__init__(tower, config, seed, id_dropout)

    monkeypatch.setattr("recall.train.TowerTrainer", Trainer)
    train_incrementally(training_job_of(*log, split=split))
    assert set(told) == {share}


def test_the_holdout_leaves_no_trace_in_the_order_clock(log, rolled_in_order):
    after, _ = train_incrementally(
        training_job_of(*scrambled(log, 900, np.random.default_rng(1)), split=ORDER)
    )
    assert all(same(*pair) for pair in zip(rolled_in_order[0], after, strict=True))


@pytest.fixture(scope="module")
def fitted(log):
    """A tower that has had a few seconds with the two-tastes log, and its user_inputs."""
    config = QUICK.model_copy(update={"epochs": 25, "patience": 25, "blocks": 2})
    job = training_job_of(*log, config=config)
    with pytest.MonkeyPatch.context() as patch:
        # Among the first 50 of 39 items every tower is right.
        patch.setattr(validator, "JUDGED_AT", 5)
        return train_incrementally(job)[0][-1], job.model_inputs.user_inputs


def offered(fitted, users, k):
    tower, user_inputs = fitted
    vectors = tower.user_vectors(user_inputs.inputs_at(tower.shape, users, 900))
    seen = pairs_before(users, user_inputs.histories, 900)
    return Candidates(users, *nearest(vectors, index_of(tower.item_vectors), seen, k))


def test_even_users_are_offered_even_items(fitted):
    users = np.arange(1, USERS + 1, dtype=np.int32)
    lists = offered(fitted, users, 3)
    agree = lists.items % 2 == users[:, None] % 2
    assert agree.mean() > 0.95


def test_nothing_seen_and_nobody_is_ever_offered(fitted, log):
    users = np.arange(1, USERS + 1, dtype=np.int32)
    lists = offered(fitted, users, 15)
    seen = {(u, i) for u, i, t in zip(*log, strict=True) if t < 900}
    assert (lists.items > 0).all()
    assert not any((u, i) in seen for u, row in zip(users, lists.items, strict=True) for i in row)


def test_new_users_without_history_get_a_list_of_both_tastes(fitted):
    lists = offered(fitted, np.array([USERS + 1, USERS + 4], np.int32), 30)
    assert (lists.items > 0).all()
    assert 0.2 < (lists.items[0] % 2).mean() < 0.8
    np.testing.assert_array_equal(lists.items[0], lists.items[1])


def test_the_index_ranks_by_the_score_the_tower_was_trained_on(fitted):
    tower, user_inputs = fitted
    users = np.arange(1, 6, dtype=np.int32)
    lists = offered(fitted, users, 5)
    vectors = tower.user_vectors(user_inputs.inputs_at(tower.shape, users, 900))
    products = np.einsum("nd,nkd->nk", vectors, tower.item_vectors[lists.items])
    np.testing.assert_allclose(lists.scores, products, rtol=1e-4, atol=1e-5)


def test_a_number_that_is_known_of_nobody_is_left_out_and_the_tower_can_be_reloaded(log, tmp_path):
    nobody_told = SideFeatures(
        {}, {}, {"age": np.full(USERS + 5, np.nan), "tenure": np.arange(USERS + 5.0)}
    )
    config = QUICK.model_copy(update={"epochs": 1, "blocks": 2})
    towers, _ = train_incrementally(training_job_of(*log, config=config, users_side=nobody_told))
    towers[0].save(tmp_path, "tower")
    assert list(Tower.load(tmp_path, "tower").shape.numbers) == ["tenure"]


def time_split(start, test_start):
    start, test_start = (
        int(datetime.fromisoformat(f"{text}+00:00").timestamp()) * SECOND
        for text in (start, test_start)
    )
    return Split(
        mode="time",
        clock="time",
        start=start,
        label_start=test_start - HOUR,
        test_start=test_start,
        test_end=test_start + HOUR,
    )


def texts(split, blocks=16):
    return [text_of(as_of)[5:16] for as_of in cut_offs_of(split, blocks)]


def test_blocks_are_whole_days_after_a_quarter_of_them():
    found = texts(time_split("2024-01-01T00:00:10", "2024-01-11T00:00:00"))
    assert found == [f"01-{day:02}T00:00" for day in range(5, 12)]


def test_one_more_day_adds_a_cut_off_and_moves_none():
    for day in range(10, 16):
        earlier = texts(time_split("2024-01-01T07:30:00", f"2024-01-{day:02}T00:00:00"))
        later = texts(time_split("2024-01-01T07:30:00", f"2024-01-{day + 1:02}T00:00:00"))
        assert later == [*earlier, f"01-{day + 1:02}T00:00"]


def test_the_grid_goes_through_a_full_hour_and_not_through_the_end_of_a_log():
    assert texts(time_split("2024-01-01T07:30:00", "2024-01-11T16:00:00"))[-2:] == [
        *("01-10T16:00", "01-11T16:00")
    ]
    assert texts(time_split("2024-01-01T07:30:00", "2024-01-11T15:59:01"))[-2:] == [
        *("01-11T00:00", "01-11T15:59")
    ]
    # A block of less than half a day joins the one before it.
    assert texts(time_split("2024-01-01T07:30:00", "2024-01-11T09:59:01"))[-2:] == [
        *("01-10T00:00", "01-11T09:59")
    ]


@pytest.mark.parametrize("days", [1, 3, 8, 17, 40, 200, 1000])
def test_logs_of_every_length_have_a_handful_of_towers(days):
    start = datetime(2020, 1, 1, tzinfo=UTC)
    end = start + timedelta(days=days)
    found = cut_offs_of(time_split(f"{start:%Y-%m-%dT%H:%M:%S}", f"{end:%Y-%m-%dT%H:%M:%S}"), 16)
    assert 4 <= len(found) - 1 <= 13
    warm_up = found[0] - timestamp_us_from(start)
    assert 0.2 < warm_up / (timestamp_us_from(end) - timestamp_us_from(start)) < 0.6


def test_a_log_too_short_for_blocks_of_hours_has_equal_blocks():
    split = Split(
        mode="time", clock="time", start=100, label_start=500, test_start=600, test_end=800
    )
    assert cut_offs_of(split, 5) == [200, 300, 400, 500, 600]
    assert cut_offs_of(split, 1) == [split.label_start, split.test_start]


def test_the_order_clock_has_two_edges():
    assert cut_offs_of(ORDER, 4) == [800, 900]


def test_the_first_tower_is_finished_by_an_early_history_end():
    early = Split(mode="time", clock="time", start=0, label_start=10, test_start=100, test_end=110)
    assert cut_offs_of(early, 5) == [10, 40, 60, 80, 100]
