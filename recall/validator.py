"""What a tower under training is evaluated on: watches that came after everything it was trained
on.
"""

from dataclasses import dataclass

import numpy as np

from features.arrays import Float32, Int32, Int64, Intp
from features.histories import Histories
from recall.inputs import UserInputs
from recall.tower import Tower

JUDGED_AT, JUDGED_WATCHES, JUDGED_CELLS = 50, 20_000, 1 << 25


@dataclass(frozen=True)
class Validator:
    """Watches (flat `positions`) and the history end of every watch; `validate` says how many of
    them a tower foresees.
    """

    user_inputs: UserInputs
    ends: Int64
    positions: Int64

    def hit_rate(self, tower: Tower) -> float:
        """Share of the watches whose item is among the tower's first 50."""
        return float((self.ranks(tower) <= JUDGED_AT).mean()) if len(self.positions) else 0.0

    def ranks(self, tower: Tower) -> Int64:
        """The place of each watch's item among the unwatched ones of the whole catalogue, from 1
        on: [positions].

        Unknown and already watched items come after all others, and so does what has no finite
        score; of equal scores the own one comes last: a tower that says nothing, or has diverged,
        is worth nothing.
        """
        slab = max(JUDGED_CELLS // tower.shape.items, 1)
        slabs = [
            self._ranks(tower, self.positions[at : at + slab])
            for at in range(0, len(self.positions), slab)
        ]
        return np.concatenate(slabs) if slabs else np.zeros(0, np.int64)

    def _ranks(self, tower: Tower, positions: Int64) -> Int64:
        histories = self.user_inputs.histories
        users, ends = histories.users[positions], self.ends[positions]
        inputs = self.user_inputs.inputs(
            tower.shape, users, ends, histories.timestamps_us[positions]
        )
        scores = tower.user_vectors(inputs) @ tower.item_vectors.T
        scores[:, ~tower.facts.listed] = -np.inf
        scores[_watched(histories, users, ends, tower.shape.items)] = -np.inf
        return ranks(scores, own_scores(scores, histories.items[positions]))


def validator_of(
    user_inputs: UserInputs, ends: Int64, since: int, until: int, rng: np.random.Generator
) -> Validator:
    """A validator with a sample of the watches between two instants."""
    timestamps_us = user_inputs.histories.timestamps_us
    positions = np.flatnonzero((timestamps_us >= since) & (timestamps_us < until))
    return Validator(user_inputs, ends, rng.permutation(positions)[:JUDGED_WATCHES])


def own_scores(scores: Float32, items: Int32) -> Float32:
    """The score of each row's item, NaN where the table [n, items] does not know it: [n]."""
    known = items < scores.shape[1]
    return np.where(known, scores[np.arange(len(items)), np.where(known, items, 0)], np.nan).astype(
        np.float32
    )


def ranks(scores: Float32, own: Float32) -> Int64:
    """How many of each row's scores [n, items] are not below its own [n]; all and one more where
    that is not finite.
    """
    not_below = (~(scores < own[:, None])).sum(axis=1)
    places: Int64 = np.where(np.isfinite(own), not_below, scores.shape[1] + 1).astype(np.int64)
    return places


def _watched(histories: Histories, users: Int32, ends: Int64, items: int) -> tuple[Intp, Int32]:
    """Row and item of everything that had been watched by each end."""
    starts = histories.offsets[users]
    lengths = ends - starts
    rows = np.repeat(np.arange(len(users)), lengths)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    watched = histories.items[np.repeat(starts, lengths) + within]
    known = watched < items
    return rows[known], watched[known]
