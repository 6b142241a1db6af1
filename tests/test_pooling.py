"""Distinct indexes and their places, against a sort; means of bags and their gradient, against a
loop.
"""

import numpy as np
import pytest

from recall.pooling import Pooling, distinct


@pytest.mark.parametrize("largest", [1, 7, 500, 2_000_000])
@pytest.mark.parametrize("count", [1, 300])
def test_distinct_indexes_are_ascending_and_every_index_finds_its_place(
    largest: int, count: int
) -> None:
    indexes = np.random.default_rng(largest + count).integers(0, largest + 1, count, dtype=np.int32)
    rows, places = distinct(indexes)
    expected, inverse = np.unique(indexes, return_inverse=True)
    assert (rows.tolist(), places.tolist()) == (expected.tolist(), inverse.tolist())
    assert rows.dtype == places.dtype == np.int32


def test_no_index_is_no_row() -> None:
    rows, places = distinct(np.zeros(0, np.int32))
    assert (len(rows), len(places)) == (0, 0)


@pytest.mark.parametrize("windows", [(4,), (1, 2, 4)])
def test_means_and_their_gradient_are_those_of_each_bag_by_itself(windows: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(windows))
    bags = rng.integers(0, 6, (9, 5)).astype(np.int32)
    bags[0] = 0
    table, gradient = rng.normal(size=(6, 3)), rng.normal(size=(9, len(windows), 3))
    means, of_table = np.zeros(gradient.shape), np.zeros(table.shape)
    for bag, window in np.ndindex(gradient.shape[:2]):
        entries = [index for index in bags[bag, : windows[window]] if index]
        for index in entries:
            means[bag, window] += table[index] / len(entries)
            of_table[index] += gradient[bag, window] / len(entries)
    pooling = Pooling(bags, windows)
    np.testing.assert_allclose(
        pooling.means(table[pooling.rows].astype(np.float32)), means.reshape(9, -1), rtol=1e-5
    )
    of_rows = pooling.row_gradients(gradient.reshape(9, -1).astype(np.float32))
    np.testing.assert_allclose(of_rows, of_table[pooling.rows], rtol=1e-4, atol=1e-6)
