"""A few hundred unseen items a user, as of an instant."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from recall.index import ItemIndex

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

SHARD = 4096


@dataclass(frozen=True)
class Candidates:
    """Lists of users [n]: `items` int32 [n, k] and `scores` float32 [n, k], best first; 0 and -inf past its end."""

    users: Int32
    items: Int32
    scores: Float32

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: npt.NDArray[np.intp] | slice) -> "Candidates":
        return Candidates(self.users[rows], self.items[rows], self.scores[rows])


def retrieve(users: Int32, vectors: Float32, index: ItemIndex, seen: Histories, as_of: int, k: int) -> Candidates:
    """The k best items of each user (vectors [n, dim]) that the user had not seen before an instant."""
    lists = Candidates(users, np.zeros((len(users), k), np.int32), np.full((len(users), k), -np.inf, np.float32))
    ends = seen.ends(users, as_of)
    counts = ends - seen.offsets[users]
    for rows in _shards(counts):
        wanted = min(k + int(counts[rows].max()), len(index))
        items, scores = index.search(vectors[rows], wanted)
        fresh = ~were_seen(rows, items, seen_pairs(rows, seen, seen.offsets[users[rows]], ends[rows]))
        lists.items[rows], lists.scores[rows] = _first(fresh & (items > 0), items, scores, k)
    return lists


def _shards(counts: Int64) -> Iterator[npt.NDArray[np.intp]]:
    """Rows in shards of like numbers of seen items, so that few users fetch more than they need."""
    order = np.argsort(counts, kind="stable")
    for at in range(0, len(order), SHARD):
        yield order[at : at + SHARD]


def seen_pairs(rows: npt.NDArray[np.intp], seen: Histories, starts: Int64, ends: Int64) -> Int64:
    """Sorted codes of the (row, item) pairs that were seen: flat positions starts[i]:ends[i] of each row i."""
    lengths = ends - starts
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = seen.items[np.repeat(starts, lengths) + within]
    return np.sort(_pair_codes(np.repeat(np.arange(len(rows)), lengths), items))


def were_seen(rows: npt.NDArray[np.intp], items: Int32, pairs: Int64) -> npt.NDArray[np.bool_]:
    """Whether each item of each row's list [n, m] is among the row's seen pairs."""
    codes = _pair_codes(np.arange(len(rows))[:, None], items)
    at = np.searchsorted(pairs, codes)
    seen: npt.NDArray[np.bool_] = np.append(pairs, -1)[at] == codes
    return seen


def _pair_codes(rows: npt.NDArray[np.intp], items: Int32) -> Int64:
    return (rows.astype(np.int64) << 32) | items


def _first(kept: npt.NDArray[np.bool_], items: Int32, scores: Float32, k: int) -> tuple[Int32, Float32]:
    """The first k kept entries of each row, moved to the front: [n, m] -> [n, k]."""
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    chosen = np.take_along_axis(kept, order, axis=1)
    items, scores = np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)
    out_items, out_scores = np.zeros((len(items), k), np.int32), np.full((len(items), k), -np.inf, np.float32)
    width = order.shape[1]
    out_items[:, :width] = np.where(chosen, items, 0)
    out_scores[:, :width] = np.where(chosen, scores, -np.inf)
    return out_items, out_scores
