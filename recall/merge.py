"""One list out of many: the union of what channels name, ordered by a linear model of what they all say of it.

The model is a conditional logit (McFadden 1974): the chance that a user watches candidate i of the union is
softmax over the union of x_i w. It is fitted on the label window, where what was watched next is known.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from recall.requests import Columns, Named

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Intp = npt.NDArray[np.intp]
UInt16 = npt.NDArray[np.uint16]
Flags = npt.NDArray[np.bool_]

# Users are weighed by how much is known of them: at least so many watches.
GROUPS = (0, 1, 10)
# Strength of the L2 penalty, in users of the fit, on weights of standardised columns: news taught at four instants must
# hold at a fifth, where a weaker one follows the few articles of those hours.
PENALTY = 300.0
ITERATIONS = 200
_RANK_BITS, _ITEM_BITS = 16, 32


@dataclass(frozen=True)
class Union:
    """The distinct candidates of some users: pairs [p] of `rows` and `items`, by row, then item.

    `named` is what each channel gave, `ranks[channel]` uint16 [p] its rank of each pair, 0 = it did not name it.
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
        """Minus the logarithm of each channel's rank; what it did not name stands just past its list."""
        last = {name: named.items.shape[1] + 1 for name, named in self.named.items()}
        return {f"{n}_rank": -np.log(np.where(r, r, last[n])).astype(np.float32) for n, r in self.ranks.items()}


def union_of(named: Mapping[str, Named]) -> Union:
    """The union of channels' lists, [n, m] each, over the same users."""
    keys = np.concatenate([_keys(number, each.items) for number, each in enumerate(named.values())], axis=1)
    keys.sort(axis=1)
    items = (keys >> _ITEM_BITS).astype(np.int32)
    new = np.diff(items, axis=1, prepend=0) != 0
    place = np.cumsum(new).reshape(new.shape) - 1
    rows, _ = np.nonzero(new)
    ranks = np.zeros((len(named), len(rows)), np.uint16)
    filled = items > 0
    ranks[_channel(keys[filled]), place[filled]] = (keys[filled] & 0xFFFF).astype(np.uint16)
    return Union(len(keys), rows, items[new], named, dict(zip(named, ranks, strict=True)))


def _keys(channel: int, items: Int32) -> Int64:
    """Item, channel and rank of each entry of lists [n, m] in one integer that sorts by item; 0 where there is none."""
    ranks = np.arange(1, items.shape[1] + 1)
    keys = (items.astype(np.int64) << _ITEM_BITS) | (channel << _RANK_BITS) | ranks
    return np.where(items > 0, keys, 0)


def _channel(keys: Int64) -> Int64:
    return (keys >> _RANK_BITS) & 0xFFFF


@dataclass(frozen=True)
class Blend:
    """Weights of the named columns for each group of users, [groups, columns]."""

    columns: tuple[str, ...]
    weights: Float64

    def scores(self, columns: Columns, groups: Intp) -> Float32:
        """The logit of every pair [p] from its columns and its user's group."""
        matrix = np.stack([columns[name] for name in self.columns], axis=1)
        scores = matrix @ self.weights.T.astype(np.float32)
        picked: Float32 = np.take_along_axis(scores, groups[:, None], axis=1)[:, 0]
        return picked

    def described(self) -> dict[str, dict[str, float]]:
        """Weights by column and group, for people."""
        groups = [f"{least}+ watches" for least in GROUPS]
        return {
            n: dict(zip(groups, w.round(4).tolist(), strict=True))
            for n, w in zip(self.columns, self.weights.T, strict=True)
        }


def flat_blend(weights: Mapping[str, float]) -> Blend:
    """The same weights for every group."""
    return Blend(tuple(weights), np.tile(np.array(list(weights.values()), float), (len(GROUPS), 1)))


def group_of(lengths: npt.NDArray[np.integer]) -> Intp:
    """The group of users by their number of watches, [n] -> [n]."""
    return np.searchsorted(GROUPS, lengths, side="right") - 1


