"""What the net is asked for has its optimum where it should, at click rates and thinnings far
apart.
"""

import numpy as np
import pytest

from ranking.examples import thinned
from ranking.losses import (
    TargetScale,
    expected,
    heads_of,
    length_scale,
    target_scale_of,
    targets_of,
)

ROWS = 40_000
OBJECTIVES = ("exact", "paper", "click", "multi_task")


def world(rate, mean=40.0, n=ROWS, seed=0):
    """Rows of one kind whose clicks are `rate` of them, and whose clicked seconds have a mean."""
    rng = np.random.default_rng(seed)
    clicked = rng.permutation(n) < rate * n
    return clicked, np.where(clicked, mean * rng.gamma(2, 0.5, n), 0.0)


def optimum(labels, weights):
    """The logit at which weighted cross-entropy of one intercept has its minimum."""
    return np.log((weights * labels).sum(axis=0) / (weights * (1 - labels)).sum(axis=0))


def served(objective, clicked, seconds, weight):
    labels, weights = targets_of(objective, clicked, seconds)
    logits = optimum(labels, weights * weight[:, None])
    return expected(objective, logits[None], target_scale_of(objective, clicked, seconds))[0]


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("kept", [0.1, 0.3, 1.0])
def test_exact_odds_are_expected_seconds_and_the_papers_leave_the_clicked_rows_out(rate, kept):
    clicked, seconds = world(rate)
    unclicked = int((~clicked).sum())
    rows, weight = thinned(
        clicked, np.zeros(ROWS, np.int32), round(kept * unclicked), np.random.default_rng(1)
    )
    assert (len(rows) < ROWS) == (kept < 1)
    found = {
        name: served(name, clicked[rows], seconds[rows], weight)
        for name in ("exact", "paper", "multi_task")
    }
    mean = seconds.mean()
    assert found["exact"] == pytest.approx(mean, rel=0.05)
    assert found["multi_task"] == pytest.approx(mean, rel=0.05)
    assert found["paper"] == pytest.approx(mean / (1 - rate), rel=0.05)


@pytest.mark.parametrize("objective", ["exact", "multi_task"])
def test_odds_of_lengths_times_the_length_are_expected_seconds(objective):
    """Long items are watched longer but less of them; of each kind the odds count its own
    lengths.
    """
    rng = np.random.default_rng(3)
    for length, rate, share in ((15.0, 0.4, 0.9), (3_000.0, 0.05, 0.1), (np.nan, 0.2, 0.5)):
        clicked = rng.random(ROWS) < rate
        seconds = np.where(
            clicked, (60.0 if np.isnan(length) else length) * share * rng.uniform(0, 2, ROWS), 0.0
        )
        target_scale = length_scale(clicked, seconds, np.full(ROWS, length))
        measure = target_scale.measures(np.array([length]))[0]
        found = served(objective, clicked, seconds / measure, np.ones(ROWS)) * measure
        assert found == pytest.approx(seconds.mean(), rel=0.01)


def test_an_unknown_length_counts_what_such_clicks_last_and_none_less_than_a_second():
    clicked, lengths = (
        np.array([True, True, True, False]),
        np.array([100.0, np.nan, np.nan, np.nan]),
    )
    target_scale = length_scale(clicked, np.array([50.0, 10.0, 30.0, 0.0]), lengths)
    assert target_scale.measures(np.array([100.0, np.nan, 0.2])).tolist() == [100, 20, 1]
    known = length_scale(clicked[:1], np.array([50.0]), lengths[:1])
    assert known.measures(np.array([np.nan])).tolist() == [50]
    nothing = length_scale(~clicked[:2], np.zeros(2), lengths[:2])
    assert nothing.measures(np.array([np.nan, 7.0])).tolist() == [1, 7]


def test_without_their_weights_thinned_rows_promise_too_much():
    """The fault that the weights 1 / r are there for: odds of p + r (1 - p) instead of one."""
    clicked, seconds = world(0.3)
    rows, _ = thinned(clicked, np.zeros(ROWS, np.int32), 2_800, np.random.default_rng(1))
    assert served("exact", clicked[rows], seconds[rows], np.ones(len(rows))) > 2 * seconds.mean()


def test_targets_of_single_rows_are_the_documented_ones():
    clicked, seconds = np.array([True, False]), np.array([9.0, 0.0])
    wanted = {
        "paper": ([[1], [0]], [[9], [1]]),
        "exact": ([[0.9], [0]], [[10], [1]]),
        "click": ([[1], [0]], [[1], [1]]),
        "multi_task": ([[1, 0.9], [0, 0]], [[1, 10], [1, 0]]),
    }
    for objective, (labels, weights) in wanted.items():
        found = targets_of(objective, clicked, seconds)
        np.testing.assert_allclose(found[0], labels, err_msg=objective)
        np.testing.assert_allclose(found[1], weights, err_msg=objective)


def test_click_seconds_are_the_chance_times_the_mean_of_a_click():
    clicked, seconds = world(0.25)
    assert served("click", clicked, seconds, np.ones(ROWS)) == pytest.approx(
        seconds.mean(), rel=1e-6
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_more_of_every_logit_is_never_fewer_seconds(objective):
    clicked, seconds = world(0.3, n=500)
    target_scale = target_scale_of(objective, clicked, seconds)
    logits = np.repeat(np.linspace(-4, 40, 60)[:, None], heads_of(objective), axis=1)
    read = expected(objective, logits, target_scale)
    assert (np.diff(read) >= 0).all()
    assert np.isfinite(read).all()
    assert read.min() >= 0


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("clicks", [0, 4])
def test_days_on_which_all_or_nothing_is_clicked_have_finite_targets(objective, clicks):
    clicked = np.arange(4) < clicks
    labels, weights = targets_of(objective, clicked, np.where(clicked, 3.0, 0.0))
    assert np.isfinite(labels).all()
    assert ((labels >= 0) & (labels <= 1)).all()
    assert (weights >= 0).all()


def test_an_exact_yardstick_measures_in_seconds():
    assert target_scale_of("exact", *world(0.3)) == TargetScale(1.0)
