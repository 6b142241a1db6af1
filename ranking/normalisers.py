"""Numbers to [0, 1] by their quantiles, codes to the ids worth an embedding: fitted before the cut, kept as tables."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.features import Block

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Quantiles:
    """Distinct quantile values of one number (ascending) and the share of rows below each: its empirical CDF.

    Normalised by their CDF, numbers lie evenly in [0, 1] whatever their distribution (paper, section 4.1).
    """

    values: Float64
    shares: Float64

    def normalised(self, numbers: Float64) -> Float64:
        """The CDF by linear interpolation, in [0, 1]; NaN where unknown, or where no training row had a value."""
        if not len(self.values):
            return np.full(len(numbers), np.nan)
        # Between fewer than two points np.interp takes NaN for the one value there is.
        return np.where(np.isnan(numbers), np.nan, np.interp(numbers, self.values, self.shares))


def quantiles_of(numbers: Float64, points: int) -> Quantiles:
    """The CDF of the known numbers at `points` quantiles; a value that many rows share stands at its middle."""
    known = np.sort(numbers[~np.isnan(numbers)])
    if not len(known):
        return Quantiles(np.zeros(0), np.zeros(0))
    picked = known[np.linspace(0, len(known) - 1, min(points, len(known))).round().astype(int)]
    values = np.unique(picked)
    below, upto = np.searchsorted(known, values, "left"), np.searchsorted(known, values, "right")
    return Quantiles(values, (below + upto) / (2 * len(known)))


@dataclass(frozen=True)
class Normalisers:
    """How one block becomes the net's inputs: `quantiles` by number, `kept` codes (ascending, no 0) by column."""

    quantiles: dict[str, Quantiles]
    kept: dict[str, Int32]

    def numbers(self, block: Block) -> Float32:
        """[n, 4 a number]: x, x^2, sqrt(x) of the normalised number (0 where unknown) and whether it is unknown."""
        columns = [_powers(quantiles.normalised(block.numbers[name])) for name, quantiles in self.quantiles.items()]
        return np.concatenate(columns, axis=1) if columns else np.zeros((block.size, 0), np.float32)

    def codes(self, block: Block) -> dict[str, Int32]:
        """Rows of the embedding tables, [n] by code column; out of vocabulary = 0."""
        return {name: _row_of(block.codes[name], kept) for name, kept in self.kept.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each embedding table, 0 included."""
        return {name: len(kept) + 1 for name, kept in self.kept.items()}

    @property
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Long tables: (name, value, share) of the quantiles, (name, code) of the vocabularies."""
        quantiles = [pd.DataFrame({"name": n, "value": q.values, "share": q.shares}) for n, q in self.quantiles.items()]
        codes = [pd.DataFrame({"name": name, "code": kept}) for name, kept in self.kept.items()]
        empty = pd.DataFrame({"name": [], "value": [], "share": [], "code": []})
        return pd.concat(quantiles or [empty]), pd.concat(codes or [empty])


def normalisers_of(
    block: Block, clicked: npt.NDArray[np.bool_], points: int, vocabulary: int, clicks: int = 2
) -> Normalisers:
    """Normalisers fitted on training rows; vocabularies are the codes most *clicked* (paper, section 4.1), each
    at least `clicks` times: what was seen less has nothing to learn an embedding from.
    """
    quantiles = {name: quantiles_of(numbers, points) for name, numbers in block.numbers.items()}
    return Normalisers(
        quantiles, {name: _top(codes[clicked], vocabulary, clicks) for name, codes in block.codes.items()}
    )


def normalisers_from(tables: tuple[pd.DataFrame, pd.DataFrame], names: list[str], code_names: list[str]) -> Normalisers:
    """The normalisers that `Normalisers.tables` wrote, columns in the named order."""
    by_name = dict(tuple(tables[0].groupby("name")))
    codes = dict(tuple(tables[1].groupby("name")))
    quantiles = {n: _quantiles_from(by_name.get(n)) for n in names}
    none = pd.DataFrame({"code": np.zeros(0, np.int32)})
    return Normalisers(quantiles, {n: codes.get(n, none)["code"].to_numpy(np.int32) for n in code_names})


def _quantiles_from(table: pd.DataFrame | None) -> Quantiles:
    if table is None:
        return Quantiles(np.zeros(0), np.zeros(0))
    return Quantiles(table["value"].to_numpy(np.float64), table["share"].to_numpy(np.float64))


def _powers(x: Float64) -> Float32:
    unknown = np.isnan(x)
    known = np.where(unknown, 0.0, x)
    return np.stack([known, known**2, np.sqrt(known), unknown], axis=1).astype(np.float32)


def _top(codes: Int32, size: int, clicks: int) -> Int32:
    """The `size` most frequent codes among those seen `clicks` times, 0 left out; ascending."""
    counts = np.bincount(codes) if len(codes) else np.zeros(1, np.int64)
    counts[0] = 0
    best = np.argsort(-counts, kind="stable")[:size]
    return np.sort(best[counts[best] >= clicks]).astype(np.int32)


def _row_of(codes: Int32, kept: Int32) -> Int32:
    if not len(kept):
        return np.zeros(len(codes), np.int32)
    place = np.minimum(np.searchsorted(kept, codes), len(kept) - 1)
    return np.where(kept[place] == codes, place + 1, 0).astype(np.int32)
