"""The baseline every recall metric stands beside: what most people completed lately."""

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from recall.candidates import SHARD, Candidates, seen_pairs

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

HOUR = 3_600 * 1_000_000


def popularity(watches: Histories, items: int, as_of: int, hours: float | None = None) -> Float64:
    """Completed watches of items 0..items - 1 before an instant, in the last `hours` of it or in all: [items]."""
    inside = watches.instants < as_of
    if hours is not None:
        inside &= watches.instants >= as_of - round(hours * HOUR)
    return np.bincount(watches.items[inside], minlength=items)[:items].astype(np.float64)


def popular_lists(counts: Float64, users: Int32, seen: Histories, as_of: int, k: int) -> Candidates:
    """The k most watched items that each user had not seen before an instant; of equals the newest (last index) first.

    Everybody's items stand in one order, so no index is searched: each list is that order without what was seen.
    """
    order = np.append(np.argsort(-counts[:0:-1], kind="stable"), len(counts) - 1)
    items = np.where(order < len(counts) - 1, len(counts) - 1 - order, 0).astype(np.int32)
    scores = np.where(items > 0, counts[items], -np.inf).astype(np.float32)
    places = np.empty((len(users), k), np.int32)
    for at in range(0, len(users), SHARD):
        rows = slice(at, at + SHARD)
        places[rows] = _unseen_places(_seen_places(items, users[rows], seen, as_of), len(users[rows]), k)
    return Candidates(users, items[np.minimum(places, len(items) - 1)], scores[np.minimum(places, len(items) - 1)])


def _seen_places(items: Int32, users: Int32, seen: Histories, as_of: int) -> Int64:
    """Sorted distinct codes, row << 32 | place, of where each user's seen items stand in the common order."""
    place_of = np.empty(len(items), np.int64)
    place_of[items] = np.arange(len(items))
    rows = np.arange(len(users))
    pairs = seen_pairs(rows, seen, seen.offsets[users], seen.ends(users, as_of))
    row, item = pairs >> 32, pairs & 0xFFFFFFFF
    known = item < len(items)
    return np.unique((row[known] << 32) | place_of[item[known]])


def _unseen_places(seen: Int64, users: int, k: int) -> Int64:
    """The first k places of each row that are not among the seen codes, [users, k].

    A row's seen places p0 < p1 < .. push the j-th unseen one back by as many as have p_i - i <= j.
    """
    rows = np.arange(users) << 32
    starts = np.searchsorted(seen, rows)
    pushing = seen - (np.arange(len(seen)) - starts[seen >> 32])
    wanted = rows[:, None] | np.arange(k)
    return np.arange(k) + np.searchsorted(pushing, wanted, side="right") - starts[:, None]
