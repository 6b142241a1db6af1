"""The baseline every recall metric stands beside: what most people completed lately."""

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from recall.candidates import Candidates, retrieve
from recall.index import index_of

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

HOUR = 3_600 * 1_000_000


def popularity(watches: Histories, items: int, as_of: int, hours: float | None = None) -> Float64:
    """Completed watches of items 0..items - 1 before an instant, in the last `hours` of it or in all: [items]."""
    inside = watches.instants < as_of
    if hours is not None:
        inside &= watches.instants >= as_of - round(hours * HOUR)
    return np.bincount(watches.items[inside], minlength=items)[:items].astype(np.float64)


def popular_lists(counts: Float64, users: Int32, seen: Histories, as_of: int, k: int) -> Candidates:
    """The k most watched items that each user had not seen before an instant."""
    # The index of one-dimensional vectors: the inner product with 1 is the count itself.
    vectors, ones = counts.astype(np.float32)[:, None], np.ones((len(users), 1), np.float32)
    return retrieve(users, ones, index_of(vectors), seen, as_of, k)
