"""Bags of indexes averaged into vectors, forwards and backwards, as one sparse product.

Training and serving pool with this code. The windows of a bag share one pass: each position is summed once, in the
first window that holds it, and the wider windows add what the narrower ones have.
"""

from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy import sparse

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Pooling:
    """Bags int32 [n, length], newest first, 0 = nobody, averaged over their first w entries for each w of `windows`.

    Windows ascend.
    """

    rows: Int32
    """The distinct indexes in the bags, ascending, nobody left out: the table rows that are read, [r]."""

    def __init__(self, bags: Int32, windows: tuple[int, ...]) -> None:
        self._bags = bags[:, : windows[-1]]
        self._present = self._bags > 0
        self._starts = np.array([0, *windows[:-1]])
        self._parts = np.add.reduceat(self._present, self._starts, axis=1, dtype=np.int64)
        self.rows, self._columns = distinct(self._bags[self._present])

    def means(self, rows: Float32) -> Float32:
        """Window means [n, windows * dim] of a table's `rows` [r, dim]; an empty window is zero."""
        sums = (self._matrix @ rows).reshape(*self._parts.shape, -1)
        means = np.cumsum(sums, axis=1) / self._counts
        return means.reshape(len(sums), -1).astype(np.float32, copy=False)

    def row_gradients(self, gradient: Float32) -> Float32:
        """What a gradient of the means [n, windows * dim] is for each of the `rows`, [r, dim]."""
        shares = gradient.reshape(*self._parts.shape, -1) / self._counts
        # A position of an inner window is in every wider one too, so it collects their gradients.
        collected = np.cumsum(shares[:, ::-1], axis=1)[:, ::-1]
        gradients: Float32 = (self._matrix.T @ collected.reshape(self._parts.size, -1)).astype(np.float32, copy=False)
        return gradients

    @cached_property
    def _counts(self) -> Float32:
        counts: Float32 = np.maximum(np.cumsum(self._parts, axis=1), 1).astype(np.float32)
        return counts[:, :, None]

    @cached_property
    def _matrix(self) -> sparse.csr_matrix:
        """One row for each bag and window part, one column for each of `rows`, 1 where it stands there."""
        edges = np.concatenate([[0], np.cumsum(self._parts.ravel())]).astype(np.int32)
        shape = (self._parts.size, len(self.rows))
        return sparse.csr_matrix((np.ones(len(self._columns), np.float32), self._columns, edges), shape=shape)


def distinct(indexes: Int32) -> tuple[Int32, Int32]:
    """The distinct indexes, ascending, and the place of each index among them: [n] -> [r], [n]."""
    # Flags instead of a sort: of what grows with the largest index only a byte each is written and read, and the
    # places are left as they come where no index stands.
    flags = np.zeros(int(indexes.max(initial=0)) + 1, bool)
    flags[indexes] = True
    rows = np.flatnonzero(flags).astype(np.int32)
    places = np.empty(len(flags), np.int32)
    places[rows] = np.arange(len(rows), dtype=np.int32)
    return rows, places[indexes]
