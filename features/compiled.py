"""Loops over what is asked of a log that numba compiles.

The home of numba in this package. A function is compiled when it is first called, in
about a second, and kept beside its module for the processes to come. While one runs, other threads
of Python run too.
"""

import numba
import numpy as np

from features.arrays import Float32, Float64, Int32, Int64


@numba.njit(nogil=True, cache=True)
def seek(timestamps_us: Int64, starts: Int64, stops: Int64, as_of: Int64, found: Int64) -> None:
    """Find where each moment [n] stands among the ascending instants from its start to its stop:
    past those before it.

    Written is the flat position `found` [n].
    """
    for row in range(len(as_of)):
        low, high, as_of_row = starts[row], stops[row], as_of[row]
        while low < high:
            middle = (low + high) // 2
            if timestamps_us[middle] < as_of_row:
                low = middle + 1
            else:
                high = middle
        found[row] = low


@numba.njit(nogil=True, error_model="numpy", cache=True)
def interpolate(
    columns: Float64,
    values: Float64,
    shares: Float64,
    starts: Int64,
    stops: Int64,
    between: Float32,
) -> None:
    """Write `between` [n, m]: the shares of columns [m, n] by straight lines between the values of
    each column.

    A column's values, ascending, and their shares stand from its start to its stop. Beyond them the
    share is that of the nearest; NaN stays NaN, and so does every number of a column without
    values.
    """
    for column in range(len(columns)):
        start, last = starts[column], stops[column] - 1
        for row in range(columns.shape[1]):
            number = columns[column, row]
            if np.isnan(number) or last < start:
                between[row, column] = np.nan
            elif number <= values[start]:
                between[row, column] = shares[start]
            elif number >= values[last]:
                between[row, column] = shares[last]
            else:
                low, high = start, last
                while high - low > 1:
                    middle = (low + high) // 2
                    if values[middle] <= number:
                        low = middle
                    else:
                        high = middle
                slope = (shares[high] - shares[low]) / (values[high] - values[low])
                between[row, column] = shares[low] + slope * (number - values[low])


@numba.njit(nogil=True, cache=True)
def first_within(users: Int32, timestamps_us: Int64, within_us: int, first: Int64) -> None:
    """Write the `first` instant [n] of the run that each row, sorted by user and time, belongs to:
    a run lasts `within_us` from its first row.
    """
    for row in range(len(users)):
        goes_on = (
            row > 0
            and users[row] == users[row - 1]
            and timestamps_us[row] - first[row - 1] <= within_us
        )
        first[row] = first[row - 1] if goes_on else timestamps_us[row]
