"""Epoch by epoch: when training slows down and ends, which epoch is kept, and that a kill changes
nothing.
"""

import contextlib

import numpy as np
import pytest

from recall.checkpoints import Checkpoints, Progress
from recall.config import RecallConfig
from recall.tower import ItemFacts, Tower, TowerSpec
from recall.train_tower import Callbacks, TrainingRun, fit_tower, next_rate

SHAPE = TowerSpec(as_of=3, items=2, dim=1, hidden=(), recency_windows=(1,))
CONFIG = RecallConfig(epochs=12, patience=2)


def tower(value):
    return Tower(SHAPE, {"item_in": np.full((2, 1), value, np.float32)}, ItemFacts.plain(2))


class TrainingJob:
    """Stands for examples: an epoch is one random number, so that its order shows in the tower."""

    def __init__(self, config=CONFIG):
        self.config = config

    def batches(self, rng):
        return iter([rng.random()])


class Counter:
    """Stands for a trainer: the tower's one weight is the sum of (rate, and the epoch's random
    number).
    """

    def start(self, start):
        self.value, self.since_start = float(start.weights["item_in"][0, 0]), 0

    def fit(self, batches, rate):
        self.value, self.since_start = (
            self.value + rate + next(batches) / 1024,
            self.since_start + 1,
        )
        return 1 / self.since_start, 1

    @property
    def tower(self):
        return tower(self.value)

    def state(self):
        return {"value": np.array(self.value), "since_start": np.array(self.since_start)}

    def restore(self, state):
        self.value, self.since_start = float(state["value"]), int(state["since_start"])


class Plan:
    """Stands for a validator: the hit rates of the epochs to come, whatever their towers are."""

    def __init__(self, rates):
        self._rates, self.seen = list(rates), []

    def hit_rate(self, tower):
        self.seen.append(float(tower.weights["item_in"][0, 0]))
        return self._rates[len(self.seen) - 1]


def planned(rates, config=CONFIG, told=None):
    plan = Plan(rates)
    training_run = TrainingRun(0, tower(0), TrainingJob(config), 1, validator=plan)
    return fit_tower(Counter(), training_run, Callbacks(Checkpoints(), (told or []).append)), plan


def epochs_of(found):
    return [(row["epoch"], row["rate"], row["after"]) for row in found.epochs]


def test_while_it_gets_better_training_goes_on_to_the_last_epoch():
    found, _ = planned(np.linspace(0.1, 0.9, 12))
    assert epochs_of(found) == [(n, 1.0, n - 1) for n in range(1, 13)]
    assert found.best == 12


def test_without_gain_it_goes_back_to_its_best_and_on_at_a_fifth_of_the_rate_and_then_ends():
    """Best at epoch 2; 3 and 4 are no better; 5 goes on from 2, 6 is better; 7 and 8 are not."""
    found, plan = planned([0.1, 0.3, 0.2, 0.3, 0.25, 0.4, 0.4, 0.1])
    slow = [(5, 0.2, 2), (6, 0.2, 5), (7, 0.2, 6), (8, 0.2, 7)]
    assert epochs_of(found) == [(1, 1.0, 0), (2, 1.0, 1), (3, 1.0, 2), (4, 1.0, 3), *slow]
    assert found.best == 6
    np.testing.assert_allclose(np.round(plan.seen, 1), [1, 2, 3, 4, 2.2, 2.4, 2.6, 2.8])
    assert found.tower.weights["item_in"][0, 0] == np.float32(plan.seen[5])
    # Where the rate drops the optimiser is as new.
    assert [row["loss"] for row in found.epochs][4:] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])


def test_the_rate_drops_once_and_training_then_ends():
    found, _ = planned([0.5] + [0.1] * 11)
    assert [row["rate"] for row in found.epochs] == pytest.approx([1.0] * 3 + [0.2] * 2)
    assert found.best == 1


