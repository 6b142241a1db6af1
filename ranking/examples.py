"""Ranking rows: impressions or candidates, their features as of the exposure, and what was then
watched.

`RankingRows` is a table on disk; `RankerExamples` are its rows as the net is fed them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from features.ahead import map_ahead
from features.arrays import Flags, Float32, Float64, Int32, Int64, Intp, Ints
from features.asof_features import AsOfFeatures, Block
from features.asof_log import Contexts
from features.impressions import Impressions, Unit
from ranking.encoders import with_powers
from ranking.losses import targets_of
from ranking.model import BLOCKS, Ranker

LABELS = ("timestamps_us", "clicked", "seconds", "weight", "positions")
# The column of recall's log chance that a candidate is watched next: its score in the list it was
# merged into.
MERGED = "recall_merged"
SHRINKAGE = 10.0
# Exposures whose features are made at a time.
SHARD = 65_536
# Places on the page beyond this one are alike.
LAST_POSITION = 50


@dataclass(frozen=True)
class Exposures:
    """What was shown, or could have been: users, items, instants [n] and recall's columns {name:
    float64 [n]}.

    `contexts` {name: int32 [n]} and `positions` [n] (from 1, 0 unknown) are those of the
    impressions; a request that has not been answered yet has none.
    """

    users: Int32
    items: Int32
    timestamps_us: Int64
    recall: dict[str, Float64]
    contexts: Contexts | None = None
    positions: Int32 | None = None

    def __len__(self) -> int:
        return len(self.users)

    def take(self, rows: slice | Intp) -> Self:
        """Some of the exposures."""

        def some(columns: Mapping[str, Any] | None) -> dict[str, Any] | None:
            return None if columns is None else {n: values[rows] for n, values in columns.items()}

        positions = None if self.positions is None else self.positions[rows]
        flat = (self.users[rows], self.items[rows], self.timestamps_us[rows])
        return type(self)(*flat, some(self.recall) or {}, some(self.contexts), positions)

    @classmethod
    def of(cls, shown: Impressions, features: AsOfFeatures, recall: dict[str, Float64]) -> Self:
        """Impressions as of their requests, in the contexts that the log of `features` knows, at
        their positions.
        """
        contexts = {name: getattr(shown, name) for name in features.log.contexts}
        return cls(shown.users, shown.items, shown.requests_us, recall, contexts, shown.positions)


@dataclass(frozen=True)
class RankingRows:
    """Rows [n] in the order of their exposures: three blocks of features and the label.

    `seconds` is T: the watch seconds of a click, 0 otherwise. `weight` is 1, or 1 / r for the rows
    that stand for themselves and the unclicked ones left out when thinned at rate r. `positions` on
    the page count from 1, 0 unknown.
    """

    blocks: dict[str, Block]
    timestamps_us: Int64
    clicked: Flags
    seconds: Float64
    weight: Float64
    positions: Int32

    def __len__(self) -> int:
        return len(self.clicked)

    @classmethod
    def of(
        cls,
        features: AsOfFeatures,
        exposures: Exposures,
        clicked: Flags,
        seconds: Float64,
        weight: Float64 | None = None,
    ) -> "RankingRows":
        """Exposures with their features, each as of its instant, and what became of them; each
        stands for itself where there is no `weight`.
        """
        size, positions = len(exposures), exposures.positions
        return cls(
            blocks_of(features, exposures),
            exposures.timestamps_us,
            clicked,
            seconds,
            np.ones(size) if weight is None else weight,
            np.zeros(size, np.int32) if positions is None else positions,
        )

    def take(self, rows: Intp) -> "RankingRows":
        blocks = {name: block.take(rows) for name, block in self.blocks.items()}
        return RankingRows(blocks, **{name: getattr(self, name)[rows] for name in LABELS})

    def save(self, path: Path) -> None:
        columns = {name: getattr(self, name) for name in LABELS}
        pq.write_table(pa.table(columns | dict(_flat(self.blocks))), path)

    @classmethod
    def load(cls, path: Path) -> "RankingRows":
        table = pq.read_table(path)
        columns = {name: table[name].to_numpy() for name in table.column_names}
        blocks = {block: _block(columns, block, len(table)) for block in BLOCKS}
        return cls(blocks, **{name: columns[name] for name in LABELS})


def blocks_of(features: AsOfFeatures, exposures: Exposures) -> dict[str, Block]:
    """The three feature blocks of exposures, each as of its own instant, numbers in float32.

    They are made in shards, on all cores: what is in memory beside them is a shard's.
    """
    shards = [slice(at, at + SHARD) for at in range(0, len(exposures), SHARD)] or [slice(0, 0)]
    # The first shard counts the log by every key, which the others then read.
    first = _shard_of(features, exposures, shards[0])
    kept = {name: _room_for(block, len(exposures)) for name, block in first.items()}

    def keep(rows: slice, made: dict[str, Block]) -> None:
        for name, block in made.items():
            for column, values in block.numbers.items():
                kept[name].numbers[column][rows] = values
            for column, codes in block.codes.items():
                kept[name].codes[column][rows] = codes

    keep(shards[0], first)
    for _ in map_ahead(lambda at: keep(at, _shard_of(features, exposures, at)), shards[1:]):
        pass
    return kept


def _shard_of(features: AsOfFeatures, exposures: Exposures, rows: slice) -> dict[str, Block]:
    some = exposures.take(rows)
    asked = (some.users, some.items, some.timestamps_us, some.contexts, some.recall)
    return features.blocks(features.log.rows(*asked))


def _room_for(block: Block, size: int) -> Block:
    """A block of so many rows with the columns of another, not yet filled."""
    numbers = {name: np.empty(size, np.float32) for name in block.numbers}
    return Block(size, numbers, {name: np.empty(size, np.int32) for name in block.codes})


class Targets(NamedTuple):
    """What the losses are told of rows [n].

    `labels` and `weights` [n, heads] are those of `losses.targets_of`, the mean weight of a head
    being 1. The order of rows reads `seconds` (T), `row_weights`, and `log_measures`: the log of
    the seconds that the odds count as one.
    """

    labels: Float32
    weights: Float32
    seconds: Float32
    row_weights: Float32
    log_measures: Float32


@dataclass(frozen=True)
class RankerExamples:
    """Rows [n] as the net is fed them; powers are taken batch by batch, so that memory grows with
    the log alone.

    `numbers` [n, columns] at their quantiles by block; `codes` are rows of embedding tables,
    `codes_<block>` [n, columns] and `position` [n, 1]; `prior` [n, 1] is where the first logit
    starts, None: at 0.
    """

    numbers: dict[str, Float32]
    codes: dict[str, Int32]
    prior: Float32 | None
    targets: Targets
    powers: bool

    def __len__(self) -> int:
        return len(self.targets.labels)

    def take(self, rows: Intp) -> tuple[dict[str, Any], Targets]:
        """The inputs of some rows by name, and their targets."""
        inputs: dict[str, Any] = {name: codes[rows] for name, codes in self.codes.items()}
        inputs |= {
            name: with_powers(numbers[rows], self.powers) for name, numbers in self.numbers.items()
        }
        inputs |= {} if self.prior is None else {"prior": self.prior[rows]}
        return inputs, Targets(*(column[rows] for column in self.targets))


def build_examples(ranker: Ranker, rows: RankingRows) -> RankerExamples:
    """Rows [n] as the net of a ranker, trained or not, is fed them."""
    spec, blocks = ranker.spec, rows.blocks
    codes = {
        f"codes_{name}": ranker.rows(name, blocks[name]) for name in BLOCKS if spec.codes[name]
    }
    numbers = {
        name: ranker.encoders.numbers(blocks[name], spec.numbers[name])
        for name in BLOCKS
        if spec.numbers[name]
    }
    positions = np.clip(rows.positions, 0, LAST_POSITION).astype(np.int32)[:, None]
    prior = ranker.prior(blocks["pair"])[:, None] if spec.prior else None
    measures = ranker.measures(blocks["item"])
    labels, weights = targets_of(spec.objective, rows.clicked, rows.seconds / measures)
    weights = weights * rows.weight[:, None]
    # A mean weight of one keeps the size of a step apart from the length of a watch.
    weights = weights / np.maximum(weights.mean(axis=0), 1e-12)
    columns = (labels, weights, rows.seconds, rows.weight, np.log(measures))
    targets = Targets(*(column.astype(np.float32) for column in columns))
    return RankerExamples(numbers, codes | {"position": positions}, prior, targets, spec.powers)


class Watches(Protocol):
    """Impressions [n]: item indexes, whether clicked, seconds (NaN unknown)."""

    @property
    def items(self) -> Int32: ...
    @property
    def clicked(self) -> Flags: ...
    @property
    def seconds(self) -> Float64: ...


def target_seconds(rows: Watches, known: Watches, unit: Unit) -> Float64:
    """T of rows [n] in the log's unit: `filled_seconds`, or 1 a click where that is watches."""
    return rows.clicked.astype(np.float64) if unit == "watches" else filled_seconds(rows, known)