@dataclass(frozen=True)
class Lesson:
    """What a blend is fitted on: unions of users [n], `counts` [n] pairs each, their columns as `matrix` [p, columns].

    `watched` [p] says which the user went on to watch (every user at least one), `groups` [n] whose weights learn it.
    """

    columns: tuple[str, ...]
    matrix: Float32
    counts: Int64
    watched: Flags
    groups: Intp

    def of_users(self, users: Flags) -> "Lesson":
        """The part of some users, [n] flags."""
        pairs = np.repeat(users, self.counts)
        return Lesson(self.columns, self.matrix[pairs], self.counts[users], self.watched[pairs], self.groups[users])


def joined_lessons(lessons: Sequence[Lesson]) -> Lesson:
    """Lessons of the same columns as one."""
    parts = (
        np.concatenate([getattr(each, name) for each in lessons]) for name in ("matrix", "counts", "watched", "groups")
    )
    return Lesson(lessons[0].columns, *parts)


def fit(lesson: Lesson, penalty: float = PENALTY) -> Blend:
    """The conditional logit of each group of users, drawn towards that of all of them."""
    scale = np.maximum(lesson.matrix.std(axis=0, dtype=np.float64), 1e-6)
    everybody = _fitted(lesson, scale, np.zeros(len(scale)), penalty)
    weights = np.tile(everybody, (len(GROUPS), 1))
    for group in np.unique(lesson.groups):
        weights[group] = _fitted(lesson.of_users(lesson.groups == group), scale, everybody, penalty)
    return Blend(lesson.columns, weights / scale)


def _fitted(lesson: Lesson, scale: Float64, prior: Float64, penalty: float) -> Float64:
    """Weights of the columns over their scale: least mean -log p of what each user watched, plus the penalty."""
    starts = np.cumsum(lesson.counts) - lesson.counts
    share = lesson.watched / np.repeat(np.add.reduceat(lesson.watched, starts, dtype=np.float64), lesson.counts)

    def loss(weights: Float64) -> tuple[float, Float64]:
        logits = (lesson.matrix @ (weights / scale).astype(np.float32)).astype(np.float64)
        logits -= np.repeat(np.maximum.reduceat(logits, starts), lesson.counts)
        powers = np.exp(logits)
        sums = np.add.reduceat(powers, starts)
        away = weights - prior
        value = np.log(sums).sum() - share @ logits + penalty / 2 * away @ away
        surplus = (powers / np.repeat(sums, lesson.counts) - share).astype(np.float32)
        gradient = (surplus @ lesson.matrix).astype(np.float64) / scale + penalty * away
        return value / len(starts), gradient / len(starts)

    found: Any = minimize(loss, prior, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS})
    weights: Float64 = found.x
    return weights


def round_robin(union: Union) -> Float32:
    """1 / turn of every pair: all channels' first items come before their second ones, channels in their order."""
    ranks, channels = np.stack(list(union.ranks.values())).astype(np.int64), len(union.ranks)
    turns = np.where(ranks > 0, (ranks - 1) * channels + np.arange(1, channels + 1)[:, None], np.iinfo(np.int64).max)
    scores: Float32 = (1 / turns.min(axis=0)).astype(np.float32)
    return scores


def best(union: Union, scores: Float32, k: int) -> Intp:
    """Places in the union of each user's k best pairs, best first, ties by item; -1 past the end: [users, k]."""
    width = max(int(union.counts.max(initial=0)), 1)
    padded = np.full((union.users, width), -np.inf, np.float32)
    padded[union.rows, np.arange(len(union.rows)) - union.starts[union.rows]] = scores
    order = np.argsort(-padded, axis=1, kind="stable")[:, :k]
    places = np.where(order < union.counts[:, None], union.starts[:, None] + order, -1)
    return np.pad(places, ((0, 0), (0, max(k - width, 0))), constant_values=-1)


def joined(parts: Sequence[Columns]) -> Columns:
    """Columns of one set of pairs in one mapping."""
    return {name: values for part in parts for name, values in part.items()}
