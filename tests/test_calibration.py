"""The last step: right on average, monotone, kept as a table, and only taken where it lowers the loss."""

import numpy as np
import pytest

from ranking.calibration import FITS, WORTH, Calibration, calibration_of, exact_losses, isotonic, platt, scaled

ROWS = 20_000


def world(bend, seed=0, n=ROWS):
    """Predictions, and seconds whose expectation is `bend` of the prediction."""
    rng = np.random.default_rng(seed)
    predicted = np.exp(rng.normal(2, 1, n))
    clicked = rng.random(n) < 0.4
    return predicted, np.where(clicked, bend(predicted) / 0.4 * rng.gamma(3, 1 / 3, n), 0.0), np.ones(n)


BENDS = {"none": lambda e: e, "scale": lambda e: 1.3 * e, "platt": lambda e: 2 * e**0.7}


@pytest.mark.parametrize("name", BENDS)
def test_each_curve_is_learnt_back(name):
    predicted, seconds, weight = world(BENDS[name])
    fit = FITS["platt" if name == "platt" else "scale"]
    asked = np.quantile(predicted, [0.05, 0.3, 0.6, 0.95])
    np.testing.assert_allclose(fit(predicted, seconds, weight).applied(asked), BENDS[name](asked), rtol=0.1)


def test_an_isotonic_curve_rises_and_meets_the_means():
    predicted, seconds, weight = world(lambda e: np.where(e < 8, 2.0, 30.0))
    curve = isotonic(predicted, seconds, weight)
    asked = np.sort(np.append(np.quantile(predicted, np.linspace(0, 1, 200)), [1e-9, 1e9]))
    assert (np.diff(curve.applied(asked)) >= 0).all()
    for low, high in ((0, 7), (9, 1e9)):
        some = (predicted > low) & (predicted < high)
        assert curve.applied(predicted[some]).mean() == pytest.approx(seconds[some].mean(), rel=0.05)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_every_curve_makes_the_total_right_and_returns_from_its_table(fit):
    predicted, seconds, weight = world(BENDS["platt"])
    curve = fit(predicted, seconds, weight)
    assert curve.applied(predicted).sum() == pytest.approx(seconds.sum(), rel=0.03)
    back = Calibration.of_table(curve.table)
    np.testing.assert_array_equal(back.applied(predicted), curve.applied(predicted))


def test_predictions_that_tell_nothing_are_not_turned_round():
    """Of noise every other Platt curve would fall, and reverse the order."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        predicted, seconds = np.exp(rng.normal(2, 1, 1_000)), rng.exponential(20, 1_000)
        found = platt(predicted, seconds, np.ones(1_000)).applied(np.sort(predicted))
        assert (np.diff(found) > 0).all()


def test_on_few_rows_a_curve_is_never_worse_than_the_scale():
    """Newton's method runs away on a few of these, to knots of 0 and infinity."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        predicted, weight = np.exp(rng.normal(2, 2, 50)), np.ones(50)
        seconds = np.where(rng.random(50) < 0.3, rng.exponential(60, 50), 0.0)
        curve, scale = (fit(predicted, seconds, weight) for fit in (platt, scaled))
        assert np.isfinite(curve.calibrated).all()
        losses = [exact_losses(seconds, each.applied(predicted)).sum() for each in (curve, scale)]
        assert losses[0] <= losses[1]


@pytest.mark.parametrize("times", [0.01, 0.1, 10, 100])
def test_predictions_of_another_size_are_put_right(times):
    predicted, seconds, weight = world(BENDS["platt"])
    found = platt(times * predicted, seconds, weight).applied(times * predicted)
    np.testing.assert_allclose(found, platt(predicted, seconds, weight).applied(predicted), rtol=1e-3)


def test_weights_count_as_so_many_rows():
    predicted, seconds, _ = world(BENDS["platt"], n=400)
    twice = np.repeat(np.arange(400), 1 + np.arange(400) % 3)
    weight = 1.0 + np.arange(400) % 3
    for fit in FITS.values():
        np.testing.assert_allclose(
            fit(predicted, seconds, weight).applied(predicted),
            fit(predicted[twice], seconds[twice], np.ones(len(twice))).applied(predicted),
            rtol=1e-6,
        )


def test_the_loss_is_lowest_at_the_mean():
    seconds = world(lambda e: 20 + 0 * e)[1]
    levels = seconds.mean() * np.array([0.8, 0.95, 1, 1.05, 1.2])
    losses = [exact_losses(seconds, np.full(ROWS, level)).mean() for level in levels]
    assert np.argmin(losses) == 2


def test_best_bends_what_is_bent_and_only_that():
    assert calibration_of("best", *world(BENDS["platt"]))[0] in ("platt", "isotonic")
    assert calibration_of("best", *world(BENDS["scale"]))[0] == "scale"
    assert calibration_of("best", *world(BENDS["none"], seed=3))[0] == "scale"
    assert 0 < WORTH < 0.01


def test_noise_bends_nothing():
    """Some curve takes a little off the loss of few rows by luck in every other world; by two errors it seldom does."""
    chosen = [calibration_of("best", *world(BENDS["scale"], seed, n=600))[0] for seed in range(100)]
    assert chosen.count("scale") >= 90


def test_a_named_method_is_taken_and_none_changes_nothing():
    predicted, seconds, weight = world(BENDS["platt"])
    name, curve = calibration_of("platt", predicted, seconds, weight)
    assert name == "platt"
    np.testing.assert_array_equal(curve.calibrated, platt(predicted, seconds, weight).calibrated)
    name, curve = calibration_of("none", predicted, seconds, weight)
    np.testing.assert_array_equal(curve.applied(predicted), predicted)


@pytest.mark.parametrize(
    ("predicted", "seconds"),
    [(np.ones(10), np.ones(10)), (np.arange(1.0, 101), np.zeros(100)), (np.ones(100), np.ones(100))],
    ids=["few rows", "nothing watched", "all alike"],
)
def test_where_nothing_can_be_learnt_nothing_is_calibrated(predicted, seconds):
    for method in ("best", "scale", "platt", "isotonic"):
        assert calibration_of(method, predicted, seconds, np.ones(len(seconds)))[0] == "none"


def test_no_predicted_seconds_have_no_scale():
    assert scaled(np.zeros(3), np.ones(3), np.ones(3)).applied(np.zeros(3)).tolist() == [0, 0, 0]
