"""Training that goes on: after a kill where it was, and from the tower before; items nobody was
shown.
"""

import contextlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from features.histories import histories_of, samples_of
from features.schema import DAY
from features.side_features import SideFeatures
from features.split import Split
from features.vocabulary import NEVER_SHOWN, Vocabulary
from recall import batches, validator
from recall.checkpoints import Checkpoints
from recall.config import RecallConfig
from recall.inputs import ModelInputs, UserInputs
from recall.train import TrainingJob, train_incrementally

pytestmark = pytest.mark.slow

USERS, ITEMS, CHANNELS = 80, 60, 5
# Items 1..44 are shown from the start on, two more every 40 from 120 on; the last six are published
# at 600 and never shown, three of them of channel 1 and three of channel 2. Even users watch
# channels 1 and 3, odd ones 2 and 4.
SHOWN = np.concatenate(
    [np.arange(1, 45) // 44, 120 + 40 * (np.arange(9) // 2), np.full(6, NEVER_SHOWN)]
)
KNOWN = np.where(SHOWN == NEVER_SHOWN, 600, SHOWN)
CHANNEL = np.concatenate([[0], np.arange(53) % 4 + 1, [1, 1, 1, 2, 2, 2]]).astype(np.int32)
WINDOWS = Split(mode="time", clock="time", start=0, label_start=800, test_start=900, test_end=1000)
CONFIG = RecallConfig(
    dim=8,
    depth=1,
    width=16,
    history=5,
    negatives=16,
    learning_rate=0.02,
    epochs=2,
    refresh_epochs=2,
    blocks=2,
)


def world(seed=0, watches=24):
    """Model inputs of a log in which everybody watches two channels; a region of users that comes
    late.
    """
    rng, n = np.random.default_rng(seed), (USERS - 1) * watches
    users, timestamps_us = (
        np.repeat(np.arange(1, USERS), watches),
        rng.integers(0, 1000, (USERS - 1, watches)),
    )
    timestamps_us = np.sort(timestamps_us, axis=1).ravel()
    own = CHANNEL[None, 1:] % 2 == users[:, None] % 2
    open_ = own & (SHOWN[None, :] <= timestamps_us[:, None])
    items = np.argmax(np.where(open_, rng.random((n, ITEMS - 1)), -1), axis=1) + 1
    items = np.where(CHANNEL[items] % 2 == users % 2, items, 0)
    log = histories_of(users, items, timestamps_us, USERS)
    region = np.where(np.arange(USERS) < 60, np.arange(USERS) % 2 + 1, 3).astype(np.int32)
    ages = np.arange(USERS, dtype=np.float64)
    vocabulary = Vocabulary(pa.array(np.arange(1, ITEMS) * 10), KNOWN, SHOWN)
    user_inputs = UserInputs(log, None, SideFeatures({"region": region}, {}, {"age": ages}))
    return ModelInputs(
        user_inputs, vocabulary, None, SideFeatures({"channel_id": CHANNEL}, {}, {}), timed=True
    )


def training_job_of(config=CONFIG, model_inputs=None, **fields):
    model_inputs = model_inputs or world()
    ends = samples_of(model_inputs.user_inputs.histories)
    return TrainingJob(
        model_inputs, ends, **{"split": WINDOWS, "config": config, "seed": 5} | fields
    )


def same(first, second):
    return all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.fixture(scope="module")
def calm():
    """Towers and epochs of training that nobody disturbed."""
    return train_incrementally(training_job_of())


class Killed(BaseException):
    """The process ends here."""


def test_training_killed_in_the_warm_up_and_in_the_refresh_ends_in_the_same_towers(calm, tmp_path):
    """Each attempt gets one epoch further and dies in the next: dropout, hidden ids and both
    optimisers go on.
    """
    told, killed = [], 0
    while killed < 10:
        begun = len(told)

        def tell(row, begun=begun):
            if len(told) > begun:
                raise Killed
            told.append(row)

        with contextlib.suppress(Killed):
            towers, epochs = train_incrementally(
                training_job_of(
                    checkpoints=Checkpoints(tmp_path, tmp_path / "parts"), on_epoch=tell
                )
            )
            break
        killed += 1
    assert killed == len(epochs) - 1 == 3
    assert {row["tower"] for row in epochs} == {0, 1}
    assert told == epochs == calm[1]
    assert all(same(*pair) for pair in zip(towers, calm[0], strict=True))


def test_finished_towers_are_taken_as_they_are(calm, tmp_path):
    first = train_incrementally(
        training_job_of(checkpoints=Checkpoints(tmp_path, tmp_path / "parts"))
    )
    told = []
    again = train_incrementally(
        training_job_of(checkpoints=Checkpoints(tmp_path, tmp_path / "parts"), on_epoch=told.append)
    )
    assert told == []
    assert again[1] == first[1] == calm[1]
    assert all(same(*pair) for pair in zip(again[0], calm[0], strict=True))


def in_days(model_inputs):
    """The world's thousand instants spread over ten days."""
    day = DAY // 100
    inputs = model_inputs.user_inputs
    watches = replace(inputs.histories, timestamps_us=inputs.histories.timestamps_us * day)
    items = model_inputs.items
    first = np.where(items.first_seen == NEVER_SHOWN, NEVER_SHOWN, items.first_seen * day)
    shown = np.where(items.first_shown == NEVER_SHOWN, NEVER_SHOWN, items.first_shown * day)
    return replace(
        model_inputs,
        user_inputs=replace(inputs, histories=watches),
        items=Vocabulary(items.ids, first, shown),
    )


def of_days(days, parts=None, model_inputs=None, **fields):
    """The towers of the world as of some day, and the rows of those that were trained."""
    split = Split(
        mode="time",
        clock="time",
        start=0,
        label_start=(days - 1) * DAY,
        test_start=days * DAY,
        test_end=days * DAY + DAY,
    )
    told = []
    config = CONFIG.model_copy(update={"blocks": 16, "refresh_epochs": 1, "epochs": 1})
    job = training_job_of(
        config,
        model_inputs or in_days(world()),
        split=split,
        checkpoints=Checkpoints(None, parts),
        on_epoch=told.append,
        **fields,
    )
    return train_incrementally(job), told


def test_one_more_day_trains_one_tower_and_ends_as_training_from_nothing(tmp_path):
    (shorter, _), _ = of_days(9, tmp_path)
    (longer, epochs), told = of_days(10, tmp_path)
    (fresh, of_fresh), _ = of_days(10)
    assert [tower.shape.as_of // DAY for tower in longer] == [4, 5, 6, 7, 8, 9, 10]
    assert {row["tower"] for row in told} == {6}
    assert epochs == of_fresh
    assert all(same(*pair) for pair in zip(longer, fresh, strict=True))
    assert all(same(*pair) for pair in zip(shorter, longer, strict=False))


@pytest.mark.parametrize(("day", "anew"), [(7, {4, 5, 6}), (9, {6}), (4, {0, 1, 2, 3, 4, 5, 6})])
def test_a_corrected_watch_trains_the_towers_after_it_anew(tmp_path, day, anew):
    """The first of them counts to the fifth day too: its epochs are chosen by what followed."""
    of_days(10, tmp_path)
    late = in_days(world())
    log = late.user_inputs.histories
    items = log.items.copy()
    of_day = (log.timestamps_us > day * DAY) & (log.timestamps_us < (day + 1) * DAY)
    items[np.flatnonzero(of_day)[0]] -= 2
    changed = replace(late.user_inputs, histories=replace(log, items=items))
    _, told = of_days(10, tmp_path, replace(late, user_inputs=changed))
    assert {row["tower"] for row in told} == anew


@pytest.mark.parametrize("fields", [{"seed": 6}, {"key": "other settings"}])
def test_another_seed_and_other_settings_train_every_tower(tmp_path, fields):
    of_days(9, tmp_path)
    _, told = of_days(9, tmp_path, **fields)
    assert {row["tower"] for row in told} == set(range(6))


def test_a_category_that_grows_between_towers_is_learnt_by_the_later_one():
    """The region of the late users: their first watch lies after the first edge."""
    model_inputs = world()
    log = model_inputs.user_inputs.histories
    kept = (log.users < 60) | (log.timestamps_us >= 810)
    late = histories_of(log.users[kept], log.items[kept], log.timestamps_us[kept], USERS)
    grown = replace(model_inputs, user_inputs=replace(model_inputs.user_inputs, histories=late))
    config = CONFIG.model_copy(update={"epochs": 1, "refresh_epochs": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recall.inputs.USERS_A_CATEGORY", 10)
        towers, _ = train_incrementally(training_job_of(config, grown))
    assert [tower.shape.categories for tower in towers] == [{"region": 3}, {"region": 4}]
    assert [len(tower.weights["category_region"]) for tower in towers] == [3, 4]
    assert towers[1].weights["kernel0"].shape == towers[0].weights["kernel0"].shape


def test_a_refresh_keeps_the_earlier_rows_and_layers_and_adds_new_items():
    """Training that moves nothing shows what a tower started from: two items more come between the
    edges.
    """
    model_inputs = world()
    vocabulary = Vocabulary(
        pa.array(np.arange(1, ITEMS + 2) * 10),
        np.append(KNOWN, [955, 960]),
        np.append(SHOWN, [955, 960]),
    )
    sides = SideFeatures({"channel_id": np.append(CHANNEL, [1, 5]).astype(np.int32)}, {}, {})
    grown = replace(model_inputs, items=vocabulary, side=sides)
    still = CONFIG.model_copy(update={"learning_rate": 1e-30, "epochs": 1, "refresh_epochs": 1})
    split = WINDOWS.model_copy(update={"start": 920, "label_start": 950, "test_start": 980})
    (old, new), epochs = train_incrementally(training_job_of(still, grown, split=split))
    assert [old.shape.as_of, new.shape.as_of] == [950, 980]
    assert (old.shape.items, new.shape.items) == (ITEMS, ITEMS + 2)
    for name, weights in old.weights.items():
        np.testing.assert_allclose(
            new.weights[name][: len(weights)], weights, rtol=0, atol=1e-27, err_msg=name
        )
    assert new.weights["item_in"][ITEMS:].all()
    assert len(new.weights["item_category_channel_id"]) == CHANNELS + 1
    timestamps_us = grown.user_inputs.histories.timestamps_us
    since = int(((timestamps_us >= 950) & (timestamps_us < 980)).sum())
    assert epochs[1]["examples"] == since // batches.SMALLEST_BATCH * batches.SMALLEST_BATCH > 0


@pytest.fixture(scope="module")
def fitted():
    """Towers that had a few seconds with the world, with item features and without."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validator, "JUDGED_AT", 5)
        for told in (True, False):
            model_inputs = world() if told else replace(world(), side=SideFeatures({}, {}, {}))
            job = training_job_of(
                CONFIG.model_copy(update={"epochs": 8, "patience": 8}), model_inputs
            )
            found[told] = train_incrementally(job)[0][-1], job.model_inputs.user_inputs
    return found


NEW = np.arange(54, 60)


def test_items_nobody_was_shown_are_listed_above_others_for_the_users_of_their_channel(fitted):
    """Their own rows are as they were drawn: only the channel speaks for them."""
    tower, user_inputs = fitted[True]
    users = np.arange(1, USERS, dtype=np.int32)
    scores = (
        tower.user_vectors(user_inputs.inputs_at(tower.shape, users, 900))
        @ tower.item_vectors[NEW].T
    )
    mine = CHANNEL[NEW][None, :] % 2 == users[:, None] % 2
    best_first = np.take_along_axis(mine, np.argsort(-scores, axis=1), axis=1)
    assert best_first[:, :3].mean() > 0.9
    assert set(NEW) <= set(tower.catalogue)


def test_an_item_nobody_was_shown_lies_near_its_channel(fitted):
    tower, _ = fitted[True]
    likeness = tower.item_vectors[NEW] @ tower.item_vectors[1:54].T
    of_channel = CHANNEL[1:54]
    for row, channel in zip(likeness, CHANNEL[NEW], strict=True):
        nearest = of_channel[np.argsort(-row)[:8]]
        assert (nearest % 2 == channel % 2).all()
        assert row[of_channel == channel].mean() > row[of_channel % 2 != channel % 2].mean() + 0.3


def test_without_item_features_what_nobody_was_shown_is_never_listed(fitted):
    tower, _ = fitted[False]
    assert tower.shape.items == ITEMS
    assert not set(NEW) & set(tower.catalogue)
    assert set(tower.catalogue) == set(range(1, 54))
