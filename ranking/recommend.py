"""The ordered few: candidates scored by expected seconds, the best kept."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.ledger import Ledger
from ranking.scoring import Part, Ranker

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

PAIRS_A_SHARD = 50_000


@dataclass(frozen=True)
class Lists:
    """What recall found for users [n]: `items` int32 [n, k] (0 = none) and its columns {name: float64 [n, k]}."""

    users: Int32
    items: Int32
    recall: dict[str, Float64]

    def take(self, rows: slice) -> "Lists":
        recall = {name: values[rows] for name, values in self.recall.items()}
        return Lists(self.users[rows], self.items[rows], recall)


@dataclass(frozen=True)
class Recommender:
    """Ranks lists as of one instant: the item side of every catalogue item is computed once."""

    ranker: Ranker
    ledger: Ledger
    as_of: int
    item_parts: Part

    def recommend(self, lists: Lists, top_k: int) -> tuple[Int32, Float64]:
        """The top_k items of each list by expected seconds, and those seconds: [n, top_k]; 0 past a list's end."""
        width = min(top_k, lists.items.shape[1])
        items, seconds = np.zeros((len(lists.users), top_k), np.int32), np.zeros((len(lists.users), top_k))
        for shard in shards(lists.items):
            scores = self._scores(lists.take(shard))
            order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
            items[shard, :width] = np.take_along_axis(lists.items[shard], order, axis=1)
            seconds[shard, :width] = np.take_along_axis(scores, order, axis=1)
        return items, np.where(items > 0, seconds, 0.0)

    def expected_seconds(self, lists: Lists) -> Float64:
        """Expected seconds of every item of lists [n, k]; -inf where there is none."""
        parts = [self._scores(lists.take(shard)) for shard in shards(lists.items)]
        return np.concatenate(parts) if parts else np.zeros(lists.items.shape)

    def _scores(self, lists: Lists) -> Float64:
        """Expected seconds [n, k]; -inf where there is no item."""
        row, column = np.nonzero(lists.items)
        items = lists.items[row, column]
        recall = {name: values[row, column] for name, values in lists.recall.items()}
        pairs = self.ledger.pair_block(lists.users[row], items, self.as_of).with_numbers(recall)
        users = self.ranker.part("user", self.ledger.user_block(lists.users, self.as_of))
        scores = np.full(lists.items.shape, -np.inf)
        scores[row, column] = self.ranker.expected_seconds(
            users.take(row), self.item_parts.take(items), self.ranker.part("pair", pairs)
        )
        return scores


def recommender_of(ranker: Ranker, ledger: Ledger, as_of: int, catalogue: int) -> Recommender:
    """A recommender of items 0..catalogue - 1 as of an instant."""
    items = np.arange(catalogue, dtype=np.int32)
    return Recommender(ranker, ledger, as_of, ranker.part("item", ledger.item_block(items, as_of)))


def shards(items: Int32) -> Iterator[slice]:
    """Rows of lists [n, k], so many at a time that a shard's pairs fit in memory however long the lists are."""
    users = max(PAIRS_A_SHARD // max(items.shape[1], 1), 1)
    return (slice(at, at + users) for at in range(0, len(items), users))
