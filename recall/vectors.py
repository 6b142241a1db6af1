"""A trained tower as a few matrix products: user vectors and item vectors without TensorFlow."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from recall.pooling import Pooling

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
SHARD = 8192


class TowerShape(BaseModel):
    """What the weights mean: sizes and order of the tower's inputs, and what it knew."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: int
    items: int
    dim: int
    hidden: tuple[int, ...]
    recency_windows: tuple[int, ...]
    categories: dict[str, int] = {}
    numbers: dict[str, tuple[float, float]] = {}
    tokens: int = 0
    token_bag: int = 0
    example_age: bool = False

    @property
    def bag(self) -> int:
        """How many watches back the tower looks."""
        return max(self.recency_windows)

    def category_dim(self, name: str) -> int:
        """Width of a category's embedding, proportional to the logarithm of its size (paper, section 4.1)."""
        return math.ceil(math.log2(self.categories[name])) + 1


@dataclass(frozen=True)
class TowerInputs:
    """One row a request, [n, ...]: what the tower reads of a user at an instant.

    `watches` int32 [n, bag] and `tokens` int32 [n, token_bag], newest first, 0 = none; `categories` {name: int32 [n]};
    `numbers` float32 [n, 3 a number]: x, x^2 and sqrt(x) of numbers scaled to [0, 1]; `example_age` float32 [n],
    0 when serving.
    """

    watches: Int32
    tokens: Int32
    categories: Mapping[str, Int32]
    numbers: Float32
    example_age: Float32

    def __len__(self) -> int:
        return len(self.watches)

    def take(self, rows: npt.NDArray[np.int64] | slice) -> "TowerInputs":
        categories = {name: codes[rows] for name, codes in self.categories.items()}
        return TowerInputs(
            self.watches[rows], self.tokens[rows], categories, self.numbers[rows], self.example_age[rows]
        )

    def aged(self, example_age: Float32) -> "TowerInputs":
        """The same inputs as examples of an age, [n]."""
        return replace(self, example_age=example_age)


@dataclass(frozen=True)
class Tower:
    """A trained tower: its shape and its weights.

    `item_in` [items, dim] embeds watched items, `item_out` [items, dim] are the items' vectors, `tokens`,
    `category_<name>` further tables, `kernel<i>`, `bias<i>` the layers; row 0 of a table is nobody.
    """

    shape: TowerShape
    weights: dict[str, Float32]

    def user_vectors(self, inputs: TowerInputs) -> Float32:
        """Vectors whose inner product with an item's vector is the tower's score: [n] requests -> [n, dim]."""
        parts = [self._vectors(inputs.take(slice(at, at + SHARD))) for at in range(0, len(inputs), SHARD)]
        return np.concatenate(parts) if parts else np.zeros((0, self.shape.dim), np.float32)

    @property
    def item_vectors(self) -> Float32:
        """[items, dim]; row 0 is nobody."""
        return self.weights["item_out"]

    def save(self, folder: Path, name: str) -> None:
        (folder / f"{name}.json").write_text(self.shape.model_dump_json(indent=1))
        with h5py.File(folder / f"{name}.weights.h5", "w") as file:
            for key in sorted(self.weights):
                file.create_dataset(key, data=self.weights[key])

    @classmethod
    def load(cls, folder: Path, name: str) -> "Tower":
        shape = TowerShape.model_validate_json((folder / f"{name}.json").read_text())
        with h5py.File(folder / f"{name}.weights.h5", "r") as file:
            return cls(shape, {key: file[key][:] for key in file})

    def _vectors(self, inputs: TowerInputs) -> Float32:
        values = self._wide_layer(inputs)
        layers = len(self.shape.hidden) + 1
        for layer in range(layers):
            values = values @ self.weights[f"kernel{layer}"] + self.weights[f"bias{layer}"]
            if layer < layers - 1:
                values = np.maximum(values, 0)
        return values

    def _wide_layer(self, inputs: TowerInputs) -> Float32:
        """All inputs side by side, in the order the tower was trained with."""
        parts = [self.weights[f"category_{name}"][inputs.categories[name]] for name in self.shape.categories]
        parts += [pool.means(self.weights[name][pool.rows]) for name, pool in poolings(self.shape, inputs).items()]
        if self.shape.numbers:
            parts.append(inputs.numbers)
        if self.shape.example_age:
            parts.append(inputs.example_age[:, None])
        return np.concatenate(parts, axis=1)


def poolings(shape: TowerShape, inputs: TowerInputs) -> dict[str, Pooling]:
    """What is averaged, by the table it is read from: watches by recency window, search tokens as one bag."""
    pools = {"item_in": Pooling(inputs.watches, shape.recency_windows)}
    return pools | ({"tokens": Pooling(inputs.tokens, (shape.token_bag,))} if shape.token_bag else {})
