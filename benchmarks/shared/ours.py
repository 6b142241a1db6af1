"""Our tower under training on a `Log`, for benchmarks that drive it step by step."""

import itertools
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pyarrow as pa

from benchmarks.shared.logs import LAST, Log
from benchmarks.shared.pace import Pace
from features.arrays import Float32
from features.histories import histories_of, samples_of
from features.side_features import SideFeatures
from features.split import Split
from features.vocabulary import Vocabulary
from recall.batches import Examples
from recall.config import RecallConfig
from recall.inputs import ModelInputs, UserInputs
from recall.train import TrainingJob, first_training_run
from recall.trainer import Batch, TowerTrainer


class Ours:
    """A tower that trains on all but everybody's last watch, fed from flat histories, and the
    vectors it has come to.

    Bags, negatives and shuffling are made as it trains.
    """

    def __init__(
        self, log: Log, config: RecallConfig, seed: int, item_side: SideFeatures | None = None
    ) -> None:
        self._course = _course(log, config, seed, item_side or SideFeatures({}, {}, {}))
        split = self._course.split
        training_run = first_training_run(self._course, [split.test_start, split.test_end])
        self._lasts, self._trainer = log.lasts, TowerTrainer(training_run.start, config, seed)
        self._batches = _endless(training_run.examples, np.random.default_rng(seed))

    def train(self, steps: int) -> int:
        """So many steps more; how many examples they had."""
        return self._trainer.fit(itertools.islice(self._batches, steps))[1]

    def fit(self, pace: Pace) -> None:
        """Train until the pace says that it is enough."""
        steps = self._trainer.steps(self._batches)
        with closing(steps):
            for _, examples in steps:
                if pace.step(examples):
                    return

    def items_a_step(self) -> int:
        """How many different items a step names: in its bags, as its positives, as its
        negatives.
        """
        batch = next(self._batches)
        return np.count_nonzero(
            np.union1d(batch.inputs.watches, np.append(batch.items, batch.negatives.items))
        )

    def vectors(self) -> tuple[Float32, Float32]:
        """Vectors of users before their last watch [users, dim] and of items [items, dim]."""
        user_inputs, tower = self._course.model_inputs.user_inputs, self._trainer.tower
        histories = user_inputs.histories
        users, timestamps_us = histories.users[self._lasts], histories.timestamps_us[self._lasts]
        inputs = user_inputs.inputs(
            tower.shape, users, self._course.ends[self._lasts], timestamps_us
        )
        return tower.user_vectors(inputs), tower.item_vectors


def _endless(examples: Examples, rng: np.random.Generator) -> Iterator[Batch]:
    while True:
        yield from examples.batches(rng)


def _course(log: Log, config: RecallConfig, seed: int, item_side: SideFeatures) -> TrainingJob:
    histories = histories_of(log.users, log.items, log.timestamps_us, log.user_count)
    people = SideFeatures(
        log.sides, {name: int(codes.max(initial=0)) + 1 for name, codes in log.sides.items()}, {}
    )
    ids = pa.array(np.arange(1, log.item_count))
    items = Vocabulary(ids, np.zeros(len(ids), np.int64))
    model_inputs = ModelInputs(
        UserInputs(histories, None, people), items, None, item_side, timed=False
    )
    split = Split(
        mode="last", clock="order", start=0, label_start=LAST, test_start=LAST, test_end=LAST + 1
    )
    return TrainingJob(model_inputs, samples_of(histories), split, config, seed)
