"""Shared negatives of a training step, and the correction that keeps their softmax honest.

Where item j is expected m(j) times among the negatives, the sum over all other items, sum_j
exp(s_j), is estimated without bias by sum over the drawn j of exp(s_j) / m(j), accidental hits of
the positive left out: each negative's logit is lowered by log m(j), the positive's is left as it is
(logQ correction; paper section 3.1, "correct for this sampling via importance weighting").
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from features.arrays import Flags, Float32, Float64, Int32
from recall.config import SamplerName

UNIGRAM_POWER = 0.75


@dataclass(frozen=True)
class Negatives:
    """Item indexes [s] and the correction [s] that is subtracted from their logits."""

    items: Int32
    corrections: Float32


Draw = Callable[[np.random.Generator, Int32], Negatives]


@dataclass(frozen=True)
class Counts:
    """What samplers know, [items] each: completed watches before the instant, and positives of the
    pass.

    `offered`: what anybody had been shown by then (None: everything). The rest is no negative:
    nobody passed it over.
    """

    watches: Float64
    positives: Float64
    offered: Flags | None = None


def background(sampler: SamplerName, counts: Counts) -> Float64:
    """Q, the distribution of what is drawn beside the batch: [items]; Q(0) = 0.

    `unigram` is watches^0.75 (word2vec), `uniform` and `mixed` are uniform over what was shown.
    """
    if sampler == "unigram":
        return _normalised(counts.watches**UNIGRAM_POWER)
    return _normalised(
        np.ones(len(counts.watches))
        if counts.offered is None
        else counts.offered.astype(np.float64)
    )


def drawer(sampler: SamplerName, counts: Counts, size: int, batch: int) -> Draw:
    """A function that gives the shared negatives of a batch of `batch` positives.

    `uniform`, `unigram`: `size` draws; `in_batch`: the batch's own positives; `mixed`: these and
    `size` uniform draws, so that every item is met at times. As many negatives as there are items
    are all that was shown: the full softmax.
    """
    offered = np.flatnonzero(background("uniform", counts)).astype(np.int32)
    if sampler != "in_batch" and size >= len(offered):
        everything = Negatives(offered, np.zeros(len(offered), np.float32))
        return lambda *_: everything
    drawn = 0 if sampler == "in_batch" else size
    q = background(sampler, counts)
    expected = drawn * q + (
        batch * _normalised(counts.positives) if sampler in ("in_batch", "mixed") else 0
    )
    corrections = np.log(np.maximum(expected, 1e-30)).astype(np.float32)
    cumulative = np.cumsum(q)

    def draw(rng: np.random.Generator, positives: Int32) -> Negatives:
        own = positives if sampler in ("in_batch", "mixed") else positives[:0]
        others = np.searchsorted(
            cumulative, rng.random(drawn) * cumulative[-1], side="right"
        ).astype(np.int32)
        chosen = np.concatenate([own, others])
        return Negatives(chosen, corrections[chosen])

    return draw


def _normalised(weights: Float64) -> Float64:
    known = weights.copy()
    known[0] = 0.0
    total = known.sum()
    if total > 0:
        known /= total
    else:
        known[1:] = 1 / max(len(known) - 1, 1)
    return known
