"""How the tower rolls through the log: a warm-up, then a refresh a block, none seeing what it is
evaluated on.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np

from features.arrays import Int64
from features.calendar import grid_before, shortest_at_least
from features.histories import Histories, samples_of
from features.random_streams import Stream, rng_of
from features.split import Split
from recall.batches import Examples
from recall.checkpoints import Checkpoints, Epochs, Fitted
from recall.config import RecallConfig
from recall.inputs import ModelInputs, facts_of, grown_spec, spec_of
from recall.pretraining import pretrained
from recall.tower import Tower, TowerSpec
from recall.train_tower import RATE_DROP, Callbacks, TrainingRun, fit_tower
from recall.trainer import ID_DROPOUT, TowerTrainer, grown_tower, new_tower
from recall.validator import validator_of


@dataclass(frozen=True)
class TrainingJob:
    """What towers are trained on: what they may know, the history end of each watch, the cut, the
    choices.

    `shown`: what users were shown and did not click. `key` names the choices and the code.
    """

    model_inputs: ModelInputs
    ends: Int64
    split: Split
    config: RecallConfig
    seed: int
    shown: Histories | None = None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None
    key: str = ""

    def before(self, as_of: int) -> "TrainingJob":
        """The job of a server that knows what came strictly before an instant."""
        inputs = self.model_inputs.before(as_of)
        histories = inputs.user_inputs.histories
        users = len(histories.offsets) - 1
        shown = None if self.shown is None else self.shown.before(as_of, users)
        return replace(self, model_inputs=inputs, ends=samples_of(histories), shown=shown)

    def key_after(self, earlier: str, cut_offs: Sequence[int]) -> str:
        """The key of a tower: of what may be known, of its cut-offs, and of the tower before it."""
        facts = [
            self.key,
            self.seed,
            earlier,
            [self.split.clock, self.split.start, *cut_offs],
            self.model_inputs.digest,
            None if self.shown is None else self.shown.digest,
        ]
        return sha256(json.dumps(facts).encode()).hexdigest()[:16]


def cut_offs_of(split: Split, blocks: int) -> list[int]:
    """The instants at which a tower is finished, first to last; the last is test_start.

    Time clock: the log before test_start is cut into at most `blocks` blocks of the calendar. The
    first quarter of them warms the tower up, each later one refreshes it. One more day of log adds
    a block and moves none, until there are too many and blocks become longer. A log too short for
    blocks of hours has blocks of equal length. Order clock, and one block: label_start.
    """
    if split.clock == "order" or blocks == 1:
        return [split.label_start, split.test_start]
    span, warm_up = split.test_start - split.start, max(blocks // 4, 1)
    length = shortest_at_least(-(-span // blocks))
    warm = split.start + warm_up * length - length // 2
    cut_offs = grid_before(split.test_start, warm, length) if length * blocks <= 3 * span else []
    if not cut_offs:
        length = max(span // blocks, 1)
        cut_offs = [split.test_start - length * left for left in range(blocks - warm_up, 0, -1)]
    # One tower is finished by label_start at the latest: candidates as of it must not know their
    # labels.
    return [min(cut_offs[0], split.label_start), *cut_offs[1:], split.test_start]


def train_incrementally(job: TrainingJob) -> tuple[list[Tower], Epochs]:
    """The towers as of each cut-off, oldest first, and one row of loss and validation for each
    epoch.

    An epoch is at most `epoch_examples` random watches; the epochs of the warm-up, and when its
    steps become smaller, are chosen on the watches between the first two cut-offs. Time clock: each
    block then refreshes the tower (warm start, vocabulary grown). Order clock: one refresh, on all
    but the test window.
    """
    cut_offs = cut_offs_of(job.split, job.config.blocks)
    training_run = first_training_run(job, cut_offs)
    callbacks = Callbacks(job.checkpoints, job.on_epoch)
    # A log of which only the order is known has no new items, which side features alone describe:
    # there is nothing to learn from hiding who an item is.
    id_dropout = ID_DROPOUT if job.split.clock == "time" else 0.0
    trainer = TowerTrainer(training_run.start, job.config, job.seed, id_dropout)
    finished = [fit_tower(trainer, training_run, callbacks)]
    for since, as_of in itertools.pairwise(cut_offs):
        training_run = _next_training_run(job, finished, training_run.key, (since, as_of))
        if not trainer.suits(training_run.start):
            trainer = TowerTrainer(training_run.start, job.config, job.seed, id_dropout)
        finished.append(fit_tower(trainer, training_run, callbacks))
    return [one.tower for one in finished], [row for one in finished for row in one.epochs]


def first_training_run(job: TrainingJob, cut_offs: list[int]) -> TrainingRun:
    """The warm-up: trained on what came before the first cut-off, evaluated on the watches between
    it and the second.
    """
    # Its validator foresees what was watched until the second cut-off, and nothing knows more.
    job = job.before(cut_offs[1])
    start = _untrained(job, cut_offs[0], rng_of(job.seed, Stream.TOWER_START, 0))
    # Randomness of their own: how many watches follow must not reach the training through the
    # stream it draws from.
    rng = rng_of(job.seed, Stream.VALIDATOR)
    validator = validator_of(job.model_inputs.user_inputs, job.ends, cut_offs[0], cut_offs[1], rng)
    return TrainingRun(
        0,
        start,
        _examples(job, start.shape, job.split.start),
        job.seed,
        validator=validator,
        key=job.key_after("", cut_offs[:2]),
    )


def _untrained(job: TrainingJob, as_of: int, rng: np.random.Generator) -> Tower:
    shape = spec_of(job.model_inputs, job.config, as_of)
    tower = new_tower(shape, facts_of(job.model_inputs, shape), rng)
    if job.config.pretraining == "none":
        return tower
    rows = pretrained(job.model_inputs.user_inputs.histories, shape, job.seed)
    return replace(tower, weights=tower.weights | {"item_in": rows})


def _grown(job: TrainingJob, tower: Tower, as_of: int, rng: np.random.Generator) -> Tower:
    shape = grown_spec(tower.shape, job.model_inputs, job.config, as_of)
    return grown_tower(tower, shape, facts_of(job.model_inputs, shape), rng)


def _next_training_run(
    job: TrainingJob, before: list[Fitted], earlier: str, block: tuple[int, int]
) -> TrainingRun:
    number, (since, as_of) = len(before), block
    job = job.before(as_of)
    rng = rng_of(job.seed, Stream.TOWER_START, number)
    start = _grown(job, before[-1].tower, as_of, rng)
    # The order clock has no block of its own: its one refresh goes over everything, at the rate
    # that the first tower ended with.
    order = job.split.clock == "order"
    since, rate = (job.split.start, RATE_DROP) if order else (since, 1.0)
    rates = (rate,) * job.config.refresh_epochs
    key = job.key_after(earlier, (since, as_of))
    return TrainingRun(number, start, _examples(job, start.shape, since), job.seed, rates, key=key)


def _examples(job: TrainingJob, shape: TowerSpec, since: int) -> Examples:
    model_inputs, start = job.model_inputs, job.split.start
    offered = model_inputs.items.shown_as_of(shape.as_of)[: shape.items]
    return Examples(
        model_inputs.user_inputs, job.ends, job.shown, shape, job.config, since, start, offered
    )