def filled_seconds(rows: Watches, known: Watches) -> Float64:
    """T of rows [n]: 0 unclicked; a click without seconds takes the mean of its item in `known`,
    drawn to the whole's.

    `known` are the rows before the cut, so that no mean is learnt from what it is evaluated on.
    """
    used = known.clicked & ~np.isnan(known.seconds)
    items, seconds = known.items[used], known.seconds[used]
    overall = seconds.mean() if len(seconds) else 0.0
    size = max(int(rows.items.max(initial=0)), int(items.max(initial=0))) + 1
    count, total = np.bincount(items, minlength=size), np.bincount(items, seconds, minlength=size)
    mean = (total + SHRINKAGE * overall) / (count + SHRINKAGE)
    return np.where(
        rows.clicked, np.where(np.isnan(rows.seconds), mean[rows.items], rows.seconds), 0.0
    )


def thinned(
    clicked: Flags,
    lists: Ints,
    kept: int,
    rng: np.random.Generator,
) -> tuple[Int64, Float64]:
    """Rows left when each list keeps at most `kept` random unclicked ones, in order, and the weight
    1 / r of each.
    """
    order = np.lexsort((rng.random(len(lists)), clicked, lists))
    of_list = lists[order].astype(np.int64) * 2 + clicked[order]
    first = np.searchsorted(of_list, of_list, "left")
    turn = np.arange(len(order)) - first
    size = np.searchsorted(of_list, of_list, "right") - first
    weight = np.empty(len(order))
    weight[order] = np.where(clicked[order], 1.0, np.maximum(size / kept, 1.0))
    rows = np.sort(order[clicked[order] | (turn < kept)])
    return rows, weight[rows]


def _flat(blocks: dict[str, Block]) -> Iterator[tuple[str, npt.NDArray[np.generic]]]:
    for name, block in blocks.items():
        yield from (
            (f"{name}.number.{column}", values.astype(np.float32, copy=False))
            for column, values in block.numbers.items()
        )
        yield from ((f"{name}.code.{column}", values) for column, values in block.codes.items())


def _block(columns: dict[str, npt.NDArray[np.generic]], name: str, size: int) -> Block:
    parts = {column: column.split(".", 2) for column in columns if column not in LABELS}
    numbers, codes = (
        {
            column: columns[stored]
            for stored, (block, of, column) in parts.items()
            if (block, of) == (name, kind)
        }
        for kind in ("number", "code")
    )
    found = {column: values.astype(np.float32, copy=False) for column, values in numbers.items()}
    return Block(size, found, {column: values.astype(np.int32) for column, values in codes.items()})
