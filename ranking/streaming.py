"""Calibration that goes on after the weights freeze: what became of earlier impressions scales the later ones.

Days differ in how long viewers stay, and not alike for short and for long items. Expected seconds are multiplied by
true over predicted seconds of the earlier impressions of like length, which count half as much every few hours.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.instants import HOUR, SECOND
from ranking.slices import by_duration

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

# The factor is drawn to 1 as by so many impressions.
PRIOR_ROWS = 100.0
LEAST_SECONDS = 1e-9


def streamed(predicted: Float64, seconds: Float64, instants: Int64, durations: Float64, hours: float) -> Float64:
    """Expected seconds [n] of impressions in any order, scaled by what was known strictly before each instant.

    `seconds` are the true ones, `durations` the items' lengths, NaN unknown, `hours` the half-life of what is known.
    What became of an impression counts from an hour after it, a longer watch from its end: by then all are over, and
    those that were not watched do not come in before those that were.
    """
    factors = np.ones(len(predicted))
    for alike in by_duration(durations).values():
        rows = np.flatnonzero(alike)
        factors[rows] = _factors(predicted[rows], seconds[rows], instants[rows], hours)
    return predicted * factors


def _factors(predicted: Float64, seconds: Float64, instants: Int64, hours: float) -> Float64:
    """Of impressions [n] of like length."""
    outcomes = instants + np.maximum(np.ceil(seconds * SECOND).astype(np.int64), HOUR)
    order = np.argsort(outcomes, kind="stable")
    known_at = outcomes[order]
    before = np.searchsorted(known_at, instants, "left")
    lately = before - np.searchsorted(known_at, instants - round(hours * HOUR), "left")
    true, due = (_decayed_mean(values[order], known_at, hours) for values in (seconds, predicted))
    ratios = true / np.maximum(due, LEAST_SECONDS)
    known = np.where(before > 0, np.append(ratios, 1.0)[np.maximum(before - 1, 0)], 1.0)
    return np.asarray(1 + lately / (lately + PRIOR_ROWS) * (known - 1))


def _decayed_mean(values: Float64, instants: Int64, hours: float) -> Float64:
    """Mean of the values up to each one, [n], each half as heavy as one so many hours later."""
    # The stubs of pandas know no half-life that is a time.
    half_life: Any = pd.Timedelta(hours=hours)
    means = pd.Series(values).ewm(halflife=half_life, times=instants.astype("datetime64[us]")).mean()
    return np.asarray(means.to_numpy(np.float64))
