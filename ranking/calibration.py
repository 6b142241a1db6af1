"""The last, monotone step from the net's seconds to seconds that are right on average, where it measurably helps.

Fitted on the validation rows by the loss of the exact objective, whose minimum is the mean of T. Every calibration is
a table of knots (predicted, calibrated), read by linear interpolation, so that all of them are kept alike.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.isotonic import IsotonicRegression

Float64 = npt.NDArray[np.float64]

KNOTS = 64
SMALLEST, RISE = 1e-6, 1e-4
NEWTON_STEPS = 25
# What a bent curve must take off the loss, of which noise alone takes some.
WORTH = 1e-3
# Less seconds than this many rows of the mean carry say nothing of a scale.
LEAST_ROWS = 50


@dataclass(frozen=True)
class Calibration:
    """Knots of the curve, ascending; beyond the last (before the first) the seconds keep its ratio."""

    predicted: Float64
    calibrated: Float64

    def applied(self, seconds: Float64) -> Float64:
        """Calibrated seconds [n], in the order of the predictions."""
        low, high = self.predicted[0], self.predicted[-1]
        inside = np.interp(seconds, self.predicted, self.calibrated)
        below, above = self.calibrated[0] / low, self.calibrated[-1] / high
        return np.where(seconds < low, seconds * below, np.where(seconds > high, seconds * above, inside))

    @property
    def table(self) -> pd.DataFrame:
        return pd.DataFrame({"predicted": self.predicted, "calibrated": self.calibrated})

    @classmethod
    def of_table(cls, table: pd.DataFrame) -> "Calibration":
        return cls(table["predicted"].to_numpy(np.float64), table["calibrated"].to_numpy(np.float64))


AS_IT_IS = Calibration(np.array([1.0]), np.array([1.0]))
Fit = Callable[[Float64, Float64, Float64], Calibration]


def exact_loss(seconds: Float64, predicted: Float64, weight: Float64) -> float:
    """Mean weighted cross-entropy of T against the odds `predicted`: (1 + T) log(1 + E) - T log E."""
    odds = np.maximum(predicted, SMALLEST)
    losses = (1 + seconds) * np.log1p(odds) - seconds * np.log(odds)
    return float(np.average(losses, weights=weight))


def scaled(predicted: Float64, seconds: Float64, weight: Float64) -> Calibration:
    """One factor: true over predicted seconds."""
    total = float((predicted * weight).sum())
    ratio = float((seconds * weight).sum()) / total if total else 1.0
    return Calibration(np.array([1.0]), np.array([ratio or 1.0]))


def platt(predicted: Float64, seconds: Float64, weight: Float64) -> Calibration:
    """exp(a + b log E): logistic regression of T on the log odds (Platt 1999), by Newton's method."""
    x = np.log(np.maximum(predicted, SMALLEST))
    design, coefficients = np.stack([np.ones_like(x), x], axis=1), np.array([0.0, 1.0])
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ coefficients, -30, 30)))
        gradient = design.T @ (weight * (seconds - (1 + seconds) * chance))
        curvature = (design * (weight * (1 + seconds) * chance * (1 - chance))[:, None]).T @ design
        coefficients = coefficients + np.linalg.solve(curvature + SMALLEST * np.eye(2), gradient)
    knots = np.exp(np.linspace(x.min(), x.max(), KNOTS))
    return Calibration(knots, np.exp(coefficients[0] + coefficients[1] * np.log(knots)))


def isotonic(predicted: Float64, seconds: Float64, weight: Float64) -> Calibration:
    """The best rising curve; on its level stretches it still rises a little, so that no two rows become tied."""
    curve = IsotonicRegression().fit(predicted, seconds, sample_weight=weight)
    knots, levels = curve.X_thresholds_, np.maximum(curve.y_thresholds_, SMALLEST)
    kept = knots > SMALLEST
    return Calibration(knots[kept], levels[kept] + RISE * knots[kept]) if kept.any() else AS_IT_IS


FITS: dict[str, Fit] = {"scale": scaled, "platt": platt, "isotonic": isotonic}


def calibration_of(method: str, predicted: Float64, seconds: Float64, weight: Float64) -> tuple[str, Calibration]:
    """The calibration fitted on validation rows [n] in their order of time, and its name.

    `best` fits each on the earlier half and keeps what lowers the loss of the later half, the plainest unless a curve
    takes `WORTH` of it off; it is then fitted on all rows. Too few rows, or none watched, and nothing is calibrated.
    """
    if method == "none" or len(seconds) < LEAST_ROWS or not seconds.any() or len(np.unique(predicted)) < 2:
        return "none", AS_IT_IS
    name = _best(predicted, seconds, weight) if method == "best" else method
    return name, FITS[name](predicted, seconds, weight) if name != "none" else AS_IT_IS


def _best(predicted: Float64, seconds: Float64, weight: Float64) -> str:
    half = len(seconds) // 2
    early, late = slice(0, half), slice(half, None)
    if not seconds[early].any() or not seconds[late].any():
        return "none"
    losses = {"none": exact_loss(seconds[late], predicted[late], weight[late])}
    for name, fit in FITS.items():
        curve = fit(predicted[early], seconds[early], weight[early])
        losses[name] = exact_loss(seconds[late], curve.applied(predicted[late]), weight[late])
    plain = min(("none", "scale"), key=losses.__getitem__)
    bent = min(("platt", "isotonic"), key=losses.__getitem__)
    return bent if losses[bent] < (1 - WORTH) * losses[plain] else plain
