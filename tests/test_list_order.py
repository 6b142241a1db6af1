"""The order of final lists: seconds and chances in logarithms, and what tells two orders apart."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnel.steps.list_validation import OrderTrial, first_within_an_error
from funnel.steps.ordering import rank_chances
from ranking.list_order import LEAST_SECONDS, Gains, ListOrder, log_of

SECONDS = np.array([[30.0, 4.0, 0.0, -np.inf]])
LOG_CHANCES = np.log([[0.1, 0.8, 0.05, 1.0]])


@pytest.mark.parametrize(("weight", "first"), [(0.0, 0), (0.25, 0), (2.0, 1)])
def test_lambda_trades_seconds_for_chance(weight, first):
    scores = ListOrder(chance_weight=weight).scores(log_of(SECONDS), LOG_CHANCES)
    assert scores.argmax() == first
    expected = np.log(SECONDS[0, :2]) + weight * LOG_CHANCES[0, :2]
    np.testing.assert_allclose(scores[0, :2], expected)


def test_an_item_that_is_not_there_comes_last_whatever_its_chance():
    for order in (ListOrder(), ListOrder(seconds_weight=0), ListOrder(chance_weight=0)):
        assert order.scores(log_of(SECONDS), LOG_CHANCES)[0, 3] == -np.inf
        assert np.isfinite(order.scores(log_of(SECONDS), LOG_CHANCES)[0, :3]).all()
    assert log_of(SECONDS)[0, 2] == pytest.approx(np.log(LEAST_SECONDS))


def test_lambda_0_is_the_papers_order_and_no_seconds_is_recalls():
    assert ListOrder(chance_weight=0).described == "seconds"
    assert ListOrder(seconds_weight=0).described == "recall's order"
    assert ListOrder(seconds_weight=0, chance_of="popular").described == "popular alone"
    assert (
        ListOrder(chance_weight=0.5, depth=100).described == "seconds x chance^0.5 of the first 100"
    )


def test_a_generators_ranks_are_chances_that_fall_and_what_it_did_not_name_follows_in_its_order():
    ranks = np.array([[2, 0, 1, 0]], np.uint16)
    order = np.argsort(-rank_chances(ranks), axis=1)
    assert order.tolist() == [[2, 0, 1, 3]]
    assert rank_chances(np.zeros((1, 3), np.uint16)).argsort().tolist() == [[2, 1, 0]]


HELD = {10: 0.3, 50: 0.6}
USERS = np.repeat(np.arange(400), 3)


def gains(seed, shift=0.0, items=None):
    """What lists hold of three watches of each of 400 users, all of different items unless said."""
    rng = np.random.default_rng(seed)
    held = {
        k: np.where(rng.random(len(USERS)) < share, rng.exponential(20 + shift, len(USERS)), 0)
        for k, share in HELD.items()
    }
    return Gains(USERS, np.arange(len(USERS)) if items is None else items, held)


def sum_of(first, second):
    held = {k: first.by_length[k] + second.by_length[k] for k in HELD}
    return replace(first, by_length=held)


def taken(gains, rows):
    return Gains(
        gains.users[rows], gains.items[rows], {k: v[rows] for k, v in gains.by_length.items()}
    )


@pytest.mark.parametrize("clustered", ["users", "items"])
def test_the_standard_error_is_that_of_a_bootstrap_of_what_watches_have_in_common(clustered):
    """Of users where each watch has an item of its own, of items where each has its own user."""
    mine, other = gains(1), gains(2, shift=5.0)
    both = sum_of(other, mine)
    if clustered == "items":
        mine, both = (replace(g, users=g.items, items=g.users) for g in (mine, both))
    rng, differences = np.random.default_rng(3), []
    for _ in range(2_000):
        drawn = rng.integers(0, 400, 400)
        rows = (3 * drawn[:, None] + np.arange(3)).ravel()
        differences.append(taken(both, rows).log_total - taken(mine, rows).log_total)
    assert both.standard_error(mine) == pytest.approx(np.std(differences), rel=0.1)
    assert mine.standard_error(mine) == 0


def test_a_lead_that_one_item_decides_is_no_lead():
    """Every user watched the day's one film and two others; only the film tells the lists apart."""
    items = np.where(np.arange(len(USERS)) % 3 == 0, 0, 1 + np.arange(len(USERS)))
    without = gains(1, items=items)
    held = {k: np.where(items == 0, 20.0, v) for k, v in without.by_length.items()}
    with_film = replace(without, by_length=held)
    lead = with_film.log_total - without.log_total
    one_by_one = np.arange(len(USERS))
    alike, theirs = (replace(g, items=one_by_one) for g in (with_film, without))
    assert lead > 3 * alike.standard_error(theirs)
    assert lead < 2 * with_film.standard_error(without)


def test_lists_that_hold_nothing_are_worth_least_and_have_no_error():
    nothing = replace(gains(1), by_length={k: np.zeros(len(USERS)) for k in HELD})
    assert nothing.log_total == -np.inf
    assert np.isnan(nothing.standard_error(gains(1)))


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1)), min_size=1, max_size=6))
def test_the_preferred_order_is_left_only_for_what_is_clearly_better(behind):
    least = min(value for value, _ in behind)
    trials = [OrderTrial(ListOrder(), -value, {}, value - least, error) for value, error in behind]
    chosen = first_within_an_error(trials)
    assert trials[chosen].behind <= trials[chosen].error
    assert all(trial.behind > trial.error for trial in trials[:chosen])


def test_what_holds_clearly_less_than_recalls_order_at_any_length_does_harm():
    recalls = gains(1)
    held = recalls.by_length
    better = replace(recalls, by_length={10: held[10] * 1.5, 50: held[50]})
    assert not better.harms(recalls)
    some = np.arange(len(USERS)) % 5 > 0
    assert replace(recalls, by_length={10: held[10] * 1.5, 50: held[50] * some}).harms(recalls)
    noisy = {k: v * held[k].sum() / v.sum() * 0.999 for k, v in gains(5).by_length.items()}
    assert not replace(recalls, by_length=noisy).harms(recalls)


def test_an_order_that_does_harm_is_not_chosen():
    harmful = OrderTrial(ListOrder(), 2.0, {}, -1.0, 0.1, harmless=False)
    assert (
        first_within_an_error([harmful, OrderTrial(ListOrder(chance_weight=0), 1.0, {}, 0.0, 0.0)])
        == 1
    )


def test_a_trial_that_is_worth_nothing_is_not_chosen():
    nothing = OrderTrial(ListOrder(), -np.inf, {}, np.inf, np.nan)
    assert (
        first_within_an_error([nothing, OrderTrial(ListOrder(chance_weight=0), 1.0, {}, 0.0, 0.0)])
        == 1
    )
