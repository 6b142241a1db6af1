"""A trained tower as a few matrix products: user vectors and item vectors without TensorFlow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from features.arrays import Flags, Float32, Int32, Int64
from recall.pooling import Pooling

SHARD = 8192
# Numbers enter as x, x^2 and sqrt(x) (paper, section 4.1).
POWERS = 3


class TowerSpec(BaseModel):
    """What the weights mean: sizes and order of the tower's inputs, its metric, and what it knew.

    `categories` and `numbers` are the users' side columns, `item_categories` and `item_values` the
    items'.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: int
    items: int
    dim: int
    hidden: tuple[int, ...]
    recency_windows: tuple[int, ...]
    metric: Literal["cosine", "dot"] = "dot"
    temperature: float = 1.0
    categories: dict[str, int] = {}
    category_dims: dict[str, int] = {}
    numbers: dict[str, tuple[float, float]] = {}
    tokens: int = 0
    token_bag: int = 0
    example_age: bool = False
    item_categories: dict[str, int] = {}
    item_numbers: dict[str, tuple[float, float]] = {}

    @property
    def bag(self) -> int:
        """How many watches back the tower looks."""
        return max(self.recency_windows)


def category_dim(size: int) -> int:
    """Width of a category's embedding, proportional to the logarithm of its size (paper, section
    4.1).
    """
    return math.ceil(math.log2(size)) + 1


@dataclass(frozen=True)
class TowerInputs:
    """One row a request, [n, ...]: what the tower reads of a user at an instant.

    `watches` int32 [n, bag] and `tokens` int32 [n, token_bag], newest first, 0 = none; `categories`
    {name: int32 [n]}; `numbers` float32 [n, 3 a number]: x, x^2 and sqrt(x) of numbers scaled to
    [0, 1]; `example_age` float32 [n], 0 when serving.
    """

    watches: Int32
    tokens: Int32
    categories: Mapping[str, Int32]
    numbers: Float32
    example_age: Float32

    def __len__(self) -> int:
        return len(self.watches)

    def take(self, rows: Int64 | slice) -> "TowerInputs":
        categories = {name: codes[rows] for name, codes in self.categories.items()}
        return TowerInputs(
            self.watches[rows],
            self.tokens[rows],
            categories,
            self.numbers[rows],
            self.example_age[rows],
        )

    def aged(self, example_age: Float32) -> "TowerInputs":
        """The same inputs as examples of an age, [n]."""
        return replace(self, example_age=example_age)


@dataclass(frozen=True)
class ItemFacts:
    """What a tower knows of its items beside their watches, as of its instant.

    `codes` {name: int32 [items]}, 0 unknown; `values` float32 [items, 3 a number]; `listed` bool
    [items]: which may be recommended (never padding).
    """

    codes: Mapping[str, Int32]
    values: Float32
    listed: Flags

    @classmethod
    def plain(cls, items: int) -> "ItemFacts":
        """No side features: the paper's tower, in which every item may be recommended."""
        return cls({}, np.zeros((items, 0), np.float32), np.arange(items) > 0)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        codes = {f"facts/codes/{name}": codes for name, codes in self.codes.items()}
        return codes | {"facts/values": self.values, "facts/listed": self.listed}


