"""Items that appeared lately and few have watched, in the tower's order."""

from dataclasses import dataclass

import numpy as np

from features.arrays import Flags, Float32, Float64, Int32, Int64, Intp
from features.schema import HOUR
from recall.candidates import first
from recall.generators.base import Columns, Log, Named, Requests, Snapshot

# More than this many new items are not looked at: the newest are.
NEWEST = 4096


@dataclass(frozen=True)
class NewItems:
    """`items` int32 [m] are new, newest first, `vectors` float32 [m, dim] theirs; `hours` float64
    [items]: all ages.
    """

    items: Int32
    vectors: Float32
    hours: Float64

    def answer(self, requests: Requests) -> "NewAnswer":
        return NewAnswer(self, requests)


@dataclass(frozen=True)
class NewAnswer:
    generator: NewItems
    requests: Requests

    def named(self, k: int) -> Named:
        items, n = self.generator.items, len(self.requests)
        scores = self.requests.vectors @ self.generator.vectors.T
        order = np.argsort(-scores, axis=1, kind="stable")
        offered = items[order]
        fresh = ~self.requests.seen.holds(np.arange(n)[:, None], offered)
        return Named(*first(fresh, offered, np.take_along_axis(scores, order, axis=1), k))

    def columns(self, rows: Intp, items: Int32) -> Columns:
        """The logarithm of an item's age in hours."""
        del rows
        return {"age": np.log1p(self.generator.hours).astype(np.float32)[items]}


def gather_new(first_seen: Int64, new: Flags, item_vectors: Float32, as_of: int) -> NewItems:
    """The new items that a tower knows, [items] each: of instants first seen, of flags, of
    vectors.
    """
    known = np.flatnonzero(new[: len(item_vectors)])
    newest = known[np.argsort(-first_seen[known], kind="stable")][:NEWEST].astype(np.int32)
    hours = np.maximum(as_of - first_seen, 0) / HOUR
    return NewItems(newest, item_vectors[newest], hours)


def build(snapshot: Snapshot) -> NewItems:
    """The generator as of a snapshot."""
    return gather_new(
        snapshot.first_seen, snapshot.new, snapshot.tower.item_vectors, snapshot.as_of
    )


def missing(log: Log) -> str | None:
    """Why a log cannot give it."""
    return None if log.timed else "the clock is order only, so nothing is new"
