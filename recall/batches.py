"""The stream of training examples: watches before an instant, shuffled, capped, in batches with
their negatives.

A log is read in shards of whole users, so that what is held beside the histories does not grow with
the log.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from features.arrays import Flags, Float64, Int32, Int64
from features.histories import Histories
from features.schema import HOUR
from recall.config import RecallConfig
from recall.inputs import UserInputs
from recall.negative_sampling import Counts, Draw, drawer
from recall.tower import TowerInputs, TowerSpec
from recall.trainer import Batch

SHARD_WATCHES = 4_000_000
STEPS_AN_EPOCH, SMALLEST_BATCH = 250, 32


@dataclass(frozen=True)
class Examples:
    """The watches of a span of the log, `since` <= instant < `shape.as_of`, as examples for a
    tower.

    `ends` [watches]: end of the history that predicts each watch; `shown`: what users were shown
    and did not click, None where the log does not say; `start`: the log's first instant; `offered`
    bool [items]: what anybody had been shown before the shape's instant, None for everything.
    """

    user_inputs: UserInputs
    ends: Int64
    shown: Histories | None
    shape: TowerSpec
    config: RecallConfig
    since: int
    start: int
    offered: Flags | None = None

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch: at most `epoch_examples` of the watches of the span, in random order."""
        left = self.config.epoch_examples
        for first, last in rng.permutation(self._shards):
            chosen = self._chosen(first, last, rng)[:left]
            left -= len(chosen)
            yield from self._batches(chosen, rng)
            if left <= 0:
                return

    def positions(self, first: int, last: int) -> Int64:
        """Flat positions of the watches of the span between two flat positions."""
        timestamps_us = self.user_inputs.histories.timestamps_us[first:last]
        return first + np.flatnonzero(
            (timestamps_us >= self.since) & (timestamps_us < self.shape.as_of)
        )

    def inputs(self, positions: Int64) -> TowerInputs:
        """What the tower reads of watches as examples: their histories, and how long ago they
        happened.
        """
        histories = self.user_inputs.histories
        timestamps_us = histories.timestamps_us[positions]
        inputs = self.user_inputs.inputs(
            self.shape, histories.users[positions], self.ends[positions], timestamps_us
        )
        # Example age: t_max - t in the unit chosen, 0 for the newest (paper, section 3.3).
        spans = {
            "hours": HOUR,
            "days": 24 * HOUR,
            "normalised": max(self.shape.as_of - self.start, 1),
            "none": 1,
        }
        return inputs.aged(
            ((self.shape.as_of - timestamps_us) / spans[self.config.example_age]).astype(np.float32)
        )

    def _chosen(self, first: int, last: int, rng: np.random.Generator) -> Int64:
        """Positions of one shard's examples: popular ones damped, at most so many a user,
        shuffled.
        """
        positions = self.positions(first, last)
        histories, config = self.user_inputs.histories, self.config
        if config.damping:
            positions = positions[
                rng.random(len(positions)) < self._kept(histories.items[positions])
            ]
        return capped(positions, histories.users[positions], config.examples_per_user, rng)

    def _batches(self, positions: Int64, rng: np.random.Generator) -> Iterator[Batch]:
        size = min(self._batch, max(len(positions), 1))
        draw = self._drawer(size)
        # A last batch of another size would compile the step again; the shuffle leaves other
        # examples out each epoch.
        for at in range(0, len(positions) - size + 1, size):
            chosen = positions[at : at + size]
            items = self.user_inputs.histories.items[chosen]
            yield Batch(self.inputs(chosen), items, draw(rng, items), self._shown(chosen))

    def _drawer(self, batch: int) -> Draw:
        histories = self.user_inputs.histories
        before = histories.items[histories.timestamps_us < self.shape.as_of]
        watches = np.bincount(before, minlength=self.shape.items).astype(np.float64)
        return drawer(
            self.config.sampler,
            Counts(watches, self._expected, self.offered),
            self.config.negatives,
            batch,
        )

    @cached_property
    def _counts(self) -> Float64:
        """Watches of the span by item, [items]."""
        items = self.user_inputs.histories.items[
            self.positions(0, len(self.user_inputs.histories.items))
        ]
        return np.bincount(items, minlength=self.shape.items).astype(np.float64)

    @cached_property
    def _expected(self) -> Float64:
        """How often an epoch over all of the span is expected to have each item as a positive,
        [items].
        """
        expected = np.zeros(self.shape.items)
        for first, last in self._shards:
            positions = self.positions(first, last)
            items, users = (
                self.user_inputs.histories.items[positions],
                self.user_inputs.histories.users[positions],
            )
            kept = self._kept(items)
            kept *= np.minimum(1, self.config.examples_per_user / np.bincount(users, kept)[users])
            expected += np.bincount(items, kept, minlength=self.shape.items)
        return expected

    def _kept(self, items: Int32) -> Float64:
        """The probability that damping keeps each positive, [n] -> [n]."""
        threshold = self.config.damping
        return (
            keep_probability(self._counts, threshold)[items] if threshold else np.ones(len(items))
        )

    @property
    def _batch(self) -> int:
        """Positives a step. A small log takes smaller steps, so that an epoch is still many of
        them.
        """
        epoch = min(int(self._expected.sum().round()), self.config.epoch_examples)
        return min(self.config.batch, max(epoch // STEPS_AN_EPOCH, SMALLEST_BATCH))

    def _shown(self, positions: Int64) -> Int32 | None:
        """The newest items each watch's user had been shown by then and not clicked, [n,
        shown_negatives].
        """
        if self.shown is None or not self.config.shown_negatives:
            return None
        histories = self.user_inputs.histories
        users = histories.users[positions]
        ends = self.shown.ends(users, histories.timestamps_us[positions])
        return self.shown.bags(users, ends, self.config.shown_negatives)

    @property
    def _shards(self) -> Int64:
        """First and last flat position of each shard, [shards, 2]: whole users, about SHARD_WATCHES
        watches each.
        """
        offsets = self.user_inputs.histories.offsets
        wanted = np.arange(0, offsets[-1], SHARD_WATCHES)
        edges = np.unique(np.append(offsets[np.searchsorted(offsets, wanted)], offsets[-1]))
        return np.stack([edges[:-1], edges[1:]], axis=1)


def capped(positions: Int64, users: Int32, cap: int, rng: np.random.Generator) -> Int64:
    """At most `cap` random positions of each user, shuffled: heavy users do not dominate (paper,
    section 3.4).
    """
    order = np.lexsort((rng.random(len(positions)), users))
    of_user = users[order]
    turn = np.arange(len(order)) - np.searchsorted(of_user, of_user, side="left")
    return rng.permutation(positions[order[turn < cap]])


def keep_probability(counts: Float64, threshold: float) -> Float64:
    """word2vec's damping of the popular: an item with share z is kept with (sqrt(z / t) + 1) t / z,
    at most 1.
    """
    share = np.maximum(counts / max(counts.sum(), 1), 1e-12)
    kept: Float64 = np.minimum((np.sqrt(share / threshold) + 1) * threshold / share, 1.0)
    return kept
