"""The ordered few: candidates scored by expected seconds and by the chance that they are watched,
the best kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from features.ahead import map_ahead
from features.arrays import Float64, Int32, Int64
from features.asof_features import AsOfFeatures
from features.impressions import Impressions
from ranking.examples import Exposures, blocks_of
from ranking.list_order import ListOrder, log_of
from ranking.model import LayerInput, Ranker

PAIRS_A_SHARD = 50_000


@dataclass(frozen=True)
class Lists:
    """What recall found for users [n]: `items` int32 [n, k] (0 = none) and its columns {name:
    float64 [n, k]}.

    `log_chances` [n, k] are log P(next) of the candidates.
    """

    users: Int32
    items: Int32
    recall: dict[str, Float64]
    log_chances: Float64

    def take(self, rows: slice) -> "Lists":
        recall = {name: values[rows] for name, values in self.recall.items()}
        return Lists(self.users[rows], self.items[rows], recall, self.log_chances[rows])


@dataclass(frozen=True)
class Ordered:
    """Ordered lists of users [n]: `items` int32 [n, m], best first, 0 past the end, where all else
    is 0 too.

    `scores` are what orders, `seconds` E[T | shown], `chances` P(next), [n, m] each.
    """

    users: Int32
    items: Int32
    scores: Float64
    seconds: Float64
    chances: Float64

    def take(self, rows: slice) -> "Ordered":
        return Ordered(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def at(self, places: Int64) -> "Ordered":
        """What stands at places [n, l] of each list; nothing at -1."""
        there = places >= 0

        def picked(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
            return np.where(
                there, np.take_along_axis(values, np.maximum(places, 0), axis=1), 0
            ).astype(values.dtype)

        columns = (
            picked(getattr(self, name)) for name in ("items", "scores", "seconds", "chances")
        )
        return Ordered(self.users, *columns)


@dataclass(frozen=True)
class Recommender:
    """Ranks lists as of one instant: the item side of every catalogue item is computed once."""

    ranker: Ranker
    features: AsOfFeatures
    as_of: int
    item_parts: LayerInput

    def recommend(self, lists: Lists, order: ListOrder, top_k: int) -> Ordered:
        """The first top_k items of each list in an order; what is past a list's end is 0."""
        parts = [ordered(shard, seconds, order, top_k) for shard, seconds in self._scored(lists)]
        if not parts:
            nothing = np.zeros((0, top_k))
            return Ordered(lists.users, nothing.astype(np.int32), nothing, nothing, nothing)
        return Ordered(
            *(
                np.concatenate([getattr(part, field.name) for part in parts])
                for field in fields(Ordered)
            )
        )

    def expected_seconds(self, lists: Lists) -> Float64:
        """Expected seconds of every item of lists [n, k]; -inf where there is none."""
        parts = [seconds for _, seconds in self._scored(lists)]
        return np.concatenate(parts) if parts else np.zeros(lists.items.shape)

    def expected_seconds_of(self, shown: Impressions, recall: dict[str, Float64]) -> Float64:
        """Expected seconds of impressions [n], each as of its own instant, with recall's columns of
        them, {name: [n]}.
        """
        blocks = blocks_of(self.features, Exposures.of(shown, self.features, recall))
        return self.ranker.scores(blocks["user"], blocks["item"], blocks["pair"])

    def _scored(self, lists: Lists) -> Iterator[tuple[Lists, Float64]]:
        """Shards of lists with the expected seconds of their items, on all cores."""
        parts = [lists.take(shard) for shard in shards(lists.items)]
        # The first one counts the log by every key, which the others then read.
        counted = [self._scores(part) for part in parts[:1]]
        return zip(parts, chain(counted, map_ahead(self._scores, parts[1:])), strict=True)

    def _scores(self, lists: Lists) -> Float64:
        """Expected seconds [n, k]; -inf where there is no item."""
        row, column = np.nonzero(lists.items)
        items = lists.items[row, column]
        recall = {name: values[row, column] for name, values in lists.recall.items()}
        pairs = self.features.pair_block(lists.users[row], items, self.as_of, recall)
        users = self.ranker.part("user", self.features.user_block(lists.users, self.as_of))
        scores = np.full(lists.items.shape, -np.inf)
        scores[row, column] = self.ranker.expected_seconds(
            users.take(row), self.item_parts.take(items), self.ranker.part("pair", pairs)
        )
        return scores


def ordered(lists: Lists, seconds: Float64, order: ListOrder, top_k: int) -> Ordered:
    """Lists whose expected seconds [n, k] are known, in an order, cut or filled up with 0 to
    top_k.
    """
    scores = order.scores(log_of(seconds), lists.log_chances)
    there, chances = lists.items > 0, np.exp(lists.log_chances)
    columns = (np.where(there, values, 0) for values in (scores, seconds, chances))
    places = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    places = np.where(np.take_along_axis(there, places, axis=1), places, -1)
    places = np.pad(places, ((0, 0), (0, top_k - places.shape[1])), constant_values=-1)
    return Ordered(lists.users, lists.items, *columns).at(places)


def recommender_of(
    ranker: Ranker, features: AsOfFeatures, as_of: int, catalogue: int
) -> Recommender:
    """A recommender of items 0..catalogue - 1 as of an instant."""
    items = np.arange(catalogue, dtype=np.int32)
    return Recommender(
        ranker, features, as_of, ranker.part("item", features.item_block(items, as_of))
    )


def shards(items: Int32) -> Iterator[slice]:
    """Rows of lists [n, k], so many at a time that a shard's pairs fit in memory however long the
    lists are.
    """
    users = max(PAIRS_A_SHARD // max(items.shape[1], 1), 1)
    return (slice(at, at + users) for at in range(0, len(items), users))
