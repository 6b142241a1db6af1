"""The last step: seconds that are right on average, by one factor."""

import numpy as np
import pytest

from ranking.calibration import LEAST_ROWS, calibration_factor

ROWS = 20_000


def world(factor, seed=0, n=ROWS):
    """Predictions, and seconds whose expectation is `factor` times the prediction."""
    rng = np.random.default_rng(seed)
    predicted = np.exp(rng.normal(2, 1, n))
    clicked = rng.random(n) < 0.4
    return predicted, np.where(clicked, factor * predicted / 0.4 * rng.gamma(3, 1 / 3, n), 0.0)


@pytest.mark.parametrize("factor", [0.1, 0.8, 1.0, 1.3, 100.0])
def test_the_factor_is_learnt_back_and_makes_the_total_right(factor):
    predicted, seconds = world(factor)
    found = calibration_factor(predicted, seconds, np.ones(ROWS))
    assert found == pytest.approx(factor, rel=0.05)
    assert (found * predicted).sum() == pytest.approx(seconds.sum())


def test_weights_count_as_so_many_rows():
    predicted, seconds = world(1.3, n=400)
    times = 1 + np.arange(400) % 3
    repeated = (np.repeat(column, times) for column in (predicted, seconds))
    found = calibration_factor(predicted, seconds, times.astype(np.float64))
    assert found == pytest.approx(calibration_factor(*repeated, np.ones(times.sum())))


@pytest.mark.parametrize(
    ("predicted", "seconds"),
    [
        (np.ones(LEAST_ROWS - 1), np.full(LEAST_ROWS - 1, 2.0)),
        (np.arange(1.0, 101), np.zeros(100)),
        (np.zeros(100), np.ones(100)),
    ],
    ids=["few rows", "nothing watched", "nothing predicted"],
)
def test_where_nothing_can_be_learnt_nothing_is_calibrated(predicted, seconds):
    assert calibration_factor(predicted, seconds, np.ones(len(seconds))) == 1
