"""Our tower under training on a `Log`, for benchmarks that drive it step by step."""

import itertools
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.shared.logs import LAST, Log
from benchmarks.shared.pace import Pace
from features.histories import histories_of, samples_of
from features.sides import Side
from features.vocabulary import Vocabulary
from features.windows import Windows
from recall.batches import Examples
from recall.config import RecallConfig
from recall.inputs import Knowledge, Readings
from recall.train import Course, first_stretch
from recall.trainer import Batch, TowerTrainer

Float32 = npt.NDArray[np.float32]


class Ours:
    """A tower that trains on all but everybody's last watch, fed from flat histories, and the vectors it has come to.

    Bags, negatives and shuffling are made as it trains.
    """

    def __init__(self, log: Log, config: RecallConfig, seed: int, item_side: Side | None = None) -> None:
        self._course = _course(log, config, seed, item_side or Side({}, {}, {}))
        windows = self._course.windows
        stretch = first_stretch(self._course, [windows.labels_end, windows.holdout_end])
        self._lasts, self._trainer = log.lasts, TowerTrainer(stretch.start, config, seed)
        self._batches = _endless(stretch.examples, np.random.default_rng(seed))

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
        """How many different items a step names: in its bags, as its positives, as its negatives."""
        batch = next(self._batches)
        return np.count_nonzero(np.union1d(batch.inputs.watches, np.append(batch.items, batch.negatives.items)))

    def vectors(self) -> tuple[Float32, Float32]:
        """Vectors of users before their last watch [users, dim] and of items [items, dim]."""
        readings, tower = self._course.knowledge.readings, self._trainer.tower
        histories = readings.histories
        users, instants = histories.users[self._lasts], histories.instants[self._lasts]
        inputs = readings.inputs(tower.shape, users, self._course.ends[self._lasts], instants)
        return tower.user_vectors(inputs), tower.item_vectors


def _endless(examples: Examples, rng: np.random.Generator) -> Iterator[Batch]:
    while True:
        yield from examples.batches(rng)


def _course(log: Log, config: RecallConfig, seed: int, item_side: Side) -> Course:
    histories = histories_of(log.users, log.items, log.instants, log.user_count)
    people = Side(log.sides, {name: int(codes.max(initial=0)) + 1 for name, codes in log.sides.items()}, {})
    ids = pa.array(np.arange(1, log.item_count))
    items = Vocabulary(ids, np.zeros(len(ids), np.int64))
    knowledge = Knowledge(Readings(histories, None, people), items, None, item_side, timed=False)
    windows = Windows(mode="last", clock="order", start=0, history_end=LAST, labels_end=LAST, holdout_end=LAST + 1)
    return Course(knowledge, samples_of(histories), windows, config, seed)
