"""One list out of many: the union of what generators name, ordered by a linear model of what they
all say of it.

Each model is a conditional logit (McFadden 1974): the chance that a user watches candidate i of the
union is softmax over the union of x_i w. They are fitted where what was watched next is known, one
for each instant.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from features.ahead import map_ahead
from features.arrays import Float32, Float64, Int32, Intp, UInt16
from recall.candidates import Candidates
from recall.config import RecallConfig
from recall.generators.base import Columns, Popularity
from recall.generators.retrieval import Found, Generators
from recall.generators.union import Union
from recall.logit import log_sums

USERS_A_SHARD = 2048
# numpy and faiss let other threads run while they work.
# Users are weighed by how much is known of them: at least so many watches.
GROUPS = (0, 1, 10)


@dataclass(frozen=True)
class Blend:
    """Weights of the named columns, [experts, groups, columns]: each expert fitted on one instant,
    for each group.

    `instants` [experts] says from which; it is empty where they were fitted on all of them, or on
    none.
    """

    columns: tuple[str, ...]
    weights: Float64
    timestamps_us: tuple[int, ...] = ()

    def without(self, since: int, until: int) -> "Blend":
        """The experts that were fitted on instants outside a span, since <= instant < until: they
        know no more of it than they will of the next.

        All of them where there are no others.
        """
        others = [number for number, at in enumerate(self.timestamps_us) if not since <= at < until]
        if not others:
            return self
        return Blend(
            self.columns,
            self.weights[others],
            tuple(self.timestamps_us[number] for number in others),
        )

    def scores(self, columns: Columns, groups: Intp, union: Union) -> Float32:
        """The logarithm of the experts' mean chance of every pair [p], from its columns and its
        user's group [users].

        No hour is like another, and a mean of chances is a bet on each: what one of them is sure of
        comes early.
        """
        matrix = np.stack([columns[name] for name in self.columns], axis=1)
        chances = [self._chances(matrix, weights, groups, union) for weights in self.weights]
        mean: Float32 = (np.logaddexp.reduce(chances, axis=0) - np.log(len(chances))).astype(
            np.float32
        )
        return mean

    def _chances(self, matrix: Float32, weights: Float64, groups: Intp, union: Union) -> Float64:
        """One expert's log softmax over each user's union, [p]."""
        logits = (matrix @ weights.T.astype(np.float32))[
            np.arange(len(matrix)), groups[union.rows]
        ].astype(np.float64)
        return logits - log_sums(logits, union.counts)

    def described(self) -> list[dict[str, dict[str, float]]]:
        """Weights by column and group of each expert, for people."""
        names = [f"{least}+ watches" for least in GROUPS]
        rows = [
            dict(zip(self.columns, each.T.round(4).tolist(), strict=True)) for each in self.weights
        ]
        return [
            {column: dict(zip(names, w, strict=True)) for column, w in row.items()} for row in rows
        ]


def flat_blend(weights: Mapping[str, float]) -> Blend:
    """One expert with the same weights for every group."""
    return Blend(
        tuple(weights), np.tile(np.array(list(weights.values()), float), (1, len(GROUPS), 1))
    )


def group_of(lengths: npt.NDArray[np.integer]) -> Intp:
    """The group of users by their number of watches, [n] -> [n]."""
    return np.searchsorted(GROUPS, lengths, side="right") - 1


def round_robin(union: Union) -> Float32:
    """Minus the logarithm of each pair's turn: all generators' first items, in their order, come
    before second ones.
    """
    ranks, generators = np.stack(list(union.ranks.values())).astype(np.int64), len(union.ranks)
    turns = np.where(
        ranks > 0,
        (ranks - 1) * generators + np.arange(1, generators + 1)[:, None],
        np.iinfo(np.int64).max,
    )
    scores: Float32 = -np.log(turns.min(axis=0)).astype(np.float32)
    return scores


def best(union: Union, scores: Float32, k: int) -> Intp:
    """Places in the union of each user's k best pairs, best first, ties by item; -1 past the end:
    [users, k].
    """
    width = max(int(union.counts.max(initial=0)), 1)
    padded = np.full((union.users, width), -np.inf, np.float32)
    padded[union.rows, np.arange(len(union.rows)) - union.starts[union.rows]] = scores
    order = np.argsort(-padded, axis=1, kind="stable")[:, :k]
    places = np.where(order < union.counts[:, None], union.starts[:, None] + order, -1)
    return np.pad(places, ((0, 0), (0, max(k - width, 0))), constant_values=-1)


def best_with_share(union: Union, scores: Float32, k: int, kept: int, ranks: UInt16) -> Intp:
    """As `best`, with `kept` of the k places for what one generator puts first of the rest: its
    ranks [p], 0 not named.

    A place that the generator cannot fill goes on by the scores, and the list is in their order: up
    to k - kept nothing is moved.
    """
    head = best(union, scores, k - kept)
    chosen = np.zeros(len(scores), bool)
    chosen[head[head >= 0]] = True
    tier = np.where(chosen, 0, np.where(ranks > 0, 1, 2))
    order = np.lexsort((np.where(tier == 1, ranks.astype(np.float32), -scores), tier, union.rows))
    turn = np.arange(len(order)) - union.starts[union.rows[order]]
    listed = np.zeros(len(scores), bool)
    listed[order[turn < k]] = True
    return best(union, np.where(listed, scores, -np.inf).astype(np.float32), k)


@dataclass(frozen=True)
class Blender:
    """How a run's lists are blended: the choice of popularity, the order's name and its weights
    (None: round robin).
    """

    popularity: Popularity
    order: str
    blend: Blend | None

    def without(self, since: int, until: int) -> "Blender":
        """The blender as it was fitted on instants outside a span."""
        return self if self.blend is None else replace(self, blend=self.blend.without(since, until))

    def scores(self, found: Found) -> Float32:
        """log P(next) of every pair of a union, [p]: the chance that it is what its user watches
        next.

        Round robin knows no chances: they are taken to fall as 1 / turn (Zipf's law).
        """
        if self.blend is None:
            turns = round_robin(found.union).astype(np.float64)
            return (turns - log_sums(turns, found.union.counts)).astype(np.float32)
        return self.blend.scores(found.columns, group_of(found.lengths), found.union)


def blend_in_shards(
    generators: Generators, blender: Blender, users: Int32, config: RecallConfig
) -> Iterator[Candidates]:
    """`blend_candidates` in shards of users; no user is one empty shard."""
    blend = partial(_blend_shard, generators, blender, config)
    return map_ahead(blend, shards_of_users(users))


def shards_of_users(users: Int32) -> Iterator[Int32]:
    """Users in shards of USERS_A_SHARD; no user is one empty shard, whose columns are known."""
    for at in range(0, max(len(users), 1), USERS_A_SHARD):
        yield users[at : at + USERS_A_SHARD]


def _blend_shard(
    generators: Generators, blender: Blender, config: RecallConfig, users: Int32
) -> Candidates:
    return blend_candidates(generators, blender, users, config.k, reserved_places(config))


def reserved_places(config: RecallConfig) -> int:
    """How many of the k places are kept for what would be watched longest, where that generator is
    in force.
    """
    return round(config.expected_watch_share * config.k)


def blend_candidates(
    generators: Generators, blender: Blender, users: Int32, k: int, kept: int = 0
) -> Candidates:
    """The k best candidates of each user by the blender, with what each generator said of them.

    `kept` of the places are for what would be watched longest, where that generator is in force.
    """
    found = generators.find(users)
    union, scores = found.union, blender.scores(found)
    longest = union.ranks.get("expected_watch")
    places = (
        best(union, scores, k)
        if longest is None
        else best_with_share(union, scores, k, kept, longest)
    )
    listed, at = places >= 0, np.maximum(places, 0)

    def picked(values: npt.NDArray[Any], missing: float) -> npt.NDArray[Any]:
        return (
            np.where(listed, values[at], values.dtype.type(missing))
            if len(values)
            else np.full(at.shape, missing)
        )

    ranks = {name: picked(of_pairs, 0).astype(np.uint16) for name, of_pairs in union.ranks.items()}
    return Candidates(
        users,
        picked(union.items, 0).astype(np.int32),
        picked(scores, -np.inf).astype(np.float32),
        picked(found.tower_scores, np.nan).astype(np.float32),
        ranks,
        {name: _scores_by_rank(union.named[name].scores, ranks[name]) for name in ranks},
    )


def _scores_by_rank(scores: Float32, ranks: UInt16) -> Float32:
    """A generator's scores [n, m] at ranks [n, k] from 1; NaN at rank 0."""
    at = np.maximum(ranks.astype(np.int64) - 1, 0)
    return np.where(ranks > 0, np.take_along_axis(scores, at, axis=1), np.nan).astype(np.float32)
