"""How the tower rolls through the log: a warm-up, then a refresh a block, none seeing what it is judged by."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.windows import Windows
from recall.batches import Examples
from recall.checkpoints import Checkpoints, Epochs, Fitted
from recall.config import RecallConfig
from recall.inputs import Knowledge, facts_of, grown_shape, shape_of
from recall.pretraining import pretrained
from recall.tower import Tower, TowerSpec
from recall.train_tower import Keeping, Stretch, fit_tower, kept_rates
from recall.trainer import TowerTrainer, grown_tower, new_tower
from recall.validator import judge_of

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Course:
    """What towers are trained on: what they may know, the history end of each watch, the cut, the choices.

    `shown`: what users were shown and did not click.
    """

    knowledge: Knowledge
    ends: Int64
    windows: Windows
    config: RecallConfig
    seed: int
    shown: Histories | None = None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None


def edges_of(windows: Windows, blocks: int) -> list[int]:
    """The instants at which a tower is finished, first to last; the last is labels_end.

    Time clock: blocks as long as the label window, so that the recall scores of training rows are as fresh as
    those of the holdout; shorter where the log is too short for a warm-up of one block. Order clock: history_end.
    """
    if windows.clock == "order":
        return [windows.history_end, windows.labels_end]
    longest = (windows.labels_end - windows.start) // (blocks + 1)
    length = min(windows.labels_end - windows.history_end, longest)
    edges = [windows.labels_end - length * left for left in range(blocks, -1, -1)]
    # One tower is finished by history_end at the latest: candidates as of it must not know their labels.
    return [min(edges[0], windows.history_end), *edges[1:]]


def roll(course: Course) -> tuple[list[Tower], Epochs]:
    """The towers as of each edge, oldest first, and one row of loss and validation for each epoch.

    An epoch is at most `epoch_examples` random watches; the epochs of the warm-up, and when its steps become smaller,
    are chosen on the watches between the first two edges. Time clock: each block then refreshes the tower (warm
    start, vocabulary grown). Order clock: the tower is fitted again on all but the holdout.
    """
    edges = edges_of(course.windows, course.config.blocks)
    stretch, keeping = first_stretch(course, edges), Keeping(course.checkpoints, course.on_epoch)
    trainer = TowerTrainer(stretch.start, course.config, course.seed)
    finished = [fit_tower(trainer, stretch, keeping)]
    for since, as_of in itertools.pairwise(edges):
        stretch = _next_stretch(course, finished, since, as_of)
        if not trainer.suits(stretch.start):
            trainer = TowerTrainer(stretch.start, course.config, course.seed)
        finished.append(fit_tower(trainer, stretch, keeping))
    return [one.tower for one in finished], [row for one in finished for row in one.epochs]


def first_stretch(course: Course, edges: list[int]) -> Stretch:
    """The warm-up: trained on what came before the first edge, judged on the watches between it and the second."""
    start = _untrained(course, edges[0], np.random.default_rng([course.seed, 0, 0]))
    # Randomness of their own: how many watches follow must not reach the training through the stream it draws from.
    rng = np.random.default_rng([course.seed, 0, 1])
    judge = judge_of(course.knowledge.readings, course.ends, edges[0], edges[1], rng)
    return Stretch(0, start, _examples(course, start.shape, course.windows.start), (course.seed, 0), judge=judge)


def _untrained(course: Course, as_of: int, rng: np.random.Generator) -> Tower:
    shape = shape_of(course.knowledge, course.config, as_of)
    tower = new_tower(shape, facts_of(course.knowledge, shape), rng)
    if course.config.pretraining == "none":
        return tower
    rows = pretrained(course.knowledge.readings.histories, shape, course.seed)
    return replace(tower, weights=tower.weights | {"item_in": rows})


def _grown(course: Course, tower: Tower, as_of: int, rng: np.random.Generator) -> Tower:
    shape = grown_shape(tower.shape, course.knowledge, course.config, as_of)
    return grown_tower(tower, shape, facts_of(course.knowledge, shape), rng)


def _next_stretch(course: Course, before: list[Fitted], since: int, as_of: int) -> Stretch:
    number, seeds = len(before), (course.seed, len(before))
    if course.windows.clock == "order":
        start, since = _untrained(course, as_of, np.random.default_rng(seeds)), course.windows.start
        rates = kept_rates(before[0].epochs, before[0].best)
    else:
        start = _grown(course, before[-1].tower, as_of, np.random.default_rng(seeds))
        rates = (1.0,) * course.config.refresh_epochs
    return Stretch(number, start, _examples(course, start.shape, since), (*seeds, 1), rates)


def _examples(course: Course, shape: TowerSpec, since: int) -> Examples:
    knowledge, start = course.knowledge, course.windows.start
    offered = knowledge.items.shown_as_of(shape.as_of)[: shape.items]
    return Examples(knowledge.readings, course.ends, course.shown, shape, course.config, since, start, offered)
