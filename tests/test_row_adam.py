"""Row-wise Adam against Adam's formula for each row by itself."""

import numpy as np
import pytest

from recall.row_adam import RowAdam

RATE, BETA1, BETA2 = 0.01, 0.9, 0.999
DIM, ROWS = 64, 512


@pytest.mark.parametrize("count", [0, 1, 2 * ROWS + 3])
def test_named_rows_move_by_adams_formula_and_no_other(count: int) -> None:
    rng = np.random.default_rng(count)
    start = rng.normal(size=(3 * ROWS, DIM)).astype(np.float32)
    table, expected = RowAdam(start, RATE), start.astype(np.float64)
    first, second = np.zeros(start.shape), np.zeros(start.shape)
    for step in (1, 2, 3):
        rows = np.sort(rng.choice(len(start), count, replace=False)).astype(np.int32)
        gradient = rng.normal(size=(count, DIM)).astype(np.float32)
        table.apply(rows, gradient, rate=0.5)
        correction = np.sqrt(1 - BETA2**step) / (1 - BETA1**step)
        for row, of_row in zip(rows, gradient.astype(np.float64), strict=True):
            first[row] = BETA1 * first[row] + (1 - BETA1) * of_row
            second[row] = BETA2 * second[row] + (1 - BETA2) * of_row**2
            expected[row] -= 0.5 * RATE * correction * first[row] / (np.sqrt(second[row]) + 1e-8)
    np.testing.assert_allclose(table.values, expected, rtol=1e-4, atol=1e-5)
