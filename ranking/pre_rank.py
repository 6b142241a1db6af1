"""The switch between recall and ranking: a light scorer that leaves the ranker hundreds of recall's
thousands.

It is distilled from the ranker: within a user's list, the logarithm of the seconds that the ranker
expects is taken for a sum of what the item is worth to anybody, one number that is made once for
the whole catalogue, and of what recall's own columns say of the pair. Nothing is tallied, looked up
or multiplied by layers pair by pair.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from features.arrays import Float64, Intp
from features.asof_features import Block
from ranking.encoders import Quantiles, quantiles_from, quantiles_of, quantiles_table, with_powers
from ranking.recommend import Lists, shards

Weights = Mapping[str, Float64]

QUANTILES = 128
# What a weight costs, beside the mean square of the inputs: columns that say the same share what
# they say.
RIDGE = 1e-3
# What `with_powers` makes of a number.
INPUTS = ("x", "x^2", "sqrt(x)", "unknown")
SMALLEST = 1e-9


@dataclass(frozen=True)
class PreRanker:
    """Four weights a column, of its quantile's powers and of its being unknown; `quantiles` by
    column.
    """

    item: Weights
    recall: Weights
    quantiles: Mapping[str, Quantiles]

    def worth(self, block: Block) -> Float64:
        """What items [n] are worth to anybody: the logarithm of seconds, up to a constant, [n]."""
        return self._summed(self.item, block.numbers)

    def scores(self, worth: Float64, lists: Lists) -> Float64:
        """What orders the items of each list alike, by the worth of all items: [n, k], -inf where
        there is no item.
        """
        scores = np.full(lists.items.shape, -np.inf)
        for shard in shards(lists.items):
            items, recall = (
                lists.items[shard],
                {name: lists.recall[name][shard] for name in self.recall},
            )
            there = items > 0
            said = self._summed(
                self.recall, {name: values[there] for name, values in recall.items()}
            )
            scores[shard][there] = worth[items[there]] + said
        return scores

    def _summed(self, weights: Weights, numbers: Mapping[str, Float64]) -> Float64:
        """Column by column: each adds a function of its own."""
        each = [_inputs(self.quantiles[name], numbers[name]) @ w for name, w in weights.items()]
        summed: Float64 = np.sum(each, axis=0)
        return summed

    def save(self, folder: Path) -> None:
        parts = {"item": self.item, "recall": self.recall}
        rows = [
            {"part": p, "name": n} | dict(zip(INPUTS, w, strict=True))
            for p, of in parts.items()
            for n, w in of.items()
        ]
        pd.DataFrame(rows).to_parquet(folder / "weights.parquet", index=False)
        quantiles_table(self.quantiles).to_parquet(folder / "quantiles.parquet", index=False)

    @classmethod
    def load(cls, folder: Path) -> "PreRanker":
        table = pd.read_parquet(folder / "weights.parquet")
        weights = dict(zip(table["name"], table[list(INPUTS)].to_numpy(np.float64), strict=True))
        item, recall = (
            {n: weights[n] for n in table["name"][table["part"] == part]}
            for part in ("item", "recall")
        )
        return cls(
            item,
            recall,
            quantiles_from(pd.read_parquet(folder / "quantiles.parquet"), table["name"]),
        )


def kept(lists: Lists, scores: Float64, keep: int) -> Lists:
    """The `keep` items of each list with the highest scores [n, k], in the list's own order: [n,
    min(keep, k)].
    """
    places = _best(scores, keep)
    recall = {
        name: np.take_along_axis(values, places, axis=1) for name, values in lists.recall.items()
    }
    items = np.take_along_axis(lists.items, places, axis=1)
    return Lists(lists.users, items, recall, np.take_along_axis(lists.log_chances, places, axis=1))


def distilled(items: Block, lists: Lists, seconds: Float64) -> PreRanker:
    """The light scorer nearest to the seconds [n, k] that a ranker expects of lists [n, k]; `items`
    are all there are.

    Least squares of their logarithms within each list, a pair weighing its share of the list's
    seconds: what the ranker puts first counts most. Without a list every weight is zero, and the
    first of a list are kept.
    """
    row, column = np.nonzero(lists.items)
    named = lists.items[row, column]
    samples = {name: values[named] for name, values in items.numbers.items()}
    samples |= {name: values[row, column] for name, values in lists.recall.items()}
    quantiles = {name: quantiles_of(values, QUANTILES) for name, values in samples.items()}
    weights = _fitted(_Lessons(quantiles, items, lists, seconds)).reshape(-1, len(INPUTS))
    by_name = dict(zip(samples, weights, strict=True))
    item, recall = ({name: by_name[name] for name in of} for of in (items.numbers, lists.recall))
    return PreRanker(item, recall, quantiles)


def seconds_lost(
    seconds: Float64, scores: Float64, keep: int, ks: Sequence[int]
) -> dict[int, float]:
    """Share of the expected seconds of each list's best k that is lost when `keep` of it are left
    by a score.

    `seconds` and `scores` [n, m] are -inf where there is no item; NaN where there were no seconds
    to lose.
    """
    left = np.take_along_axis(seconds, _best(scores, keep), axis=1)
    sums = {k: (_sum_of_best(seconds, k), _sum_of_best(left, k)) for k in ks}
    return {
        k: 1 - after / before if before else float("nan") for k, (before, after) in sums.items()
    }


@dataclass(frozen=True)
class _Lessons:
    """Lists [n, k] with the seconds expected of them, as inputs of least squares."""

    quantiles: Mapping[str, Quantiles]
    items: Block
    lists: Lists
    seconds: Float64

    def __iter__(self) -> Iterator[tuple[Float64, Float64, Float64]]:
        """By shards of users: inputs [u, k, columns x 4], logarithms [u, k], both about their
        means; weights [u, k].
        """
        worth = self._inputs(self.items.numbers)
        for rows in shards(self.lists.items):
            said = self._inputs({name: values[rows] for name, values in self.lists.recall.items()})
            inputs = np.concatenate([worth[self.lists.items[rows]], said], axis=2)
            seconds = np.maximum(self.seconds[rows], SMALLEST)
            weights = np.where(self.lists.items[rows] > 0, seconds, 0.0)
            weights /= np.maximum(weights.sum(axis=1, keepdims=True), SMALLEST)
            yield (
                _about_mean(inputs, weights),
                _about_mean(np.log(seconds)[:, :, None], weights)[:, :, 0],
                weights,
            )

    def _inputs(self, numbers: Mapping[str, Float64]) -> Float64:
        return np.concatenate(
            [_inputs(self.quantiles[name], values) for name, values in numbers.items()], axis=-1
        )


def _fitted(lessons: _Lessons) -> Float64:
    """Weights of the inputs, by ridge regression."""
    size = len(INPUTS) * len(lessons.quantiles)
    squares: Float64 = np.zeros((size, size))
    products: Float64 = np.zeros(size)
    for inputs, logarithms, weights in lessons:
        flat, weighted = inputs.reshape(-1, size), (inputs * weights[:, :, None]).reshape(-1, size)
        squares += weighted.T @ flat
        products += weighted.T @ logarithms.ravel()
    ridge = RIDGE * (float(np.trace(squares)) / size or 1.0)
    return np.asarray(np.linalg.solve(squares + ridge * np.eye(size), products), np.float64)


def _about_mean(values: Float64, weights: Float64) -> Float64:
    """Values [u, k, m] less their weighted mean over each list."""
    means: Float64 = np.einsum("uk,ukm->um", weights, values)
    return values - means[:, None]


def _inputs(quantiles: Quantiles, numbers: Float64) -> Float64:
    """The four inputs of numbers of any shape, [..., 4]."""
    normalised = quantiles.normalised(numbers.ravel()).astype(np.float32)
    inputs = with_powers(normalised[:, None], powers=True).astype(np.float64)
    return inputs.reshape(*numbers.shape, len(INPUTS))


def _best(scores: Float64, keep: int) -> Intp:
    """Places of the `keep` highest scores of each list, in the list's own order, [n, min(keep,
    k)].
    """
    return np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :keep], axis=1)


def _sum_of_best(seconds: Float64, k: int) -> float:
    best = -np.sort(-seconds, axis=1)[:, :k]
    return float(best[np.isfinite(best)].sum())
