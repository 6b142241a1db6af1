"""What most people completed lately, as a baseline beside every metric and as a generator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from features.arrays import Flags, Float32, Float64, Int32, Intp
from features.histories import Histories
from features.schema import HOUR
from recall.candidates import Candidates, Pairs, first, pairs_before, pairs_between, shards_of
from recall.generators.base import (
    Columns,
    Log,
    Named,
    Popularity,
    Requests,
    Snapshot,
    decayed,
    seen_only,
)

# How far back popularity counts as a baseline, in hours; a log has those that are shorter than it
# is, and all of its time.
SPANS: Mapping[str, float] = {
    "last day": 24.0,
    "last week": 168.0,
    "last hour": 1.0,
    "last month": 720.0,
    "last year": 8_760.0,
}
ALL_TIME = "all time"
# A segment's own counts weigh as much as the whole's once it has so many (decayed) watches.
SHRINKAGE = 500.0
# A column of users with more codes than this is not tried as a segment.
MOST_SEGMENTS = 64
JUDGED_AT = 50


def popularity(watches: Histories, items: int, as_of: int, hours: float | None = None) -> Float64:
    """Completed watches of items 0..items - 1 before an instant, in the last `hours` of it or in
    all: [items].
    """
    inside = watches.timestamps_us < as_of
    if hours is not None:
        inside &= watches.timestamps_us >= as_of - round(hours * HOUR)
    return np.bincount(watches.items[inside], minlength=items)[:items].astype(np.float64)


def popular_lists(counts: Float64, users: Int32, seen: Histories, as_of: int, k: int) -> Candidates:
    """The k most watched items that each user had not seen before an instant; of equals the newest
    first.
    """
    catalogue, everybody = (
        np.arange(len(counts)) > 0,
        np.zeros(int(users.max(initial=0)) + 1, np.int32),
    )
    generator = Popular(counts[None, :], catalogue, everybody, {})
    named = PopularAnswer(generator, seen_only(users, pairs_before(users, seen, as_of))).named(k)
    return Candidates(
        users, named.items, np.where(named.items > 0, named.scores, -np.inf).astype(np.float32)
    )


def counts_by_span(watches: Histories, items: int, as_of: int, timed: bool) -> dict[str, Float64]:
    """Popularity by how far back it counts, [items] each; on an order clock only of all time."""
    first = int(watches.timestamps_us.min(initial=as_of))
    spans = {name: h for name, h in SPANS.items() if timed and h * HOUR < as_of - first}
    counts = {name: popularity(watches, items, as_of, hours) for name, hours in spans.items()}
    return counts | {ALL_TIME: popularity(watches, items, as_of)}


def popular_lists_by_span(
    counts: Mapping[str, Float64], users: Int32, seen: Histories, as_of: int, k: int
) -> dict[str, Int32]:
    """Items of the lists of what was most watched, by span, [users, k] each."""
    return {
        name: popular_lists(of_span, users, seen, as_of, k).items
        for name, of_span in counts.items()
    }


def shares(counts: Float64) -> Float64:
    """Each segment's share of watches by item [segments, items], shrunk towards the share among
    everybody.

    (c_si + m p_i) / (n_s + m), m = SHRINKAGE; an item nobody watched has a share of one watch in a
    hundred.
    """
    whole = counts.sum(axis=0) + 0.01
    whole /= whole.sum()
    shrunk: Float64 = (counts + SHRINKAGE * whole) / (counts.sum(axis=1, keepdims=True) + SHRINKAGE)
    return shrunk


@dataclass(frozen=True)
class Popular:
    """`shares` [segments, items] of watches, `catalogue` [items] which of them may be named, the
    `segments` int32 [users] of people, and everybody's shares by half life.
    """

    shares: Float64
    catalogue: Flags
    segments: Int32
    by_half_life: Mapping[str, Float64]

    def answer(self, requests: Requests) -> "PopularAnswer":
        return PopularAnswer(self, requests)

    @cached_property
    def order(self) -> Int32:
        """The catalogue's items by segment, the most watched first, of equals the newest:
        [segments, listed].
        """
        newest_first = np.flatnonzero(self.catalogue)[::-1].astype(np.int32)
        return newest_first[np.argsort(-self.shares[:, newest_first], axis=1, kind="stable")]

    @cached_property
    def logs(self) -> dict[str, Float32]:
        """log10 shares by half life, [items] each."""
        return {
            name: np.log10(values).astype(np.float32) for name, values in self.by_half_life.items()
        }

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
        """The most watched of the user's segment; items nobody watched follow, so that a list is
        full.
        """
        items = np.zeros((len(self.requests), k), np.int32)
        scores = np.full(items.shape, -np.inf, np.float32)
        for rows in shards_of(self.requests.seen.counts, k):
            items[rows], scores[rows] = self._named(rows, k)
        return Named(items, np.where(items > 0, scores, 0).astype(np.float32))

    def columns(self, rows: Intp, items: Int32) -> Columns:
        """log10 of the item's share of all watches at each half life, and of its lift in the user's
        segment.
        """
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
        return first(
            fresh, offered, self.generator.shares[segments[:, None], offered].astype(np.float32), k
        )


def hit_share(answer: PopularAnswer, watched: Pairs, k: int) -> float:
    """Share of the requests' users whose first k popular items hold one that they went on to
    watch.
    """
    items = answer.named(k).items
    hits: Flags = watched.holds(np.arange(len(items))[:, None], items) & (items > 0)
    return float(hits.any(axis=1).mean()) if len(items) else 0.0


def build(snapshot: Snapshot) -> Popular:
    """The generator as of a snapshot, by its choice of half life and segment."""
    log, as_of, catalogue = snapshot.log, snapshot.as_of, snapshot.catalogue
    whole = {
        "popular_ever" if h is None else f"popular_{h:g}h": shares(
            decayed(snapshot.watches, len(catalogue), as_of, h)
        )[0]
        for h in log.half_lives
    }
    return replace(_popular_alone(log, catalogue, as_of, snapshot.popularity), by_half_life=whole)


def _popular_alone(log: Log, catalogue: Flags, as_of: int, popularity: Popularity) -> Popular:
    """What popular lists need, without the columns."""
    everybody = np.zeros(len(log.user_inputs.histories.offsets) - 1, np.int32)
    segments = log.user_inputs.users.codes[popularity.segment] if popularity.segment else everybody
    counts = decayed(
        log.user_inputs.histories, len(catalogue), as_of, popularity.half_life, segments
    )
    return Popular(shares(counts), catalogue, segments, {})


def choose_popularity(log: Log, slices: Sequence[tuple[Int32, int, int]]) -> Popularity:
    """The half life, and then the segment, whose popular lists hit most of what users watched
    after.

    Each slice is users and two instants: lists are as of the first, and hit what was watched before
    the second.
    """
    rounds = [_Round(log, *each) for each in slices if len(each[0])]

    def hits(popularity: Popularity) -> float:
        return sum(each.hit_share(popularity) for each in rounds)

    alike = max((Popularity(half_life) for half_life in log.half_lives), key=hits)
    codes = {
        name: size for name, size in log.user_inputs.users.sizes.items() if size <= MOST_SEGMENTS
    }
    return max((alike, *(Popularity(alike.half_life, name) for name in codes)), key=hits)


class _Round:
    """Users who are shown popular lists as of one instant, and what they watched before another."""

    def __init__(self, log: Log, users: Int32, since: int, until: int) -> None:
        self.log, self.since = log, since
        self.catalogue = log.vocabulary.shown_as_of(since)[: log.vocabulary.size_as_of(since)]
        self.watched = pairs_between(users, log.user_inputs.histories, since, until)
        self.requests = seen_only(users, pairs_before(users, log.clicks, since))

    def hit_share(self, popularity: Popularity) -> float:
        generator = _popular_alone(self.log, self.catalogue, self.since, popularity)
        return hit_share(PopularAnswer(generator, self.requests), self.watched, JUDGED_AT)
