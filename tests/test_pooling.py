"""Distinct indexes and their places, against a sort."""

import numpy as np
import pytest

from recall.pooling import distinct


@pytest.mark.parametrize("largest", [1, 7, 500, 2_000_000])
@pytest.mark.parametrize("count", [1, 300])
def test_distinct_indexes_are_ascending_and_every_index_finds_its_place(largest: int, count: int) -> None:
    indexes = np.random.default_rng(largest + count).integers(0, largest + 1, count, dtype=np.int32)
    rows, places = distinct(indexes)
    expected, inverse = np.unique(indexes, return_inverse=True)
    assert (rows.tolist(), places.tolist()) == (expected.tolist(), inverse.tolist())
    assert rows.dtype == places.dtype == np.int32


def test_no_index_is_no_row() -> None:
    rows, places = distinct(np.zeros(0, np.int32))
    assert (len(rows), len(places)) == (0, 0)
