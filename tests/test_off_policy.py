"""Estimates of what lists would have earned, on bandits whose truth is known."""

import numpy as np
import pytest

from ranking.metrics import bootstrapped_ratios
from ranking.off_policy import carriers, effective_sample, estimate, evaluated, robust_terms
from ranking.policies import Logged, Policy, Slots, slots_of, softmax_of_places

USERS, ITEMS, K, A_USER = 150, 8, 4, 30


def bandit(seed, users=USERS, a_user=A_USER, noise=1.0):
    """A log of a skewed policy, lists of K of its items in the order of worth, the model off by
    `noise`, and the truth.

    E[seconds] is drawn by user and item; nothing is clicked twice a page, for each slot is a page
    of its own.
    """
    rng = np.random.default_rng(seed)
    worth = rng.gamma(1.0, 20.0, (users, ITEMS)) + 1
    logging = rng.dirichlet(np.full(ITEMS, 2.0), users) * 0.8 + 0.2 / ITEMS
    lists = np.argsort(-worth, axis=1)[:, :K]
    chances = softmax_of_places(lists + 1, 1.0)
    listed = np.take_along_axis(worth, lists, axis=1)
    policy = Policy(
        np.arange(users, dtype=np.int32), (lists + 1).astype(np.int32), chances, listed * noise
    )
    user = np.repeat(np.arange(users, dtype=np.int32), a_user)
    item = (np.cumsum(logging, axis=1)[user] < rng.random(len(user))[:, None]).sum(axis=1)
    seconds = worth[user, item] * rng.exponential(1.0, len(user))
    none = np.zeros(len(user))
    log = Logged(
        user,
        (item + 1).astype(np.int32),
        none > 0,
        seconds,
        logging[user, item],
        none.astype(np.int32),
    )
    return policy, log, float((chances * listed).sum(axis=1).mean())


def value(part, whole):
    return estimate(np.arange(len(part)), part, whole, np.random.default_rng(0)).value


def snips(weights, seconds):
    return value(weights * seconds, weights)


def doubly_robust(slots, seconds):
    return value(robust_terms(slots, seconds), np.ones(len(seconds)))


def test_both_estimates_come_to_the_truth_and_the_logs_mean_does_not():
    policy, log, truth = bandit(0, users=400, a_user=250)
    found = evaluated(policy, log, 100, np.random.default_rng(0))
    assert found.refusal is None
    assert found.snips.value == pytest.approx(truth, rel=0.03)
    assert found.doubly_robust.value == pytest.approx(truth, rel=0.03)
    assert found.logged.value == pytest.approx(log.seconds.mean())
    assert found.logged.value < 0.7 * truth
    assert found.mean_weight == pytest.approx(1, abs=0.02)
    for each in (found.snips, found.doubly_robust, found.logged):
        assert each.low < each.value < each.high
    assert found.snips.low > found.logged.high


def test_a_perfect_model_leaves_no_error_where_rewards_have_no_noise():
    policy, log, truth = bandit(1)
    worth = {(u, a): s for u, row, of in zip(policy.users, policy.items, policy.expected, strict=True)
             for a, s in zip(row, of, strict=True)}  # fmt: skip
    exact = np.array([worth.get((u, a), 5.0) for u, a in zip(log.users, log.items, strict=True)])
    slots = slots_of(policy, log)
    assert doubly_robust(slots, exact) == pytest.approx(truth, rel=1e-9)
    assert snips(slots.weights, exact) != pytest.approx(truth, rel=1e-3)


def test_a_model_that_is_wrong_or_nothing_costs_doubly_robust_no_bias():
    for noise in (0.0, 3.0):
        policy, log, truth = bandit(2, users=400, a_user=250, noise=noise)
        assert doubly_robust(slots_of(policy, log), log.seconds) == pytest.approx(truth, rel=0.05)


def test_propensities_that_are_wrong_cost_doubly_robust_nothing_where_the_model_is_right():
    policy, log, truth = bandit(3, users=400, a_user=250)
    wrong = Logged(
        log.users, log.items, log.clicked, log.seconds, np.full(len(log), 0.3), log.positions
    )
    assert doubly_robust(slots_of(policy, wrong), wrong.seconds) == pytest.approx(truth, rel=0.03)
    assert abs(slots_of(policy, wrong).weights.mean() - 1) > 0.1


