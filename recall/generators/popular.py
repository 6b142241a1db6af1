"""What most people completed lately, as a baseline beside every metric and as a generator."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.instants import HOUR
from recall.candidates import Candidates, Flags, Pairs, first, pairs_before, shards_of
from recall.generators.base import Columns, Named, Requests, seen_only

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Intp = npt.NDArray[np.intp]

# Hours after which a watch counts half; None: it always counts 1.
HALF_LIVES = (0.25, 0.5, 1.0, 3.0, 12.0, 24.0, 72.0, None)
# How far back popularity counts as a baseline, in hours; None: since the log began.
SPANS: Mapping[str, float | None] = {"last day": 24.0, "last week": 168.0, "last hour": 1.0, "all time": None}
# A segment's own counts weigh as much as the whole's once it has so many (decayed) watches.
SHRINKAGE = 500.0


def popularity(watches: Histories, items: int, as_of: int, hours: float | None = None) -> Float64:
    """Completed watches of items 0..items - 1 before an instant, in the last `hours` of it or in all: [items]."""
    inside = watches.instants < as_of
    if hours is not None:
        inside &= watches.instants >= as_of - round(hours * HOUR)
    return np.bincount(watches.items[inside], minlength=items)[:items].astype(np.float64)


def popular_lists(counts: Float64, users: Int32, seen: Histories, as_of: int, k: int) -> Candidates:
    """The k most watched items that each user had not seen before an instant; of equals the newest first."""
    catalogue, everybody = np.arange(len(counts)) > 0, np.zeros(int(users.max(initial=0)) + 1, np.int32)
    generator = Popular(counts[None, :], catalogue, everybody, {})
    named = PopularAnswer(generator, seen_only(users, pairs_before(users, seen, as_of))).named(k)
    return Candidates(users, named.items, np.where(named.items > 0, named.scores, -np.inf).astype(np.float32))


def popular_lists_by_span(
    watches: Histories, items: int, users: Int32, seen: Histories, as_of: int, k: int, timed: bool
) -> dict[str, Int32]:
    """Items of the lists of what was most watched, by span, [users, k] each; on an order clock only of all time."""
    spans = SPANS if timed else {"all time": None}
    counts = {name: popularity(watches, items, as_of, hours) for name, hours in spans.items()}
    return {name: popular_lists(of_span, users, seen, as_of, k).items for name, of_span in counts.items()}


def decay(ages: Int64, half_life: float | None) -> Float64:
    """What watches of ages [n], in microseconds, count: 1, halved every `half_life` hours; None: always 1."""
    return np.ones(len(ages)) if half_life is None else np.exp2(-ages / (half_life * HOUR))


def decayed(
    watches: Histories, items: int, as_of: int, half_life: float | None, segments: Int32 | None = None
) -> Float64:
    """Watches strictly before an instant, decayed, by segment of their user and item: [segments, items].

    `segments` int32 [users] are codes from 0; without them there is one segment, everybody.
    """
    kept = np.flatnonzero((watches.instants < as_of) & (watches.items < items))
    weights = decay(as_of - watches.instants[kept], half_life)
    if segments is None:
        return np.bincount(watches.items[kept], weights, minlength=items)[None, :].astype(np.float64)
    size = int(segments.max(initial=0)) + 1
    cells = segments[watches.users[kept]].astype(np.int64) * items + watches.items[kept]
    return np.bincount(cells, weights, minlength=size * items).reshape(size, items).astype(np.float64)


def shares(counts: Float64) -> Float64:
    """Each segment's share of watches by item [segments, items], shrunk towards the share among everybody.

    (c_si + m p_i) / (n_s + m), m = SHRINKAGE; an item nobody watched has a share of one watch in a hundred.
    """
    whole = counts.sum(axis=0) + 0.01
    whole /= whole.sum()
    shrunk: Float64 = (counts + SHRINKAGE * whole) / (counts.sum(axis=1, keepdims=True) + SHRINKAGE)
    return shrunk


@dataclass(frozen=True)
class Popular:
    """`shares` [segments, items] of watches, `catalogue` [items] which of them may be named, the `segments` int32
    [users] of people, and everybody's shares by half life."""

    shares: Float64
    catalogue: Flags
    segments: Int32
    by_half_life: Mapping[str, Float64]

    def answer(self, requests: Requests) -> "PopularAnswer":
        return PopularAnswer(self, requests)

    @cached_property
    def order(self) -> Int32:
        """The catalogue's items by segment, the most watched first, of equals the newest: [segments, listed]."""
        newest_first = np.flatnonzero(self.catalogue)[::-1].astype(np.int32)
        return newest_first[np.argsort(-self.shares[:, newest_first], axis=1, kind="stable")]

    @cached_property
    def logs(self) -> dict[str, Float32]:
        """log10 shares by half life, [items] each."""
        return {name: np.log10(values).astype(np.float32) for name, values in self.by_half_life.items()}

    @cached_property
    def lift(self) -> Float32:
        """log10 of the segment's share over the mean segment's, [segments, items]."""
        lift: Float32 = np.log10(self.shares / self.shares.mean(axis=0)).astype(np.float32)
        return lift


@dataclass(frozen=True)
class PopularAnswer:
    generator: Popular
    requests: Requests

    def named(self, k: int) -> Named:
        """The most watched of the user's segment; items nobody watched follow, so that a list is full."""
        items = np.zeros((len(self.requests), k), np.int32)
        scores = np.full(items.shape, -np.inf, np.float32)
        for rows in shards_of(self.requests.seen.counts, k):
            items[rows], scores[rows] = self._named(rows, k)
        return Named(items, np.where(items > 0, scores, 0).astype(np.float32))

    def columns(self, rows: Intp, items: Int32) -> Columns:
        """log10 of the item's share of all watches at each half life, and of its lift in the user's segment."""
        columns = {name: values[items] for name, values in self.generator.logs.items()}
        if len(self.generator.shares) > 1:
            columns["segment"] = self.generator.lift[self._segments[rows], items]
        return columns

    @cached_property
    def _segments(self) -> Int32:
        return self.generator.segments[self.requests.users]

    def _named(self, rows: Intp, k: int) -> tuple[Int32, Float32]:
        depth = min(k + int(self.requests.seen.counts[rows].max()), self.generator.order.shape[1])
        segments = self._segments[rows]
        offered = self.generator.order[segments, :depth]
        fresh = ~self.requests.seen.holds(rows[:, None], offered)
        return first(fresh, offered, self.generator.shares[segments[:, None], offered].astype(np.float32), k)


def hit_share(answer: PopularAnswer, watched: Pairs, k: int) -> float:
    """Share of the requests' users whose first k popular items hold one that they went on to watch."""
    items = answer.named(k).items
    hits: Flags = watched.holds(np.arange(len(items))[:, None], items) & (items > 0)
    return float(hits.any(axis=1).mean()) if len(items) else 0.0
