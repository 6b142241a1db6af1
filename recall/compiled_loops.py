"""Loops over bags and table rows that numba compiles: numpy would read and write the same rows many
times over.

The home of numba. A function is compiled when it is first called, all four in two to three
seconds, and kept beside its module for the processes to come. While one runs, other threads of
Python run too.
"""

import numba
import numpy as np

from features.arrays import Float32, Int32, Int64, Intp

# Of Adam, as its authors recommend them.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


@numba.njit(nogil=True, error_model="numpy", cache=True)
def average_bags(
    rows: Float32, places: Int32, edges: Int64, counts: Float32, means: Float32
) -> None:
    """Write the means [n, windows, dim] of bags; part p of them holds the rows at
    `places[edges[p]:edges[p + 1]]`.

    A bag has as many parts as there are windows, and window w is all its parts up to w: `counts`
    [n, windows] rows.
    """
    bags, windows, dim = means.shape
    total = np.empty(dim, np.float32)
    for bag in range(bags):
        total[:] = 0
        for window in range(windows):
            part = bag * windows + window
            for at in range(edges[part], edges[part + 1]):
                row = rows[places[at]]
                for i in range(dim):
                    total[i] += row[i]
            mean = means[bag, window]
            for i in range(dim):
                mean[i] = total[i] / counts[bag, window]


@numba.njit(nogil=True, error_model="numpy", cache=True)
def spread_gradient(
    gradient: Float32, places: Int32, edges: Int64, counts: Float32, of_rows: Float32
) -> None:
    """Add what a gradient of `average_bags`' means, [n, windows, dim], is for each row to `of_rows`
    [r, dim].
    """
    bags, windows, dim = gradient.shape
    share = np.empty(dim, np.float32)
    for bag in range(bags):
        share[:] = 0
        # A row of an inner window is in every wider one too, so it collects their gradients.
        for window in range(windows - 1, -1, -1):
            of_mean = gradient[bag, window]
            for i in range(dim):
                share[i] += of_mean[i] / counts[bag, window]
            part = bag * windows + window
            for at in range(edges[part], edges[part + 1]):
                of_row = of_rows[places[at]]
                for i in range(dim):
                    of_row[i] += share[i]


@numba.njit(nogil=True, error_model="numpy", cache=True)
def move_rows(
    values: Float32,
    first: Float32,
    second: Float32,
    rows: Int32,
    gradient: Float32,
    step: np.float32,
) -> None:
    """Adam's step of distinct `rows` [r] of a table [items, dim] and of its two moments, in place;
    `gradient` [r, dim].

    `step` is the learning rate with both moments corrected for their start.
    """
    one, epsilon = np.float32(1), np.float32(EPSILON)
    beta1, beta2 = np.float32(BETA1), np.float32(BETA2)
    for place in range(len(rows)):
        row = rows[place]
        value, mean, square, slope = values[row], first[row], second[row], gradient[place]
        for i in range(len(slope)):
            mean[i] = beta1 * mean[i] + (one - beta1) * slope[i]
            square[i] = beta2 * square[i] + (one - beta2) * slope[i] * slope[i]
            value[i] -= step * mean[i] / (np.sqrt(square[i]) + epsilon)


@numba.njit(nogil=True, error_model="numpy", cache=True)
def multiply_pairs(
    vectors: Float32, item_vectors: Float32, rows: Intp, items: Int32, scores: Float32
) -> None:
    """Write the inner products [p] of the vectors of `rows` and of `items`; NaN where an item has
    no vector.
    """
    for pair in range(len(rows)):
        scores[pair] = np.nan
        if items[pair] < len(item_vectors):
            vector, item = vectors[rows[pair]], item_vectors[items[pair]]
            total = np.float32(0)
            for i in range(len(vector)):
                total += vector[i] * item[i]
            scores[pair] = total
