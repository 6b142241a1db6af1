"""The large tables of a tower under training: in numpy, under row-wise Adam, so that a step costs
its own rows.

Items and tokens may be millions; a batch names a few thousand of them, and only these are read and
written.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy import sparse

from features.arrays import Float32, Int32
from recall.compiled_loops import BETA1, BETA2, move_rows
from recall.pooling import distinct
from recall.tower import ItemFacts, TowerSpec, item_rows

Arrays = dict[str, npt.NDArray[np.generic]]
Gradient = tuple[Int32, Float32]


class RowAdam:
    """A table under Adam whose moments are kept and touched only for the rows a batch names."""

    def __init__(self, values: Float32, rate: float) -> None:
        self.values = values.copy()
        self._first, self._second = np.zeros_like(values), np.zeros_like(values)
        self._rate, self._steps = rate, 0

    def apply(self, rows: Int32, gradient: Float32, rate: float = 1.0) -> None:
        """One step for distinct rows [r] with their gradients [r, dim], at a share of the learning
        rate.
        """
        self._steps += 1
        step = rate * self._rate * np.sqrt(1 - BETA2**self._steps) / (1 - BETA1**self._steps)
        move_rows(self.values, self._first, self._second, rows, gradient, np.float32(step))

    def state(self) -> Arrays:
        """All that the next step depends on."""
        return {
            "values": self.values,
            "first": self._first,
            "second": self._second,
            "steps": np.array(self._steps),
        }

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on from a state."""
        self.values, self._first, self._second = (
            np.array(state[name], np.float32) for name in ("values", "first", "second")
        )
        self._steps = int(state["steps"])


class EmbeddingTables:
    """The tables of one tower, what they are composed into, and how a gradient of that comes back
    to their rows.
    """

    def __init__(
        self, shape: TowerSpec, weights: Mapping[str, Float32], facts: ItemFacts, rate: float
    ) -> None:
        self._shape, self._facts = shape, facts
        self._tables = {name: RowAdam(weights[name], rate) for name in table_names(shape)}

    @property
    def weights(self) -> dict[str, Float32]:
        """The tables as they stand; they go on changing."""
        return {name: table.values for name, table in self._tables.items()}

    def item_rows(self, items: Int32, known: Float32 | None) -> Float32:
        """Scored rows of distinct items [r] -> [r, dim]; see `recall.tower.item_rows`."""
        return item_rows(self._shape, self.weights, self._facts, items, known)

    def apply(
        self,
        pooled: Mapping[str, Gradient],
        items: Int32,
        known: Float32 | None,
        gradient: Float32,
        rate: float,
    ) -> None:
        """One step: gradients of the pooled rows by table, and of the scored rows of distinct
        items.
        """
        gradients = {**pooled, "item_out": (items, gradient if known is None else gradient * known)}
        for column in self._shape.item_categories:
            gradients[f"item_category_{column}"] = by_code(
                self._facts.codes[column][items], gradient
            )
        if self._shape.item_numbers:
            values = self._facts.values[items]
            gradients["item_values"] = (
                np.arange(values.shape[1], dtype=np.int32),
                values.T @ gradient,
            )
        for table, (rows, of_rows) in gradients.items():
            self._tables[table].apply(rows, of_rows, rate)

    def state(self) -> Arrays:
        """All that the next step depends on, by table."""
        return {
            f"{name}.{key}": a
            for name, table in self._tables.items()
            for key, a in table.state().items()
        }

    def restore(self, state: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on from a state."""
        for name, table in self._tables.items():
            table.restore(
                {key: state[f"{name}.{key}"] for key in ("values", "first", "second", "steps")}
            )


def table_names(shape: TowerSpec) -> list[str]:
    """The tables that are trained row by row."""
    names = ["item_in", "item_out"] + (["tokens"] if shape.token_bag else [])
    names += [f"item_category_{column}" for column in shape.item_categories]
    return names + (["item_values"] if shape.item_numbers else [])


def by_code(codes: Int32, gradient: Float32) -> Gradient:
    """A gradient [n, dim] summed by code [n]; the unknown, code 0, stays as it is."""
    known = np.flatnonzero(codes)
    rows, places = distinct(codes[known])
    sums = sparse.csr_matrix(
        (np.ones(len(known), np.float32), (places, known)), shape=(len(rows), len(codes))
    )
    return rows, (sums @ gradient).astype(np.float32, copy=False)
