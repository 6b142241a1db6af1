"""One tower's training, epoch by epoch: when it slows down and stops, which epoch is kept, going on
after a kill.

While its validator says that it gets better a tower trains on; after `patience` epochs without that
it goes back to its best and on at a fifth of the rate, once, and then stops.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.random_streams import Stream, rng_of
from recall.batches import Examples
from recall.checkpoints import Checkpoints, Fitted, Progress
from recall.config import RecallConfig
from recall.tower import Tower
from recall.trainer import TowerTrainer
from recall.validator import JUDGED_AT, Validator

RATE_DROP = 0.2


@dataclass(frozen=True)
class TrainingRun:
    """One tower to be trained: from which weights, on which examples, at which rates, and who
    validates it.

    `rates` are the factors of the learning rate epoch by epoch; with a validator they are found as
    it goes. `seed` is of the order of the examples. `key` names all that the tower depends on.
    """

    number: int
    start: Tower
    examples: Examples
    seed: int
    rates: tuple[float, ...] = ()
    validator: Validator | None = None
    key: str = ""


@dataclass(frozen=True)
class Callbacks:
    """Where training is kept while it runs, and who is told of each epoch."""

    checkpoints: Checkpoints
    on_epoch: Callable[[dict[str, Any]], None]


def fit_tower(trainer: TowerTrainer, training_run: TrainingRun, callbacks: Callbacks) -> Fitted:
    """The training run's tower: taken from the checkpoints where it was finished before, else
    trained to its end.
    """
    finished = callbacks.checkpoints.finished(training_run.key)
    if finished is not None:
        return finished
    rng = rng_of(training_run.seed, Stream.TOWER_BATCHES, training_run.number)
    run = _resumed(trainer, training_run, callbacks.checkpoints, rng)
    if run is None:
        trainer.start(training_run.start)
        run = Progress(
            [], 0, -1.0, training_run.start, trainer.state(), dict(rng.bit_generator.state)
        )
    while (rate := next_rate(run, training_run, training_run.examples.config)) is not None:
        run = _epoch(trainer, training_run, run, rate, rng)
        callbacks.on_epoch(run.epochs[-1])
        callbacks.checkpoints.keep(training_run.key, run)
    done = Fitted(run.tower, run.epochs, run.best)
    callbacks.checkpoints.finish(training_run.key, done)
    return done


def next_rate(run: Progress, training_run: TrainingRun, config: RecallConfig) -> float | None:
    """The factor of the learning rate for the next epoch; None where training ends."""
    epochs = run.epochs
    if training_run.validator is None:
        return training_run.rates[len(epochs)] if len(epochs) < len(training_run.rates) else None
    if len(epochs) >= config.epochs:
        return None
    rate = epochs[-1]["rate"] if epochs else 1.0
    since_drop = sum(row["rate"] == rate for row in epochs)
    if min(len(epochs) - run.best, since_drop) < config.patience:
        return float(rate)
    return RATE_DROP if rate > RATE_DROP else None


def _resumed(
    trainer: TowerTrainer,
    training_run: TrainingRun,
    checkpoints: Checkpoints,
    rng: np.random.Generator,
) -> Progress | None:
    run = checkpoints.progress(training_run.key)
    if run is not None:
        trainer.start(training_run.start)
        trainer.restore(run.trainer)
        rng.bit_generator.state = run.rng
    return run


def _epoch(
    trainer: TowerTrainer,
    training_run: TrainingRun,
    run: Progress,
    rate: float,
    rng: np.random.Generator,
) -> Progress:
    after = len(run.epochs)
    if run.epochs and rate != run.epochs[-1]["rate"]:
        trainer.start(run.tower)
        after = run.best
    row: dict[str, Any] = {
        "tower": training_run.number,
        "epoch": len(run.epochs) + 1,
        "rate": rate,
        "after": after,
    }
    row["loss"], row["examples"] = trainer.fit(training_run.examples.batches(rng), rate)
    trained, best, best_rate = trainer.tower, row["epoch"], 0.0
    if training_run.validator is not None:
        row[f"hit_rate@{JUDGED_AT}"] = best_rate = training_run.validator.hit_rate(trained)
        if best_rate <= run.best_rate:
            trained, best, best_rate = run.tower, run.best, run.best_rate
    state = rng.bit_generator.state
    return Progress([*run.epochs, row], best, best_rate, trained, trainer.state(), dict(state))
