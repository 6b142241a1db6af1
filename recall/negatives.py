"""Shared negatives of a training step, and the correction that keeps their softmax honest.

S negatives are drawn independently from Q. The sum over all other items, sum_j exp(s_j), is then estimated
without bias by sum over the drawn j of exp(s_j) / (S Q(j)), accidental hits of the positive left out: each
negative's logit is lowered by log(S Q(j)), the positive's is left as it is (logQ correction; paper section 3.1
"correct for this sampling via importance weighting").
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recall.config import SamplerName

Float64 = npt.NDArray[np.float64]
UNIGRAM_POWER = 0.75


@dataclass(frozen=True)
class Negatives:
    """Item indexes [s] and the correction [s] that is subtracted from their logits."""

    items: npt.NDArray[np.int32]
    corrections: npt.NDArray[np.float32]


def background(sampler: SamplerName, counts: Float64) -> Float64:
    """Q, the distribution negatives are drawn from: [items], counts [items] of completed watches; Q(0) = 0.

    `unigram` is count^0.75 (word2vec), `mixed` half of it and half uniform, so that every item is drawn at times.
    """
    uniform = np.ones(len(counts))
    unigram = counts**UNIGRAM_POWER
    weights = {"uniform": uniform, "full": uniform, "unigram": unigram}
    if sampler == "mixed":
        return (_normalised(uniform) + _normalised(unigram)) / 2
    return _normalised(weights[sampler])


def drawer(sampler: SamplerName, counts: Float64, size: int) -> Callable[[np.random.Generator], Negatives]:
    """A function that draws `size` shared negatives; `full`, or more than there are items, gives all of them."""
    if sampler == "full" or size >= len(counts) - 1:
        everything = np.arange(1, len(counts), dtype=np.int32)
        return lambda _: Negatives(everything, np.zeros(len(everything), np.float32))
    q = background(sampler, counts)
    cumulative = np.cumsum(q)

    def draw(rng: np.random.Generator) -> Negatives:
        items = np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")
        return Negatives(items.astype(np.int32), np.log(size * q[items]).astype(np.float32))

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
