"""A trained ranker as a few matrix products: expected watch seconds without TensorFlow."""

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict

from ranking.features import Block
from ranking.normalisers import Normalisers, normalisers_from

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]

BLOCKS = ("user", "item", "pair")
POWERS = 4
LARGEST_LOGIT = 20.0
SHARD = 65_536


class RankerShape(BaseModel):
    """What the weights mean: the columns of each block in order, table sizes, layers, and the scale of seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: dict[str, tuple[str, ...]]
    codes: dict[str, dict[str, int]]
    hidden: tuple[int, ...]
    objective: str
    unit: str
    seconds_cap: float
    scale: float = 1.0

    def code_dim(self, size: int) -> int:
        """Width of an embedding, proportional to the logarithm of its vocabulary (paper, section 4.1)."""
        return math.ceil(math.log2(size)) + 1


@dataclass(frozen=True)
class Ranker:
    """A trained ranker: shape, normalisers of each block, weights.

    `weights`: `code_<name>` tables (row 0, out of vocabulary, is zero), `kernel<i>` and `bias<i>` of the layers, the
    last one the single logit. The first kernel reads embeddings block by block, then numbers block by block.
    """

    shape: RankerShape
    normalisers: dict[str, Normalisers]
    weights: dict[str, Float32]

    def part(self, name: str, block: Block) -> Float32:
        """A block's share of the first layer: [n] rows -> [n, width]; the bias goes with the user's."""
        normalisers, rows = self.normalisers[name], self._kernel_rows[name]
        embedded = [self.weights[f"code_{code}"][r] for code, r in normalisers.codes(block).items()]
        inputs = np.concatenate([*embedded, normalisers.numbers(block)], axis=1)
        part: Float32 = inputs @ self.weights["kernel0"][rows]
        return part + self.weights["bias0"] if name == "user" else part

    def expected_seconds(self, parts: Float32) -> Float64:
        """Odds of the weighted classifier from the summed parts [n, width]: expected seconds [n] (section 4.2).

        Under `exact` every impression is also one unit of negative weight, so the odds are E[T]; under `paper` they
        are E[T] / (1 - p).
        """
        values = parts
        for layer in range(1, len(self.shape.hidden) + 1):
            values = np.maximum(values, 0) @ self.weights[f"kernel{layer}"] + self.weights[f"bias{layer}"]
        logits = np.minimum(values[:, 0].astype(np.float64), LARGEST_LOGIT)
        return np.exp(logits) * self.shape.scale

    def scores(self, user: Block, item: Block, pair: Block) -> Float64:
        """Expected seconds of rows whose three blocks are given row by row, [n]."""
        shards = (np.arange(at, min(at + SHARD, pair.size)) for at in range(0, pair.size, SHARD))
        scored = [self._scores(user.take(rows), item.take(rows), pair.take(rows)) for rows in shards]
        return np.concatenate(scored) if scored else np.zeros(0)

    def _scores(self, user: Block, item: Block, pair: Block) -> Float64:
        blocks = {"user": user, "item": item, "pair": pair}
        return self.expected_seconds(sum((self.part(n, b) for n, b in blocks.items()), np.zeros(1, np.float32)))

    @property
    def _kernel_rows(self) -> dict[str, npt.NDArray[np.intp]]:
        """Which rows of the first kernel read which block: its embeddings, then its numbers."""
        widths = [sum(self.shape.code_dim(size) for size in self.shape.codes[b].values()) for b in BLOCKS]
        widths += [POWERS * len(self.shape.numbers[b]) for b in BLOCKS]
        edges = np.cumsum([0, *widths])
        spans = [np.arange(low, high) for low, high in itertools.pairwise(edges)]
        return {b: np.concatenate([spans[i], spans[i + len(BLOCKS)]]) for i, b in enumerate(BLOCKS)}

    def save(self, folder: Path) -> None:
        (folder / "ranker.json").write_text(self.shape.model_dump_json(indent=1))
        for name, normalisers in self.normalisers.items():
            quantiles, codes = normalisers.tables
            quantiles.to_parquet(folder / f"quantiles_{name}.parquet", index=False)
            codes.to_parquet(folder / f"codes_{name}.parquet", index=False)
        with h5py.File(folder / "ranker.weights.h5", "w") as file:
            for key in sorted(self.weights):
                file.create_dataset(key, data=self.weights[key])

    @classmethod
    def load(cls, folder: Path) -> "Ranker":
        shape = RankerShape.model_validate_json((folder / "ranker.json").read_text())
        with h5py.File(folder / "ranker.weights.h5", "r") as file:
            weights = {key: file[key][:] for key in file}
        return cls(shape, {block: _load_normalisers(folder, shape, block) for block in BLOCKS}, weights)


def _load_normalisers(folder: Path, shape: RankerShape, block: str) -> Normalisers:
    tables = tuple(pd.read_parquet(folder / f"{kind}_{block}.parquet") for kind in ("quantiles", "codes"))
    return normalisers_from((tables[0], tables[1]), list(shape.numbers[block]), list(shape.codes[block]))