@dataclass(frozen=True)
class Tower:
    """A trained tower: its shape, its weights, and its items' facts.

    `item_in` [items, dim] embeds watched items, `item_out` [items, dim] holds the scored items' own
    rows, `tokens`, `category_<name>`, `item_category_<name>` are further tables, `item_values`
    [values, dim] and `kernel<i>`, `bias<i>` layers; row 0 of a table is padding.
    """

    shape: TowerSpec
    weights: dict[str, Float32]
    facts: ItemFacts

    def user_vectors(self, inputs: TowerInputs) -> Float32:
        """Vectors whose inner product with an item's vector is the trained score: [n] requests ->
        [n, dim].

        Cosine: both sides have length 1, and the user's is divided by the temperature.
        """
        parts = [
            self._vectors(inputs.take(slice(at, at + SHARD))) for at in range(0, len(inputs), SHARD)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, self.shape.dim), np.float32)

    @cached_property
    def item_vectors(self) -> Float32:
        """[items, dim]; row 0 is padding."""
        rows = item_rows(
            self.shape, self.weights, self.facts, np.arange(self.shape.items, dtype=np.int32)
        )
        return unit_rows(rows) if self.shape.metric == "cosine" else rows

    @property
    def catalogue(self) -> Int32:
        """The items that may be recommended, ascending."""
        return np.flatnonzero(self.facts.listed).astype(np.int32)

    def save(self, folder: Path, name: str) -> None:
        (folder / f"{name}.json").write_text(self.shape.model_dump_json(indent=1))
        arrays = {**self.weights, **self.facts.arrays()}
        with h5py.File(folder / f"{name}.weights.h5", "w") as file:
            for key in sorted(arrays):
                file.create_dataset(key, data=arrays[key])

    @classmethod
    def load(cls, folder: Path, name: str) -> "Tower":
        shape = TowerSpec.model_validate_json((folder / f"{name}.json").read_text())
        with h5py.File(folder / f"{name}.weights.h5", "r") as file:
            facts = file["facts"]
            codes = {column: facts["codes"][column][:] for column in shape.item_categories}
            weights = {key: file[key][:] for key in file if key != "facts"}
            return cls(shape, weights, ItemFacts(codes, facts["values"][:], facts["listed"][:]))

    def _vectors(self, inputs: TowerInputs) -> Float32:
        values = self._wide_layer(inputs)
        layers = len(self.shape.hidden) + 1
        for layer in range(layers):
            values = values @ self.weights[f"kernel{layer}"] + self.weights[f"bias{layer}"]
            if layer < layers - 1:
                values = np.maximum(values, 0)
        return (
            unit_rows(values) / np.float32(self.shape.temperature)
            if self.shape.metric == "cosine"
            else values
        )

    def _wide_layer(self, inputs: TowerInputs) -> Float32:
        """All inputs side by side, in the order the tower was trained with."""
        parts = [
            self.weights[f"category_{name}"][inputs.categories[name]]
            for name in self.shape.categories
        ]
        parts += [
            pool.means(self.weights[name][pool.rows])
            for name, pool in poolings(self.shape, inputs).items()
        ]
        if self.shape.numbers:
            parts.append(inputs.numbers)
        if self.shape.example_age:
            parts.append(inputs.example_age[:, None])
        return np.concatenate(parts, axis=1)


def item_rows(
    shape: TowerSpec,
    weights: Mapping[str, Float32],
    facts: ItemFacts,
    items: Int32,
    known: Float32 | None = None,
) -> Float32:
    """The scored rows of items, [r] -> [r, dim]: their own, plus those of their side features.

    `known` [r, 1] multiplies the own rows: 0 hides who an item is, so that its side features have
    to speak.
    """
    own = weights["item_out"][items]
    rows = own if known is None else own * known
    for name in shape.item_categories:
        rows = rows + weights[f"item_category_{name}"][facts.codes[name][items]]
    return rows + facts.values[items] @ weights["item_values"] if shape.item_numbers else rows


def unit_rows(rows: Float32) -> Float32:
    """Rows of length 1; a zero row stays zero."""
    unit: Float32 = rows / np.sqrt(
        np.maximum((rows**2).sum(axis=1, keepdims=True), np.float32(1e-12))
    )
    return unit


def poolings(shape: TowerSpec, inputs: TowerInputs) -> dict[str, Pooling]:
    """What is averaged, by the table it is read from: watches by recency window, search tokens as
    one bag.
    """
    pools = {"item_in": Pooling(inputs.watches, shape.recency_windows)}
    return pools | (
        {"tokens": Pooling(inputs.tokens, (shape.token_bag,))} if shape.token_bag else {}
    )
