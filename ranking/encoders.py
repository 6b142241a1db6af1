"""What the net reads of the rows' columns: numbers at their quantiles, with powers; codes as ids
worth an embedding.

All columns are read but those that an ablation leaves out. Encoders are fitted before the cut, and
kept as tables.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import pairwise

import numpy as np
import pandas as pd

from features.arrays import Flags, Float32, Float64, Int32
from features.asof_features import Block
from features.compiled import interpolate
from features.errors import InputError


@dataclass(frozen=True)
class Columns:
    """Names by block, in the order in which the net reads them."""

    numbers: dict[str, tuple[str, ...]]
    codes: dict[str, tuple[str, ...]]


def columns_of(blocks: Mapping[str, Block], without: Sequence[str]) -> Columns:
    """The columns of blocks that no shell pattern of `without` names.

    InputError where a pattern names no column, or where nothing is left.
    """
    numbers = {name: tuple(block.numbers) for name, block in blocks.items()}
    codes = {name: tuple(block.codes) for name, block in blocks.items()}
    there = [
        column for names in (numbers, codes) for of_block in names.values() for column in of_block
    ]
    left_out = {column for pattern in without for column in _named(pattern, there)}
    if there and len(left_out) == len(set(there)):
        raise InputError(
            f"ranking.without = {','.join(without)} leaves the ranker no column to read; leave out "
            "fewer."
        )
    return Columns(_left(numbers, left_out), _left(codes, left_out))


def _named(pattern: str, there: Sequence[str]) -> list[str]:
    """The columns that a pattern names."""
    named = [column for column in there if fnmatchcase(column, pattern)]
    if not named:
        near = get_close_matches(pattern, there, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(there)}."
        raise InputError(
            f"ranking.without = {pattern}: no column of the ranking rows is called so; {hint}"
        )
    return named


def _left(columns: Mapping[str, Sequence[str]], left_out: Set[str]) -> dict[str, tuple[str, ...]]:
    return {
        name: tuple(column for column in names if column not in left_out)
        for name, names in columns.items()
    }


@dataclass(frozen=True)
class VocabularyLimits:
    """Points of a number's quantiles, ids of a vocabulary, and clicks an id must have to learn an
    embedding from.
    """

    quantiles: int
    vocabulary: int
    clicks: int


@dataclass(frozen=True)
class Quantiles:
    """Distinct quantile values of one number (ascending) and the share of rows below each: its
    empirical CDF.

    Normalised by their CDF, numbers lie evenly in [0, 1] whatever their distribution (paper,
    section 4.1).
    """

    values: Float64
    shares: Float64

    def normalised(self, numbers: Float64) -> Float64:
        """The CDF by linear interpolation, in [0, 1]; NaN where unknown, or where no training row
        had a value.
        """
        if not len(self.values):
            return np.full(len(numbers), np.nan)
        # Between fewer than two points np.interp takes NaN for the one value there is.
        return np.where(np.isnan(numbers), np.nan, np.interp(numbers, self.values, self.shares))


def quantiles_of(numbers: Float64, points: int) -> Quantiles:
    """The CDF of the known numbers at `points` quantiles; a value that many rows share stands at
    its middle.
    """
    known = np.sort(numbers[~np.isnan(numbers)])
    if not len(known):
        return Quantiles(np.zeros(0), np.zeros(0))
    picked = known[np.linspace(0, len(known) - 1, min(points, len(known))).round().astype(int)]
    values = np.unique(picked)
    below, upto = np.searchsorted(known, values, "left"), np.searchsorted(known, values, "right")
    return Quantiles(values.astype(np.float64), (below + upto) / (2 * len(known)))


@dataclass(frozen=True)
class FeatureEncoders:
    """How columns become the net's inputs: `quantiles` by number, `kept` ids (ascending, no 0) by
    id space.
    """

    quantiles: dict[str, Quantiles]
    kept: dict[str, Int32]

    def numbers(self, block: Block, names: Sequence[str]) -> Float32:
        """The named numbers at their quantiles, [n, names] in [0, 1], NaN where unknown."""
        normalised = np.empty((block.size, len(names)), np.float32)
        if names:
            columns = np.stack([block.numbers[name] for name in names])
            values, shares, spans = self._side_by_side
            starts, stops = np.array([spans[name] for name in names]).T
            interpolate(columns, values, shares, starts, stops, normalised)
        return normalised

    @cached_property
    def _side_by_side(self) -> tuple[Float64, Float64, dict[str, tuple[int, int]]]:
        """Values and shares of all quantiles, and from where to where each number's stand."""
        stops = np.cumsum([0, *(len(each.values) for each in self.quantiles.values())]).tolist()
        values, shares = (
            np.concatenate(
                [np.zeros(0), *(getattr(each, name) for each in self.quantiles.values())]
            )
            for name in ("values", "shares")
        )
        return values, shares, dict(zip(self.quantiles, pairwise(stops), strict=True))

    def rows(self, codes: Int32, space: str) -> Int32:
        """Rows of a space's embedding table for codes of any shape; out of vocabulary = 0."""
        kept = self.kept[space]
        if not len(kept):
            return np.zeros(codes.shape, np.int32)
        place = np.minimum(np.searchsorted(kept, codes), len(kept) - 1)
        return np.where(kept[place] == codes, place + 1, 0).astype(np.int32)

    @property
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Long tables: (name, value, share) of the quantiles, (name, code) of the vocabularies."""
        codes = [pd.DataFrame({"name": name, "code": kept}) for name, kept in self.kept.items()]
        return quantiles_table(self.quantiles), pd.concat(
            codes or [pd.DataFrame({"name": [], "code": []})]
        )


def fit_encoders(
    blocks: Mapping[str, Block],
    clicked: Flags,
    spaces: Mapping[str, str],
    limits: VocabularyLimits,
) -> FeatureEncoders:
    """FeatureEncoders fitted on training rows; vocabularies are the ids most *clicked* (paper,
    section 4.1).

    `spaces` {column: id space}; a space is learnt from the column of its own name, and read by all
    of its columns.
    """
    quantiles = {
        n: quantiles_of(x, limits.quantiles)
        for block in blocks.values()
        for n, x in block.numbers.items()
    }
    codes = {name: values for block in blocks.values() for name, values in block.codes.items()}
    kept = {
        space: _top(codes[space][clicked], limits.vocabulary, limits.clicks)
        for space in dict.fromkeys(spaces.values())
    }
    return FeatureEncoders(quantiles, kept)


def encoders_from(
    quantiles: pd.DataFrame, codes: pd.DataFrame, names: list[str], spaces: list[str]
) -> FeatureEncoders:
    """The encoders that `FeatureEncoders.tables` wrote, by the names of all numbers and id
    spaces.
    """
    by_space = dict(tuple(codes.groupby("name")))
    none = pd.DataFrame({"code": np.zeros(0, np.int32)})
    kept = {space: by_space.get(space, none)["code"].to_numpy(np.int32) for space in spaces}
    return FeatureEncoders(quantiles_from(quantiles, names), kept)


def quantiles_table(quantiles: Mapping[str, Quantiles]) -> pd.DataFrame:
    """A long table (name, value, share)."""
    tables = [
        pd.DataFrame({"name": n, "value": q.values, "share": q.shares})
        for n, q in quantiles.items()
    ]
    return pd.concat(tables or [pd.DataFrame({"name": [], "value": [], "share": []})])


def quantiles_from(table: pd.DataFrame, names: Iterable[str]) -> dict[str, Quantiles]:
    """The quantiles of the named numbers; one that the table does not hold was never known."""
    by_name = dict(tuple(table.groupby("name")))
    columns = {name: by_name.get(name, table.iloc[:0]) for name in names}
    return {
        n: Quantiles(t["value"].to_numpy(np.float64), t["share"].to_numpy(np.float64))
        for n, t in columns.items()
    }


def with_powers(x: Float32, powers: bool) -> Float32:
    """What the net reads of numbers [n, m] in [0, 1]: [n, m x width_of(powers)], 0 where unknown.

    Column by column kind: x, then with `powers` x^2 and sqrt(x) (paper, section 4.1), then whether
    x is unknown.
    """
    unknown = np.isnan(x)
    known = np.where(unknown, np.float32(0), x)
    kinds = [known, known**2, np.sqrt(known)] if powers else [known]
    return np.concatenate([*kinds, unknown.astype(np.float32)], axis=1)


def width_of(powers: bool) -> int:
    """Inputs of the net a number."""
    return 4 if powers else 2


def _top(codes: Int32, size: int, clicks: int) -> Int32:
    """The `size` most frequent codes among those seen `clicks` times, 0 left out; ascending."""
    counts = np.bincount(codes) if len(codes) else np.zeros(1, np.int64)
    counts[0] = 0
    best = np.argsort(-counts, kind="stable")[:size]
    return np.sort(best[counts[best] >= clicks]).astype(np.int32)
