"""A trained ranker as a few matrix products: expected watch seconds without TensorFlow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict

from features.ahead import map_ahead
from features.arrays import Float32, Float64, Int32, Intp
from features.asof_catalogue import FEATURES
from features.asof_features import Block
from ranking.encoders import FeatureEncoders, encoders_from, width_of, with_powers
from ranking.losses import TargetScale, expected

BLOCKS = ("user", "item", "pair")
ITEM_SPACE, DURATION = "item", "item_duration_seconds"
SHARD = 16_384


class RankerSpec(BaseModel):
    """What the weights mean: the columns of each block in order, table sizes, layers, and the scale
    of seconds.

    `prior` names the column of the pair's block that the first logit starts from, `prior_unknown`
    stands in for it. Seconds are the odds times `scale`, which gives back what the cap took, times
    `calibration`. `target_scale` is in seconds; with `by_length` the odds count lengths of the
    item, an unknown one for so many seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    numbers: dict[str, tuple[str, ...]]
    codes: dict[str, tuple[str, ...]]
    sizes: dict[str, int]
    hidden: tuple[int, ...]
    powers: bool = True
    objective: str
    prior: str = ""
    prior_unknown: float = 0.0
    unit: str
    seconds_cap: float
    scale: float = 1.0
    target_scale: float = 1.0
    by_length: bool = False
    calibration: float = 1.0

    @property
    def dims(self) -> dict[str, int]:
        """Width of each id space's embedding, proportional to the logarithm of its size (paper,
        section 4.1).
        """
        return {space: math.ceil(math.log2(max(size, 2))) + 1 for space, size in self.sizes.items()}

    def width(self, block: str) -> int:
        """Inputs that a block gives the net: its embeddings, then its numbers."""
        embedded = sum(self.dims[space_of(name)] for name in self.codes[block])
        return embedded + width_of(self.powers) * len(self.numbers[block])


def space_of(column: str) -> str:
    """The id space of a code column: the last item clicked is an item, its channel an item's
    channel.

    A space is shared, and its columns are fed apart (paper, section 4.1).
    """
    return (FEATURES[column].id_space if column in FEATURES else "") or column


@dataclass(frozen=True)
class LayerInput:
    """What the rows [n] of a block add to the first layer, and what only the whole row can use.

    `sums` [n, width]; `measures` are the seconds that the item's odds count as one [n]; `prior` is
    where the pair's first logit starts [n].
    """

    sums: Float32
    measures: Float64 | None = None
    prior: Float32 | None = None

    def take(self, rows: npt.NDArray[Any]) -> "LayerInput":
        kept = ((f.name, getattr(self, f.name)) for f in fields(self))
        return replace(self, **{name: values[rows] for name, values in kept if values is not None})


