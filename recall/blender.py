"""One list out of many: the union of what generators name, ordered by a linear model of what they all say of it.

Each model is a conditional logit (McFadden 1974): the chance that a user watches candidate i of the union is
softmax over the union of x_i w. They are fitted where what was watched next is known, one for each instant.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recall.generators.base import Columns, Named
from recall.logit import Lesson, fit, log_sums

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Intp = npt.NDArray[np.intp]
UInt16 = npt.NDArray[np.uint16]

# Users are weighed by how much is known of them: at least so many watches.
GROUPS = (0, 1, 10)
_RANK_BITS, _ITEM_BITS = 16, 32


@dataclass(frozen=True)
class Union:
    """The distinct candidates of some users: pairs [p] of `rows` and `items`, by row, then item.

    `named` is what each generator gave, `ranks[generator]` uint16 [p] its rank of each pair, 0 = it did not name it.
    """

    users: int
    rows: Intp
    items: Int32
    named: Mapping[str, Named]
    ranks: Mapping[str, UInt16]

    @cached_property
    def counts(self) -> Int64:
        """How many candidates each user has, [users]."""
        return np.bincount(self.rows, minlength=self.users)

    @cached_property
    def starts(self) -> Int64:
        return np.cumsum(self.counts) - self.counts

    @property
    def rank_columns(self) -> Columns:
        """Minus the logarithm of each generator's rank; what it did not name stands just past its list."""
        last = {name: named.items.shape[1] + 1 for name, named in self.named.items()}
        return {f"{n}_rank": -np.log(np.where(r, r, last[n])).astype(np.float32) for n, r in self.ranks.items()}


def union_of(named: Mapping[str, Named]) -> Union:
    """The union of generators' lists, [n, m] each, over the same users."""
    keys = np.concatenate([_keys(number, each.items) for number, each in enumerate(named.values())], axis=1)
    keys.sort(axis=1)
    items = (keys >> _ITEM_BITS).astype(np.int32)
    new = np.diff(items, axis=1, prepend=0) != 0
    place = np.cumsum(new).reshape(new.shape) - 1
    rows, _ = np.nonzero(new)
    ranks = np.zeros((len(named), len(rows)), np.uint16)
    filled = items > 0
    ranks[_generator(keys[filled]), place[filled]] = (keys[filled] & 0xFFFF).astype(np.uint16)
    return Union(len(keys), rows, items[new], named, dict(zip(named, ranks, strict=True)))


def _keys(generator: int, items: Int32) -> Int64:
    """Item, generator and rank of each entry of lists [n, m] in an integer that sorts by item; 0 where none is."""
    ranks = np.arange(1, items.shape[1] + 1)
    keys = (items.astype(np.int64) << _ITEM_BITS) | (generator << _RANK_BITS) | ranks
    return np.where(items > 0, keys, 0)


def _generator(keys: Int64) -> Int64:
    return (keys >> _RANK_BITS) & 0xFFFF


@dataclass(frozen=True)
class Blend:
    """Weights of the named columns, [experts, groups, columns]: each expert learnt from one instant, for each group.

    `instants` [experts] says from which; it is empty where they learnt from all of them, or from none.
    """

    columns: tuple[str, ...]
    weights: Float64
    instants: tuple[int, ...] = ()

    def without(self, instant: int) -> "Blend":
        """The experts that learnt from other instants, who know no more of this one than they will of the next.

        All of them where there are no others.
        """
        others = [number for number, at in enumerate(self.instants) if at != instant]
        if not others:
            return self
        return Blend(self.columns, self.weights[others], tuple(self.instants[number] for number in others))

    def scores(self, columns: Columns, groups: Intp, union: Union) -> Float32:
        """The logarithm of the experts' mean chance of every pair [p], from its columns and its user's group [users].

        No hour is like another, and a mean of chances is a bet on each: what one of them is sure of comes early.
        """
        matrix = np.stack([columns[name] for name in self.columns], axis=1)
        chances = [self._chances(matrix, weights, groups, union) for weights in self.weights]
        mean: Float32 = (np.logaddexp.reduce(chances, axis=0) - np.log(len(chances))).astype(np.float32)
        return mean

    def _chances(self, matrix: Float32, weights: Float64, groups: Intp, union: Union) -> Float64:
        """One expert's log softmax over each user's union, [p]."""
        logits = (matrix @ weights.T.astype(np.float32))[np.arange(len(matrix)), groups[union.rows]].astype(np.float64)
        return logits - log_sums(logits, union.counts)

    def described(self) -> list[dict[str, dict[str, float]]]:
        """Weights by column and group of each expert, for people."""
        names = [f"{least}+ watches" for least in GROUPS]
        rows = [dict(zip(self.columns, each.T.round(4).tolist(), strict=True)) for each in self.weights]
        return [{column: dict(zip(names, w, strict=True)) for column, w in row.items()} for row in rows]


def flat_blend(weights: Mapping[str, float]) -> Blend:
    """One expert with the same weights for every group."""
    return Blend(tuple(weights), np.tile(np.array(list(weights.values()), float), (1, len(GROUPS), 1)))


def blend_of(lessons: Sequence[Lesson], instants: Sequence[int] = ()) -> Blend:
    """One expert for each lesson, and the instants that taught them; lessons have the same columns."""
    return Blend(lessons[0].columns, np.stack([fit(lesson, len(GROUPS)) for lesson in lessons]), tuple(instants))


def group_of(lengths: npt.NDArray[np.integer]) -> Intp:
    """The group of users by their number of watches, [n] -> [n]."""
    return np.searchsorted(GROUPS, lengths, side="right") - 1


def round_robin(union: Union) -> Float32:
    """Minus the logarithm of each pair's turn: all generators' first items, in their order, come before second ones."""
    ranks, generators = np.stack(list(union.ranks.values())).astype(np.int64), len(union.ranks)
    turns = np.where(
        ranks > 0, (ranks - 1) * generators + np.arange(1, generators + 1)[:, None], np.iinfo(np.int64).max
    )
    scores: Float32 = -np.log(turns.min(axis=0)).astype(np.float32)
    return scores


def best(union: Union, scores: Float32, k: int) -> Intp:
    """Places in the union of each user's k best pairs, best first, ties by item; -1 past the end: [users, k]."""
    width = max(int(union.counts.max(initial=0)), 1)
    padded = np.full((union.users, width), -np.inf, np.float32)
    padded[union.rows, np.arange(len(union.rows)) - union.starts[union.rows]] = scores
    order = np.argsort(-padded, axis=1, kind="stable")[:, :k]
    places = np.where(order < union.counts[:, None], union.starts[:, None] + order, -1)
    return np.pad(places, ((0, 0), (0, max(k - width, 0))), constant_values=-1)


def best_with_share(union: Union, scores: Float32, k: int, kept: int, ranks: UInt16) -> Intp:
    """As `best`, with `kept` of the k places for what one generator puts first of the rest: its ranks [p], 0 not named.

    A place that the generator cannot fill goes on by the scores, and the list is in their order: up to k - kept nothing
    is moved.
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


def joined(parts: Sequence[Columns]) -> Columns:
    """Columns of one set of pairs in one mapping."""
    return {name: values for part in parts for name, values in part.items()}
