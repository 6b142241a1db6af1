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
# What a bent curve must take off the loss to be worth it, and by how many standard errors: noise alone takes some.
WORTH, ERRORS = 1e-3, 2.0
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


def exact_losses(seconds: Float64, predicted: Float64) -> Float64:
    """Cross-entropy of T against the odds `predicted` by row: (1 + T) log(1 + E) - T log E, [n]."""
    odds = np.maximum(predicted, SMALLEST)
    return np.asarray((1 + seconds) * np.log1p(odds) - seconds * np.log(odds))


def scaled(predicted: Float64, seconds: Float64, weight: Float64) -> Calibration:
    """One factor: true over predicted seconds."""
    total = float((predicted * weight).sum())
    ratio = float((seconds * weight).sum()) / total if total else 1.0
    return Calibration(np.array([1.0]), np.array([ratio or 1.0]))


def platt(predicted: Float64, seconds: Float64, weight: Float64) -> Calibration:
    """exp(a + b log E): logistic regression of T on the log odds (Platt 1999), by Newton's method from the scale.

    The scale itself where the curve would not rise, or would not fit better: what predictions do not tell bends
    nothing, and on few rows the method runs away.
    """
    scale = scaled(predicted, seconds, weight)
    x = np.log(np.maximum(predicted, SMALLEST))
    design, coefficients = np.stack([np.ones_like(x), x], axis=1), np.array([np.log(scale.calibrated[0]), 1.0])
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ coefficients, -30, 30)))
        gradient = design.T @ (weight * (seconds - (1 + seconds) * chance))
        curvature = (design * (weight * (1 + seconds) * chance * (1 - chance))[:, None]).T @ design
        coefficients = coefficients + np.linalg.solve(curvature + SMALLEST * np.eye(2), gradient)
    log_knots = np.linspace(x.min(), x.max(), KNOTS)
    with np.errstate(over="ignore", invalid="ignore"):
        curve = Calibration(np.exp(log_knots), np.exp(coefficients[0] + coefficients[1] * log_knots))
        bent, plain = ((exact_losses(seconds, fit.applied(predicted)) * weight).sum() for fit in (curve, scale))
    return curve if coefficients[1] > 0 and bent <= plain else scale


def isotonic(predicted: Float64, seconds: Float64, weight: Float64) -> Calibration:
    """The best rising curve; on its level stretches it still rises a little, so that no two rows become tied."""
    curve = IsotonicRegression().fit(predicted, seconds, sample_weight=weight)
    knots, levels = curve.X_thresholds_, np.maximum(curve.y_thresholds_, SMALLEST)
    kept = knots > SMALLEST
    return Calibration(knots[kept], levels[kept] + RISE * knots[kept]) if kept.any() else AS_IT_IS


FITS: dict[str, Fit] = {"scale": scaled, "platt": platt, "isotonic": isotonic}


def calibration_of(method: str, predicted: Float64, seconds: Float64, weight: Float64) -> tuple[str, Calibration]:
    """The calibration fitted on validation rows [n] in their order of time, and its name.

    `best` is the scale, unless a bent curve helps measurably: fitted on the earlier half it must take `WORTH` off the
    loss of the later half, and twice the standard error of that. The one that takes most is then fitted on all rows.
    Too few rows, or none watched, and nothing is calibrated.
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
    losses = {
        name: exact_losses(seconds[late], fit(predicted[early], seconds[early], weight[early]).applied(predicted[late]))
        for name, fit in FITS.items()
    }
    gains = {name: _gain(losses["scale"], losses[name], weight[late]) for name in ("platt", "isotonic")}
    bent = max(gains, key=gains.__getitem__)
    return bent if gains[bent] > 0 else "scale"


def _gain(plain: Float64, bent: Float64, weight: Float64) -> float:
    """What the bent curve takes off the mean loss of rows [n]; 0 where that is too little, or may be noise."""
    gains = plain - bent
    gain = float(np.average(gains, weights=weight))
    error = float(np.sqrt(((weight * (gains - gain)) ** 2).sum()) / weight.sum())
    return gain if gain > max(ERRORS * error, WORTH * float(np.average(plain, weights=weight))) else 0.0
