"""Bags of indexes averaged into vectors, forwards and backwards, as one sparse product.

Training and serving pool with this code. The windows of a bag share one pass: each position is summed once, in the
first window that holds it, and the wider windows add what the narrower ones have.
"""

import numpy as np
import numpy.typing as npt
from scipy import sparse

Float32 = npt.NDArray[np.float32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class Pooling:
    """Bags int32 [n, length], newest first, 0 = nobody, averaged over their first w entries for each w of `windows`.

    Windows ascend. What does not depend on a table is worked out at once, so that it can be done ahead of the table.
    """

    rows: Int32
    """The distinct indexes in the bags, ascending, nobody left out: the table rows that are read, [r]."""

    def __init__(self, bags: Int32, windows: tuple[int, ...]) -> None:
        bags = bags[:, : windows[-1]]
        present = bags > 0
        self._parts = np.add.reduceat(present, np.array([0, *windows[:-1]]), axis=1, dtype=np.int64)
        self._counts = np.maximum(np.cumsum(self._parts, axis=1), 1).astype(np.float32)[:, :, None]
        self.rows, columns = distinct(bags[present])
        self._matrix = self._sums_of(columns)

    def means(self, rows: Float32) -> Float32:
        """Window means [n, windows * dim] of a table's `rows` [r, dim]; an empty window is zero."""
        sums: Float32 = (self._matrix @ rows).reshape(*self._parts.shape, -1)
        # One window at a time: np.cumsum along an axis in the middle is many times slower.
        for wider in range(1, sums.shape[1]):
            sums[:, wider] += sums[:, wider - 1]
        sums /= self._counts
        return sums.reshape(len(sums), -1)

    def row_gradients(self, gradient: Float32) -> Float32:
        """What a gradient of the means [n, windows * dim] is for each of the `rows`, [r, dim]."""
        collected = gradient.reshape(*self._parts.shape, -1) / self._counts
        # A position of an inner window is in every wider one too, so it collects their gradients.
        for inner in range(collected.shape[1] - 2, -1, -1):
            collected[:, inner] += collected[:, inner + 1]
        gradients: Float32 = self._matrix.T @ collected.reshape(self._parts.size, -1)
        return gradients

    def _sums_of(self, columns: Int32) -> sparse.csr_matrix:
        """One row for each bag and window part, one column for each of `rows`, 1 where it stands there."""
        edges = np.concatenate([[0], np.cumsum(self._parts.ravel())]).astype(np.int32)
        shape = (self._parts.size, len(self.rows))
        return sparse.csr_matrix((np.ones(len(columns), np.float32), columns, edges), shape=shape)


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
