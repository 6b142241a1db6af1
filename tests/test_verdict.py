"""Whether lists are fit to serve: margins against a bootstrap, and what the sentence says."""

import numpy as np
import pytest

from funnel.evaluation.list_metrics import ratio_error
from funnel.evaluation.verdict import Margin, sentence_of


def test_the_error_of_a_margin_is_that_of_a_bootstrap_of_users():
    rng = np.random.default_rng(0)
    seconds = rng.exponential(100, 300)
    surplus = rng.normal(0.1, 0.5, 300) * seconds
    draws = rng.integers(0, 300, (4_000, 300))
    shares = surplus[draws].sum(axis=1) / seconds[draws].sum(axis=1)
    assert ratio_error(surplus, seconds) == pytest.approx(shares.std(), rel=0.1)


def margins(ahead_of_recall, ahead_of_popularity, error=0.01):
    return [
        Margin("watch_seconds_share@10", "recall", 0.2, 0.2 - ahead_of_recall, error),
        Margin("watch_seconds_share@10", "popularity", 0.2, 0.2 - ahead_of_popularity, error),
    ]


def test_lists_are_fit_where_no_rival_is_ahead_by_more_than_a_standard_error():
    text = sentence_of(margins(-0.005, 0.1), "watches")
    assert text.startswith("Fit to serve")
    assert "recall's order" in text
    assert "20.00% of the test window's watches against 20.50%" in text
    assert "-0.50 +- 1.00 percentage points" in text


def test_one_rival_that_is_clearly_ahead_makes_lists_unfit_and_is_named():
    text = sentence_of(margins(0.05, -0.02), "watch time")
    assert text.startswith("Not fit to serve: behind popularity")
    assert "-2.00 +- 1.00 percentage points" in text


def test_an_off_policy_margin_is_in_seconds():
    text = sentence_of([Margin("seconds_per_impression", "ease", 30.0, 20.0, 1.5)], "watch time")
    assert "EASE: 30.00 seconds an impression (off-policy) against 20.00, +10.00 +- 1.50" in text
