"""A few hundred unseen items a user, as of an instant: what each generator names and what becomes
of it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from features.arrays import Flags, Float32, Int32, Int64, Intp, Ints, UInt16
from features.histories import Histories
from features.timeline import pair_keys
from recall.index import ItemIndex

# Rows of a shard, and how many items one fetches at most for them: some 50 MB.
SHARD, FETCHED = 512, 1 << 22


@dataclass(frozen=True)
class Candidates:
    """Lists of users [n]: `items` int32 [n, k] and `scores` float32 [n, k], best first; 0 and -inf
    past its end.

    Merged lists also hold `tower_scores` float32 [n, k], the tower's score of every item whoever
    named it (NaN where the tower does not know it), and by generator, in their order, `ranks`
    uint16 [n, k] (1 = the generator's best, 0 = it did not name the item) and `generator_scores`
    float32 [n, k] (NaN = it did not name it).
    """

    users: Int32
    items: Int32
    scores: Float32
    tower_scores: Float32 | None = None
    ranks: Mapping[str, UInt16] = field(default_factory=dict)
    generator_scores: Mapping[str, Float32] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: Intp | slice) -> "Candidates":
        tower_scores = None if self.tower_scores is None else self.tower_scores[rows]
        ranks = {name: values[rows] for name, values in self.ranks.items()}
        scores = {name: values[rows] for name, values in self.generator_scores.items()}
        return Candidates(
            self.users[rows], self.items[rows], self.scores[rows], tower_scores, ranks, scores
        )

    def narrowed(self, width: int) -> "Candidates":
        """The first `width` places of each list."""
        tower_scores = None if self.tower_scores is None else self.tower_scores[:, :width]
        ranks = {name: values[:, :width] for name, values in self.ranks.items()}
        scores = {name: values[:, :width] for name, values in self.generator_scores.items()}
        return Candidates(
            self.users, self.items[:, :width], self.scores[:, :width], tower_scores, ranks, scores
        )


@dataclass(frozen=True)
class Pairs:
    """Pairs of a user's row and an item: sorted `codes`, and how many `counts` each row has,
    [n].
    """

    codes: Int64
    counts: Int64

    def holds(self, rows: Ints, items: Ints) -> Flags:
        """Whether each item is paired with its row; rows and items broadcast against each other."""
        codes = pair_keys(rows, items)
        at = np.searchsorted(self.codes, codes)
        held: Flags = np.append(self.codes, -1)[at] == codes
        return held


def pairs_before(users: Int32, histories: Histories, timestamp_us: int) -> Pairs:
    """The events of users [n] strictly before an instant."""
    return _pairs(histories, histories.offsets[users], histories.ends(users, timestamp_us))


def pairs_between(users: Int32, histories: Histories, since: int, until: int) -> Pairs:
    """The events of users [n] from one instant to strictly before another."""
    return _pairs(histories, histories.ends(users, since), histories.ends(users, until))


def _pairs(histories: Histories, starts: Int64, ends: Int64) -> Pairs:
    """The events at the flat positions starts[i]:ends[i] of each row i."""
    lengths = ends - starts
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    items = histories.items[np.repeat(starts, lengths) + within]
    return Pairs(np.sort(pair_keys(np.repeat(np.arange(len(starts)), lengths), items)), lengths)


def nearest(vectors: Float32, index: ItemIndex, seen: Pairs, k: int) -> tuple[Int32, Float32]:
    """Items and scores [n, k] of the k best unseen items of each vector, best first; 0 and -inf
    past a list's end.
    """
    items, scores = (
        np.zeros((len(vectors), k), np.int32),
        np.full((len(vectors), k), -np.inf, np.float32),
    )
    for rows in shards_of(seen.counts, k):
        wanted = min(k + int(seen.counts[rows].max()), len(index))
        found, values = index.search(vectors[rows], wanted)
        fresh = (found > 0) & ~seen.holds(rows[:, None], found)
        items[rows], scores[rows] = first(fresh, found, values, k)
    return items, scores


def shards_of(counts: Int64, k: int) -> Iterator[Intp]:
    """Rows in shards of like numbers of seen items, so that few users fetch more than they need.

    Whoever has seen very much is in a small shard: what a shard fetches, k and the most seen for
    each row, is bounded.
    """
    order, at = np.argsort(counts, kind="stable"), 0
    while at < len(order):
        rows = order[at : at + SHARD]
        rows = rows[: max(FETCHED // (k + int(counts[rows[-1]])), 1)]
        yield rows
        at += len(rows)


def first(kept: Flags, items: Int32, scores: Float32, k: int) -> tuple[Int32, Float32]:
    """The first k kept entries of each row, moved to the front: [n, m] -> [n, k]; 0 and -inf past
    the end.
    """
    place = np.cumsum(kept, axis=1, dtype=np.int32) - 1
    row, column = np.nonzero(kept & (place < k))
    out_items, out_scores = (
        np.zeros((len(items), k), np.int32),
        np.full((len(items), k), -np.inf, np.float32),
    )
    out_items[row, place[row, column]] = items[row, column]
    out_scores[row, place[row, column]] = scores[row, column]
    return out_items, out_scores
