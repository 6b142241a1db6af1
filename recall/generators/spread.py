"""Scores that spread from a user's last watches over sparse item x item weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from features.arrays import Float32, Int32, Intp
from features.timeline import pair_keys, pairs_of
from recall.generators.base import Columns, Named, Requests

# A scipy.sparse.csr_array: scipy says nothing of its types.
Sparse: TypeAlias = Any

# The last watch weighs 1, the one before it so much, and so on.
RECENCY = 0.8
# What a score of nothing reads as under the logarithm.
FAINT = 1e-4


def spread(requests: Requests, steps: Sequence[Sparse]) -> Sparse:
    """Scores [n, items] of requests: the recency-weighted last watches times each sparse matrix in
    turn.
    """
    scores = _recent(requests.watches, steps[0].shape[0] if steps else None)
    for step in steps:
        scores = scores @ step
    scores.sum_duplicates()
    return scores


def _recent(watches: Int32, items: int | None) -> Sparse:
    """One row a request: the weight of each of its last watches, [n, items]; a watch of a later
    item is left out.
    """
    items = int(watches.max(initial=0)) + 1 if items is None else items
    row, place = np.nonzero((watches > 0) & (watches < items))
    weights = (RECENCY**place).astype(np.float32)
    return sparse.csr_array((weights, (row, watches[row, place])), shape=(len(watches), items))


@dataclass(frozen=True)
class SpreadAnswer:
    """The answer of a generator whose scores are sparse: `scores` [n, items], larger is better, 0 =
    nothing to say.

    `name` heads its column: the logarithm of the score.
    """

    name: str
    scores: Sparse
    requests: Requests
    repeats: bool = False

    def named(self, k: int) -> Named:
        return best_of(self._offered, k)

    def columns(self, rows: Intp, items: Int32) -> Columns:
        """The logarithm of the score, from 0 where there is none."""
        return {self.name: np.log1p(values_at(self.scores, rows, items) / FAINT)}

    @cached_property
    def _offered(self) -> Sparse:
        """The scores of what may be named."""
        scores = self.scores.tocoo()
        row, item = scores.coords
        kept = (scores.data > 0) & (item > 0)
        if not self.repeats:
            kept &= ~self.requests.seen.holds(row, item)
        pairs = (row[kept], item[kept])
        return sparse.coo_array((scores.data[kept], pairs), shape=scores.shape).tocsr()


def best_of(scores: Sparse, k: int) -> Named:
    """The k largest of each row of a sparse matrix of positive scores [n, items]; ties go to the
    later item.
    """
    counts = np.diff(scores.indptr)
    width = max(int(counts.max(initial=0)), 1)
    row = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(row)) - np.repeat(scores.indptr[:-1].astype(np.int64), counts)
    # The bits of positive floats order as the floats do: one sort of integers carries the item
    # along.
    keys = np.zeros((len(counts), width), np.int64)
    keys[row, within] = pair_keys(scores.data.astype(np.float32).view(np.int32), scores.indices)
    keys.sort(axis=1)
    bits, items = pairs_of(keys[:, ::-1][:, :k])
    values = bits.astype(np.int32).view(np.float32)
    missing = ((0, 0), (0, max(k - width, 0)))
    return Named(np.pad(items.astype(np.int32), missing), np.pad(values, missing))


def values_at(scores: Sparse, rows: Intp, items: Int32) -> Float32:
    """The entries of a sparse matrix at pairs [p], 0 where it has none or the item lies beyond
    it.
    """
    inside = items < scores.shape[1]
    values = np.zeros(len(rows), np.float32)
    if inside.any():
        values[inside] = np.asarray(scores[rows[inside], items[inside]]).ravel()
    return values


def strongest(scores: Sparse, most: int) -> Sparse:
    """The `most` largest entries of each row of a matrix of positive scores, the others dropped."""
    counts = np.diff(scores.indptr)
    row = np.repeat(np.arange(scores.shape[0]), counts)
    # Only rows with too many entries are sorted; the bits of positive floats order as the floats
    # do.
    long = np.flatnonzero(np.repeat(counts > most, counts))
    bits = scores.data[long].astype(np.float32).view(np.int32).astype(np.int64)
    order = long[np.argsort(row[long] * 2**32 - bits, kind="stable")]
    of_row = row[order]
    place = np.arange(len(order)) - np.searchsorted(of_row, of_row, side="left")
    kept = np.ones(len(row), bool)
    kept[order[place >= most]] = False
    pairs = (row[kept], scores.indices[kept])
    return sparse.coo_array((scores.data[kept], pairs), shape=scores.shape).tocsr()
