"""Bags of indexes averaged into vectors, forwards and backwards.

Training and serving pool with this code. The windows of a bag share one pass: each position is
summed once, in the first window that holds it, and the wider windows add what the narrower ones
have.
"""

import numpy as np

from features.arrays import Float32, Int32
from recall.compiled_loops import average_bags, spread_gradient


class Pooling:
    """Bags int32 [n, length], newest first, 0 = padding, averaged over their first w entries for
    each w of `windows`.

    Split ascend. What does not depend on a table is worked out at once, so that it can be done
    ahead of the table.
    """

    rows: Int32
    """The distinct indexes in the bags, ascending, without padding: the table rows that are read,
    [r].
    """

    def __init__(self, bags: Int32, windows: tuple[int, ...]) -> None:
        bags = bags[:, : windows[-1]]
        present = bags > 0
        parts = np.add.reduceat(present, np.array([0, *windows[:-1]]), axis=1, dtype=np.int64)
        self._counts = np.maximum(np.cumsum(parts, axis=1), 1).astype(np.float32)
        self._edges = np.concatenate([[0], np.cumsum(parts.ravel())])
        self.rows, self._places = distinct(bags[present])

    def means(self, rows: Float32) -> Float32:
        """Window means [n, windows * dim] of a table's `rows` [r, dim]; an empty window is zero."""
        means = np.empty((*self._counts.shape, rows.shape[1]), np.float32)
        average_bags(rows, self._places, self._edges, self._counts, means)
        return means.reshape(len(means), -1)

    def row_gradients(self, gradient: Float32) -> Float32:
        """What a gradient of the means [n, windows * dim] is for each of the `rows`, [r, dim]."""
        of_means = gradient.reshape(*self._counts.shape, -1)
        of_rows = np.zeros((len(self.rows), of_means.shape[2]), np.float32)
        spread_gradient(of_means, self._places, self._edges, self._counts, of_rows)
        return of_rows


def distinct(indexes: Int32) -> tuple[Int32, Int32]:
    """The distinct indexes, ascending, and the place of each index among them: [n] -> [r], [n]."""
    # Flags instead of a sort: of what grows with the largest index only a byte each is written and
    # read, and the places are left as they come where no index stands.
    flags = np.zeros(int(indexes.max(initial=0)) + 1, bool)
    flags[indexes] = True
    rows = np.flatnonzero(flags).astype(np.int32)
    places = np.empty(len(flags), np.int32)
    places[rows] = np.arange(len(rows), dtype=np.int32)
    return rows, places[indexes]