@dataclass(frozen=True)
class Ranker:
    """A trained ranker: spec, encoders, weights.

    `weights`: `table_<space>` (row 0, out of vocabulary, reads as zero), `kernel<i>` and `bias<i>`
    of the layers, the last one the logits. The first one reads block by block.
    """

    spec: RankerSpec
    encoders: FeatureEncoders
    weights: Mapping[str, Float32]

    @property
    def target_scale(self) -> TargetScale:
        """What the odds count."""
        return TargetScale(self.spec.target_scale, self.spec.by_length)

    def with_spec(self, **values: Any) -> "Ranker":
        """The ranker with some fields of its spec of other values."""
        return replace(self, spec=self.spec.model_copy(update=values))

    def part(self, name: str, block: Block) -> LayerInput:
        """What a block's rows [n] add: the user's is the same for a whole request, the item's for
        all requests.
        """
        # Out of vocabulary (row 0) is the zero vector (paper, section 4.1).
        embedded = [
            self.weights[f"table_{space_of(code)}"][rows] * (rows > 0)[:, None]
            for code, rows in zip(self.spec.codes[name], self.rows(name, block).T, strict=True)
        ]
        inputs = np.concatenate([*embedded, self.inputs(name, block)], axis=1)
        sums: Float32 = inputs @ self.weights["kernel0"][self._places[name]]
        if name == "item":
            return LayerInput(sums, measures=self.measures(block))
        if name == "pair" and self.spec.prior:
            return LayerInput(sums, prior=self.prior(block))
        return LayerInput(sums)

    def inputs(self, name: str, block: Block) -> Float32:
        """The numbers of a block as the net reads them, [n, width]."""
        numbers = self.encoders.numbers(block, self.spec.numbers[name])
        return with_powers(numbers, self.spec.powers)

    def measures(self, item: Block) -> Float64:
        """Seconds that the odds count as one, of the rows [n] of an item's block."""
        return self.target_scale.measures(lengths_of(item))

    def prior(self, pair: Block) -> Float32:
        """Where the first logit of the rows [n] of a pair's block starts; the spec names a
        prior.
        """
        prior = pair.numbers[self.spec.prior]
        return np.where(np.isnan(prior), self.spec.prior_unknown, prior).astype(np.float32)

    def rows(self, name: str, block: Block) -> Int32:
        """Rows of the embedding tables of a block's codes, [n, codes]."""
        columns = [
            self.encoders.rows(block.codes[code], space_of(code)) for code in self.spec.codes[name]
        ]
        return np.stack(columns, axis=1) if columns else np.zeros((block.size, 0), np.int32)

    def expected_seconds(self, user: LayerInput, item: LayerInput, pair: LayerInput) -> Float64:
        """Expected seconds [n] of rows whose parts are given row by row (section 4.2).

        No more than the cap of T, scaled: no mean is above what is averaged. The paper's odds are
        no mean.
        """
        logits = self.logits(user, item, pair).astype(np.float64)
        odds = expected(self.spec.objective, logits, self.target_scale)
        seconds = odds if item.measures is None else odds * item.measures
        calibrated = seconds * self.spec.scale * self.spec.calibration
        longest = (
            np.inf if self.spec.objective == "paper" else self.spec.seconds_cap * self.spec.scale
        )
        return np.minimum(calibrated, longest)

    def scores(self, user: Block, item: Block, pair: Block) -> Float64:
        """Expected seconds of rows whose three blocks are given row by row, [n]."""
        shards = (np.arange(at, min(at + SHARD, pair.size)) for at in range(0, pair.size, SHARD))
        blocks = {"user": user, "item": item, "pair": pair}

        def score(rows: Intp) -> Float64:
            return self.expected_seconds(
                *(self.part(name, block.take(rows)) for name, block in blocks.items())
            )

        scored = list(map_ahead(score, shards))
        return np.concatenate(scored) if scored else np.zeros(0)

    def logits(self, user: LayerInput, item: LayerInput, pair: LayerInput) -> Float32:
        """What the net answers for rows whose parts are given row by row, [n, heads]."""
        values = user.sums + item.sums + pair.sums + self.weights["bias0"]
        for layer in range(1, len(self.spec.hidden) + 1):
            values = (
                np.maximum(values, 0) @ self.weights[f"kernel{layer}"]
                + self.weights[f"bias{layer}"]
            )
        if pair.prior is not None:
            values = values + np.pad(pair.prior[:, None], ((0, 0), (0, values.shape[1] - 1)))
        return values

    @cached_property
    def _places(self) -> dict[str, slice]:
        """Which rows of the first kernel read which block."""
        edges = np.cumsum([0, *(self.spec.width(block) for block in BLOCKS)]).tolist()
        return {name: slice(edges[i], edges[i + 1]) for i, name in enumerate(BLOCKS)}

    def save(self, folder: Path) -> None:
        (folder / "ranker.json").write_text(self.spec.model_dump_json(indent=1))
        quantiles, codes = self.encoders.tables
        for name, table in (("quantiles", quantiles), ("codes", codes)):
            table.to_parquet(folder / f"{name}.parquet", index=False)
        with h5py.File(folder / "ranker.weights.h5", "w") as file:
            for key in sorted(self.weights):
                file.create_dataset(key, data=self.weights[key])

    @classmethod
    def load(cls, folder: Path) -> "Ranker":
        spec = RankerSpec.model_validate_json((folder / "ranker.json").read_text())
        with h5py.File(folder / "ranker.weights.h5", "r") as file:
            weights = {key: file[key][:] for key in file}
        quantiles, codes = (
            pd.read_parquet(folder / f"{name}.parquet") for name in ("quantiles", "codes")
        )
        numbers = [name for block in BLOCKS for name in spec.numbers[block]]
        return cls(spec, encoders_from(quantiles, codes, numbers, list(spec.sizes)), weights)


def lengths_of(item: Block) -> Float64:
    """Seconds that the items of an item's block last, [n]; NaN where that is unknown."""
    return item.numbers.get(DURATION, np.full(item.size, np.nan))