def test_on_uniform_weights_snips_is_the_mean_and_every_row_counts():
    seconds = np.array([1.0, 5.0, 0.0, 10.0])
    assert snips(np.full(4, 0.7), seconds) == 4.0
    assert effective_sample(np.full(4, 0.7)) == pytest.approx(4)
    assert effective_sample(np.array([3.0, 1.0])) == pytest.approx(16 / 10)
    assert effective_sample(np.array([0.0, 0.0, 9.0])) == 1.0


def test_without_weight_or_slots_there_is_no_estimate():
    assert np.isnan(snips(np.zeros(2), np.ones(2)))
    assert effective_sample(np.zeros(3)) == 0
    none = np.zeros(0)
    assert np.isnan(doubly_robust(Slots(none, none, none, none > 0), none))


def test_the_terms_of_doubly_robust_are_the_models_draw_and_the_weighted_surprise():
    slots = Slots(
        np.array([2.0, 0.0]), np.array([10.0, 99.0]), np.array([7.0, 8.0]), np.array([True, True])
    )
    assert robust_terms(slots, np.array([13.0, 50.0])).tolist() == [13.0, 8.0]


def test_an_effective_sample_that_is_too_small_is_refused_and_says_so():
    policy, log, _ = bandit(4)
    sample = effective_sample(slots_of(policy, log).weights)
    below, above = (
        evaluated(policy, log, least, np.random.default_rng(0))
        for least in (sample - 1, sample + 1)
    )
    assert below.refusal is None
    assert above.refusal is not None
    assert above.refusal.startswith(f"the effective sample is {sample:.0f} of 4,500 slots")
    assert np.isnan([*above.snips, *above.doubly_robust]).all()
    assert above.effective_sample == below.effective_sample == sample
    assert above.logged == below.logged
    nowhere = evaluated(policy, log.take(np.arange(0)), 1, np.random.default_rng(0))
    assert nowhere.refusal is not None
    assert np.isnan(nowhere.mean_weight)


def test_a_slot_with_nothing_left_to_show_is_left_out():
    lists, users = np.array([[1, 2]], np.int32), np.ones(4, np.int32)
    policy = Policy(users[:1], lists, softmax_of_places(lists, 1.0), np.zeros((1, 2)))
    items, positions = np.array([1, 2, 3, 3], np.int32), np.array([1, 2, 3, 1], np.int32)
    log = Logged(
        users, items, np.zeros(4, bool), np.array([1.0, 2, 4, 8]), np.full(4, 0.5), positions
    )
    assert evaluated(policy, log, 1, np.random.default_rng(0)).slots == 3


def test_as_many_users_carry_the_variance_as_share_it():
    users = np.array([4, 4, 9, 9, 2])
    assert carriers(users, np.array([1.0, 1.0, -3.0, 1.0, 2.0])) == pytest.approx(3)
    assert carriers(users, np.array([1.0, -1.0, 0.0, 0.0, 2.0])) == pytest.approx(1)
    assert carriers(users, np.zeros(5)) == 0


def test_an_interval_is_wider_than_plain_percentiles_where_few_users_carry_it():
    rng = np.random.default_rng(0)
    for spread, most, least in ((0.1, 1.02, 1.0), (2.5, 3.0, 1.15)):
        users, part = np.arange(2_000), rng.lognormal(0, spread, 2_000)
        found = estimate(users, part, np.ones(2_000), np.random.default_rng(1))
        plain = np.quantile(
            bootstrapped_ratios(users, part, np.ones(2_000), np.random.default_rng(1)),
            [0.025, 0.975],
        )
        assert least < (found.high - found.low) / (plain[1] - plain[0]) < most
        assert found.low <= plain[0] < found.value < plain[1] <= found.high


def test_intervals_cover_the_truth_as_often_as_they_say():
    """95 % nominal over 100 bandits; users differ, so intervals of single slots would be too
    narrow.
    """
    inside = np.zeros(2)
    for seed in range(100):
        policy, log, truth = bandit(seed, noise=0.5)
        found = evaluated(policy, log, 100, np.random.default_rng(seed))
        inside += [each.low <= truth <= each.high for each in (found.snips, found.doubly_robust)]
    assert (inside >= 90).all()
    rows, terms = np.arange(len(log)), robust_terms(slots_of(policy, log), log.seconds)
    alone = estimate(rows, terms, np.ones(len(log)), np.random.default_rng(0))
    assert alone.high - alone.low < 0.95 * (found.doubly_robust.high - found.doubly_robust.low)