def test_of_equal_epochs_the_first_is_kept():
    found, plan = planned([0.2, 0.5, 0.5, 0.5] + [0.5] * 4)
    assert found.best == 2
    assert found.tower.weights["item_in"][0, 0] == np.float32(plan.seen[1])


def rows(*rates):
    return [{"rate": rate, "after": n} for n, rate in enumerate(rates)]


@pytest.mark.parametrize(
    ("rates", "best", "expected"),
    [
        ((), 0, 1.0),
        ((1.0, 1.0), 1, 1.0),
        ((1.0, 1.0, 1.0), 1, 0.2),
        ((1.0, 1.0, 1.0, 0.2), 1, 0.2),
        ((1.0, 1.0, 1.0, 0.2, 0.2), 1, None),
        ((1.0, 1.0, 1.0, 0.2, 0.2), 4, 0.2),
        ((1.0,) * 12, 12, None),
    ],
)
def test_the_next_rate_of_hand_made_epochs(rates, best, expected):
    run = Progress(rows(*rates), best, 0.5, tower(0), {}, {})
    found = next_rate(run, TrainingRun(0, tower(0), TrainingJob(), 1, validator=Plan([])), CONFIG)
    assert found == (None if expected is None else pytest.approx(expected))


def test_without_a_validator_the_rates_given_are_gone_through_and_the_last_epoch_is_kept():
    training_run = TrainingRun(3, tower(7), TrainingJob(), 1, (1.0, 1.0, 0.2))
    found = fit_tower(Counter(), training_run, Callbacks(Checkpoints(), lambda _: None))
    assert epochs_of(found) == [(1, 1.0, 0), (2, 1.0, 1), (3, 0.2, 2)]
    assert found.best == 3
    assert float(found.tower.weights["item_in"][0, 0]) == pytest.approx(9.2, abs=0.01)
    assert {row["tower"] for row in found.epochs} == {3}


class Killed(BaseException):
    """The process ends here."""


def attempt(rates, kept, told, survived):
    """One attempt at a planned course, which is killed as it tells of the epoch after those it
    survives.
    """
    done, told_before = kept.progress("a"), len(told)

    def tell(row):
        if len(told) - told_before == survived:
            raise Killed
        told.append(row)

    plan = Plan(rates[len(done.epochs) if done else 0 :])
    return fit_tower(
        Counter(),
        TrainingRun(0, tower(0), TrainingJob(), 1, validator=plan, key="a"),
        Callbacks(kept, tell),
    )


@pytest.mark.parametrize("survived", [(0, 1, 0, 2), (1,), (2,), (3,)])
def test_training_that_is_killed_again_and_again_ends_where_undisturbed_training_does(
    tmp_path, survived
):
    """Each attempt gets a few epochs further, over the rate's drop as well; the epoch that is cut
    short is lost.
    """
    rates, told = [0.1, 0.3, 0.2, 0.3, 0.25, 0.4, 0.4, 0.1], []
    kept = Checkpoints(tmp_path, tmp_path / "parts")
    calm, _ = planned(rates)
    killed = 0
    while kept.finished("a") is None:
        with contextlib.suppress(Killed):
            attempt(rates, kept, told, survived[killed % len(survived)])
        killed += kept.finished("a") is None
    found = kept.finished("a")
    assert killed >= 2
    assert (found.epochs, found.best) == (calm.epochs, calm.best)
    np.testing.assert_array_equal(found.tower.weights["item_in"], calm.tower.weights["item_in"])
    assert told == calm.epochs


def test_a_finished_tower_is_not_trained_again(tmp_path):
    callbacks = Callbacks(Checkpoints(tmp_path, tmp_path / "parts"), lambda _: None)
    training_run = TrainingRun(0, tower(0), TrainingJob(), 1, (1.0, 1.0), key="a")
    first = fit_tower(Counter(), training_run, callbacks)
    again = fit_tower(None, training_run, callbacks)
    assert again.epochs == first.epochs
    np.testing.assert_array_equal(again.tower.weights["item_in"], first.tower.weights["item_in"])
