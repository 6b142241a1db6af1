"""Calibration that goes on as impressions stream, against a loop over the earlier ones."""

import numpy as np
import pytest

from ranking.streaming import HOUR, PRIOR_ROWS, streamed

HALF_LIFE = 6.0


def stream(n=400, seed=0):
    """Predictions, seconds, instants (many of them shared) and lengths of five kinds, in no order."""
    rng = np.random.default_rng(seed)
    predicted = rng.exponential(20, n)
    seconds = np.where(rng.random(n) < 0.4, predicted * rng.exponential(3, n), 0.0)
    instants = rng.integers(0, 96, n) * HOUR // 2
    return predicted, seconds, instants, rng.choice([np.nan, 5, 15, 30, 90], n)


def by_a_loop(predicted, seconds, instants, durations):
    scaled = []
    for row in range(len(predicted)):
        alike = (durations == durations[row]) | (np.isnan(durations) & np.isnan(durations[row]))
        known_at = instants + np.maximum(np.ceil(seconds * 1e6), HOUR)
        before = alike & (known_at < instants[row])
        lately = before & (known_at >= instants[row] - HALF_LIFE * HOUR)
        if not before.any():
            scaled.append(predicted[row])
            continue
        weights = 0.5 ** ((instants[row] - known_at[before]) / (HALF_LIFE * HOUR))
        ratio = (weights * seconds[before]).sum() / (weights * predicted[before]).sum()
        scaled.append(predicted[row] * (1 + lately.sum() / (lately.sum() + PRIOR_ROWS) * (ratio - 1)))
    return np.array(scaled)


def test_the_factor_is_true_over_predicted_of_the_earlier_rows_of_like_length():
    found = streamed(*stream(), HALF_LIFE)
    np.testing.assert_allclose(found, by_a_loop(*stream()), rtol=1e-9)
    assert not np.allclose(found, stream()[0])


def test_what_comes_at_the_same_instant_or_later_changes_nothing():
    predicted, seconds, instants, durations = stream()
    edge = np.median(instants)
    other = np.where(instants >= edge, 1e4, seconds)
    one, two = (streamed(predicted, given, instants, durations, HALF_LIFE) for given in (seconds, other))
    np.testing.assert_array_equal(one[instants <= edge], two[instants <= edge])
    assert not np.allclose(one, two)


def test_a_watch_tells_nothing_before_it_is_over():
    """Two impressions an hour and a half apart: the first is watched for half an hour, then for two."""
    first_known, first_going_on = (
        streamed(
            np.full(2, 10.0), np.array([hours * 3_600, 0.0]), np.array([0, HOUR * 3 // 2]), np.full(2, 5.0), HALF_LIFE
        )
        for hours in (0.5, 2.0)
    )
    assert first_known[1] > 10
    assert first_going_on[1] == 10


def test_what_was_not_watched_does_not_come_in_before_what_was():
    """Right predictions of watches of half an hour stay right, though every other impression ends at once."""
    rng = np.random.default_rng(2)
    n = 20_000
    seconds = np.where(rng.random(n) < 0.5, 1_800.0, 0.0)
    found = streamed(np.full(n, 900.0), seconds, np.sort(rng.integers(0, 24 * HOUR, n)), np.full(n, 5.0), HALF_LIFE)
    assert found.mean() == pytest.approx(seconds.mean(), rel=0.01)


def test_the_first_rows_and_none_at_all_stay_as_they_are():
    predicted, seconds, instants, durations = stream()
    at_once = streamed(predicted, seconds, np.zeros_like(instants), durations, HALF_LIFE)
    np.testing.assert_array_equal(at_once, predicted)
    assert streamed(*(values[:0] for values in stream()), HALF_LIFE).shape == (0,)


@pytest.mark.parametrize("level", [0.5, 1.0, 2.0])
def test_a_level_that_shifts_for_one_length_is_caught_up_with(level):
    rng = np.random.default_rng(1)
    n = 40_000
    predicted, instants = rng.exponential(20, n), np.sort(rng.integers(0, 96 * HOUR, n))
    durations = rng.choice([5.0, 90.0], n)
    short, late = durations < 10, instants > 24 * HOUR
    seconds = predicted * rng.exponential(1, n) * np.where(short, level, 1.0)
    found = streamed(predicted, seconds, instants, durations, HALF_LIFE)
    for alike in (short, ~short):
        assert found[alike & late].sum() == pytest.approx(seconds[alike & late].sum(), rel=0.1)
