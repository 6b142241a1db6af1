"""The last step from the net's seconds to seconds that are right on average: one factor, from
validation rows.

Bent curves (Platt's, isotonic) were tried, and took no more off the error than the factor does.
"""

from features.arrays import Float64

# Fewer rows say nothing of a factor.
LEAST_ROWS = 50


def calibration_factor(predicted: Float64, seconds: Float64, weight: Float64) -> float:
    """True over predicted seconds of validation rows [n]; 1 where there are too few, or none of
    them watched.
    """
    total = float((predicted * weight).sum())
    if len(seconds) < LEAST_ROWS or not total:
        return 1.0
    return float((seconds * weight).sum()) / total or 1.0
