"""Tastes that are followed, against a loop over the slots and against a log whose tastes are known."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from features.errors import Refused
from features.ledger import DAY, HOUR, Ledger
from features.sides import Side
from features.tallies import Events
from features.taste_learning import FEWEST_SLOTS, STATES, learn_tastes
from features.taste_loops import (
    LEAST_PULL,
    REFRESHED_EVERY,
    Expected,
    Links,
    Motion,
    filter_chains,
    smooth_chains,
)
from features.tastes import PAGE, Since, Slots, TasteLaws, beliefs_as_of, followed, outcomes, taste_columns

TOPICS = 3


def laws_of(topics=TOPICS, seed=0):
    """Any laws at all."""
    rng = np.random.default_rng(seed)
    reactions = rng.random((STATES, 3, 5)) + 0.1
    prior = rng.random((topics, STATES)) + 0.1
    return TasteLaws(
        shares=rng.dirichlet(np.ones(topics)),
        prior=prior / prior.sum(axis=1, keepdims=True),
        pulls=np.array([0.01, 0.3, 1.5, 4.0]),
        drift=0.3,
        background=0.4,
        again=np.array([0.2, 0.5]),
        rate_edges=np.array([0.2, 0.5]),
        rate_shares=np.array([0.2, 0.3, 0.5]),
        watch_edges=np.array([0.5, 1.0]),
        watch_levels=np.array([0.2, 0.8, 2.0]),
        reactions=reactions / reactions.sum(axis=2, keepdims=True),
    )


def random_slots(seed=0, n=200, topics=TOPICS):
    """Slots of a few users at few instants, some of them without a topic."""
    rng = np.random.default_rng(seed)
    users, instants = rng.integers(1, 5, n), rng.integers(0, 60, n) * HOUR // 8
    order = np.lexsort((instants, users))
    clicked = rng.random(n) < 0.4
    watched = np.where(clicked & (rng.random(n) < 0.8), rng.random(n) * 2, np.nan)
    shown = rng.integers(-1, topics, n)
    return Slots(users, instants, shown, rng.integers(0, 2, n), rng.random(n), clicked, watched).take(order)


def passing(belief, prior, laws, days, clock):
    """Kept, or drawn anew once, at any of so many moments, and silent before and after."""
    kept, silence = math.exp(-laws.drift * days), silences(laws.pulls * clock)
    found = kept * belief * np.exp(-laws.pulls * clock) + (1 - kept) * prior * (belief @ silence)
    return found / found.sum()


MOMENTS = (np.arange(400) + 0.5) / 400


def silences(silent):
    """Chance of silence by the state before and the state after a draw at any moment: [states, states]."""
    before, after = np.exp(-np.outer(1 - MOMENTS, silent)), np.exp(-np.outer(MOMENTS, silent))
    return before.T @ after / len(MOMENTS)


def parts_after(silent):
    """The expected part after the draw, of intervals that were silent: [states, states]."""
    before, after = np.exp(-np.outer(1 - MOMENTS, silent)), np.exp(-np.outer(MOMENTS, silent))
    return (before.T @ (after * MOMENTS[:, None])) / (before.T @ after)


def by_a_loop(slots, laws):
    """Beliefs, clocks and sums of pulls of each slot, topic by topic."""
    beliefs, clocks, totals = [], [], []
    for row in range(len(slots)):
        now, topic = slots.instants[row], slots.topics[row]
        if row == 0 or slots.users[row] != slots.users[row - 1]:
            of, clock, since, began = {}, 0.0, REFRESHED_EVERY, now
            unseen = (laws.prior.mean(axis=0), now, 0.0)
        if since >= REFRESHED_EVERY:
            since = 0
            for known, (belief, then, at) in of.items():
                of[known] = passing(belief, laws.prior[known], laws, (now - then) / DAY, clock - at), now, clock
            days, passed = (now - unseen[1]) / DAY, clock - unseen[2]
            unseen = passing(unseen[0], laws.prior.mean(axis=0), laws, days, passed), now, clock
        new = len(laws.prior) - len(of)
        total = sum(belief @ laws.pulls for belief, _, _ in of.values()) + new * (unseen[0] @ laws.pulls)
        clocks.append(clock)
        totals.append(max(total, LEAST_PULL))
        if topic < 0:
            beliefs.append(laws.prior.mean(axis=0))
            continue
        belief, then, at = of.get(topic, (laws.prior[topic], began, 0.0))
        before = passing(belief, laws.prior[topic], laws, (now - then) / DAY, clock - at)
        page = row > 0 and not slots.firsts[row] and slots.surfaces[row] == slots.surfaces[row - 1]
        page = page and now - slots.instants[row - 1] <= PAGE and slots.topics[row - 1] >= 0
        again = laws.again[slots.surfaces[row]] if page else 0.0
        same = again if page and slots.topics[row - 1] == topic else 0.0
        chosen = (1 - again) * (1 - laws.background)
        chance = same + (1 - again) * laws.background * laws.shares[topic] + chosen * laws.pulls / totals[-1]
        outcome = outcomes(slots, laws.watch_edges)[row]
        found = before * chance * laws.reactions[:, np.searchsorted(laws.rate_edges, slots.rates[row]), outcome]
        of[topic] = found / found.sum(), now, clock
        beliefs.append(of[topic][0])
        clock, since = clock + chosen / totals[-1], since + 1
    return np.array(beliefs), np.array(clocks), np.array(totals)


@pytest.mark.parametrize("seed", range(3))
def test_beliefs_are_what_a_loop_over_users_and_topics_finds(seed):
    slots, laws = random_slots(seed), laws_of(seed=seed)
    walk = followed(slots, laws)
    beliefs, clocks, totals = by_a_loop(slots, laws)
    np.testing.assert_allclose(walk.beliefs, beliefs, rtol=1e-5)
    np.testing.assert_allclose(walk.clocks, clocks, rtol=1e-5)
    np.testing.assert_allclose(walk.totals, totals, rtol=1e-5)


@pytest.mark.parametrize("column", ["topics", "surfaces"])
def test_laws_of_another_log_are_refused(column):
    slots = random_slots()
    with pytest.raises(Refused, match="learn laws from this log"):
        followed(replace(slots, **{column: getattr(slots, column) + 2}), laws_of())


def test_outcomes_count_from_the_unclicked_to_what_nobody_knows():
    slots = replace(
        random_slots(n=5),
        clicked=np.array([False, True, True, True, True]),
        watched=np.array([np.nan, 0.1, 0.7, 3.0, np.nan]),
    )
    assert outcomes(slots, np.array([0.5, 1.0])).tolist() == [0, 1, 2, 3, 4]


def test_a_belief_goes_back_to_the_prior_with_time_and_down_with_silence():
    laws = laws_of()
    topics, left = np.zeros(4, np.int64), np.tile([0.0, 0.0, 0.0, 1.0], (4, 1))
    since = Since(left, np.arange(4) < 3, np.array([0.0, 1e6, 0.0, 0.0]), np.array([0.0, 0.0, 100.0, 0.0]))
    at_once, much_later, never_again, never_met = beliefs_as_of(laws, topics, since)
    np.testing.assert_allclose(at_once, left[0])
    np.testing.assert_allclose(much_later, laws.prior[0])
    np.testing.assert_allclose(never_met, laws.prior[0])
    np.testing.assert_allclose(never_again, left[2])  # What is certain stays so while no time passes.
    some, long = np.ones(1, bool), np.array([1e5])
    unsure = beliefs_as_of(laws, topics[:1], Since(np.full((1, 4), 0.25), some, np.zeros(1), np.array([100.0])))
    assert taste_columns(laws, unsure)["believed_pull"][0] < 0.02
    # Where nothing is left that can be believed, the prior is.
    np.testing.assert_allclose(
        beliefs_as_of(laws, topics[:1], Since(left[:1], some, np.zeros(1), long)), laws.prior[:1]
    )


@pytest.mark.parametrize("pieces", [4, 40])
def test_an_interval_is_about_as_long_as_its_pieces(pieces):
    """Ten days without a slot of the topic, at once and piece by piece: half a slot's clock a day."""
    laws, some = replace(laws_of(), drift=0.05), np.ones(1, bool)
    left, topic = np.array([[0.1, 0.2, 0.3, 0.4]]), np.zeros(1, np.int64)
    at_once = beliefs_as_of(laws, topic, Since(left, some, np.full(1, 10.0), np.full(1, 5.0)))
    for _ in range(pieces):
        left = beliefs_as_of(laws, topic, Since(left, some, np.full(1, 10 / pieces), np.full(1, 5 / pieces)))
    np.testing.assert_allclose(at_once, left, rtol=0.15)


def test_what_chains_say_of_their_states_is_what_all_their_paths_do():
    """One chain of four links of three states, and one of one: every path weighed by its chance."""
    rng = np.random.default_rng(3)
    firsts, topics = np.array([True, False, False, False, True]), np.array([1, 1, 1, 1, 0])
    days, passed, likelihoods = rng.random(5) * 3, rng.random(5), rng.random((5, 3))
    prior, pulls, drift = rng.dirichlet(np.ones(3), 2), np.array([0.1, 1.0, 3.0]), 0.4
    left, smoothed, draws, spent = np.empty((5, 3)), np.empty((5, 3)), np.zeros((2, 3)), np.zeros(3)
    links, motion = Links(firsts, days, passed, likelihoods, topics), Motion(prior, prior.mean(axis=0), pulls, drift)
    filter_chains(links, motion, left)
    anew = smooth_chains(links, motion, left, Expected(smoothed, draws, spent))
    silent = pulls * passed[:, None]
    kept, silence, after = np.exp(-drift * days), [*map(silences, silent)], [*map(parts_after, silent)]
    weights, wanted_states, wanted_draws, wanted_anew, wanted_spent = (
        0.0,
        np.zeros((4, 3)),
        np.zeros(3),
        0.0,
        np.zeros(3),
    )
    # A path: the state drawn at first, and at each link the state and whether it was drawn anew.
    for start, *path in itertools.product(range(3), *[[(s, new) for s in range(3) for new in (False, True)]] * 4):
        weight, before = prior[1, start], start
        for link, (state, new) in enumerate(path):
            if new:
                weight *= (1 - kept[link]) * prior[1, state] * silence[link][before, state]
            else:
                weight *= kept[link] * (state == before) * np.exp(-silent[link, state])
            weight *= likelihoods[link, state]
            before = state
        weights += weight
        wanted_draws[start] += weight
        before = start
        for link, (state, new) in enumerate(path):
            later = after[link][before, state] if new else 1.0
            wanted_spent[before] += weight * (1 - later) * passed[link]
            wanted_spent[state] += weight * later * passed[link]
            before = state
            wanted_states[link, state] += weight
            wanted_draws[state] += weight * new
            wanted_anew += weight * new * drift * days[link] / (1 - kept[link])
    np.testing.assert_allclose(smoothed[:4], wanted_states / weights, rtol=1e-4)
    np.testing.assert_allclose(draws[1], wanted_draws / weights, rtol=1e-4)
    np.testing.assert_allclose(left[3], smoothed[3])
    own = np.zeros(3)
    alone = Links(*(values[4:].copy() for values in links))
    of_last = smooth_chains(alone, motion, left[4:].copy(), Expected(smoothed[4:].copy(), np.zeros((2, 3)), own))
    assert anew - of_last == pytest.approx(wanted_anew / weights, rel=1e-4)
    np.testing.assert_allclose(spent - own, wanted_spent / weights, rtol=1e-4)
    assert own.sum() == pytest.approx(passed[4])


def test_columns_are_expectations_over_the_states():
    laws, beliefs = laws_of(), np.eye(STATES)
    columns = taste_columns(laws, beliefs)
    np.testing.assert_allclose(columns["believed_click"], laws.reactions[:, :, 1:].sum(axis=2) @ laws.rate_shares)
    np.testing.assert_allclose(columns["believed_pull"], laws.pulls)
    np.testing.assert_allclose(columns["believed_watch"], laws.watch_ratios)
    np.testing.assert_allclose(columns["certainty"], 1)
    assert taste_columns(laws, np.full((1, STATES), 1 / STATES))["certainty"][0] == pytest.approx(1 / STATES)


def test_laws_come_back_as_they_were(tmp_path):
    laws = laws_of()
    laws.save(tmp_path / "tastes.json")
    again = TasteLaws.load(tmp_path / "tastes.json")
    for name in laws.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(again, name), getattr(laws, name), err_msg=name)


def test_next_to_nothing_teaches_no_laws():
    slots, rng = drawn_slots(n=FEWEST_SLOTS + 500), np.random.default_rng(0)
    assert learn_tastes(slots, 1, 10**18, rng) is None
    assert learn_tastes(slots.take(np.arange(100)), TOPICS, 10**18, rng) is None
    assert learn_tastes(slots, TOPICS, 0, rng) is None
    assert learn_tastes(slots, TOPICS, 10**18, rng) is not None


def test_a_feed_that_shows_all_the_same_teaches_no_laws():
    """Whoever likes topic 0 clicks it, and is shown it no oftener than others."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(200), 100)
    topics = rng.integers(0, 5, len(users))
    clicked = rng.random(len(users)) < np.where(topics == users % 5, 0.7, 0.1)
    watched, zeros = np.where(clicked, 1.0, np.nan), np.zeros(len(users), np.int64)
    slots = Slots(users, np.arange(len(users)) * 60_000_000, topics, zeros, np.full(len(users), 0.22), clicked, watched)
    assert learn_tastes(slots, 5, 10**18, rng) is None


def drawn_slots(seed=0, n=3_000):
    """Slots of users who are each shown one topic most of the time."""
    slots, rng = random_slots(seed, n), np.random.default_rng(seed)
    return replace(slots, topics=np.where(rng.random(n) < 0.7, slots.users % TOPICS, slots.topics))


def test_a_surface_that_was_seen_to_repeat_once_may_do_otherwise():
    slots = drawn_slots()
    pair = np.flatnonzero(slots.repeats)[0]
    surfaces = slots.surfaces.copy()
    surfaces[[pair - 1, pair]] = 2
    laws = learn_tastes(replace(slots, surfaces=surfaces), TOPICS, 10**18, np.random.default_rng(0))
    assert laws.again[2] < 0.5


def test_what_comes_after_the_instant_teaches_nothing():
    slots, edge = drawn_slots(), 4 * HOUR
    later = slots.instants >= edge
    other = replace(
        slots,
        topics=np.where(later, 0, slots.topics),
        clicked=slots.clicked | later,
        rates=np.where(later, 0.9, slots.rates),
    )
    one, two = (learn_tastes(log, TOPICS, edge, np.random.default_rng(0)) for log in (slots, other))
    for name in one.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


PULLS, CLICKS, WATCHED = np.array([0.02, 4.0]), np.array([0.05, 0.6]), np.array([0.5, 1.5])
LIKED, DRIFT, BACKGROUND = 0.2, 0.1, 0.3


@pytest.fixture(scope="module")
def known():
    """Twelve days of 600 users who are drawn to some of 10 topics, and who is to which at the end [users, topics]."""
    rng = np.random.default_rng(0)
    users, topics, days, a_day = 600, 10, 12, 12
    liking = rng.random((users, topics)) < LIKED
    columns = []
    for day in range(days):
        anew = rng.random(liking.shape) < 1 - math.exp(-DRIFT)
        liking = np.where(anew, rng.random(liking.shape) < LIKED, liking)
        odds = PULLS[liking.astype(int)]
        odds = BACKGROUND / topics + (1 - BACKGROUND) * odds / odds.sum(axis=1, keepdims=True)
        for slot in range(a_day):
            topic = (odds.cumsum(axis=1) < rng.random((users, 1))).sum(axis=1)
            state = liking[np.arange(users), topic].astype(int)
            clicked = rng.random(users) < CLICKS[state]
            watched = np.where(clicked, rng.exponential(WATCHED[state]), np.nan)
            instants = np.full(users, day * DAY + slot * HOUR)
            columns.append((np.arange(users), instants, topic, clicked, watched))
    user, instants, topic, clicked, watched = (np.concatenate(column) for column in zip(*columns, strict=True))
    order = np.lexsort((instants, user))
    zeros = np.zeros(len(order), np.int64)
    slots = Slots(user, instants, topic, zeros, np.full(len(order), 0.3), clicked, watched).take(order)
    return slots, liking


@pytest.fixture(scope="module")
def learnt(known):
    return learn_tastes(known[0], 10, 10**18, np.random.default_rng(1))


def test_the_laws_of_a_known_log_are_found(learnt):
    laws = learnt
    liked = laws.click_rates > 0.3
    mass = laws.prior.mean(axis=0)
    assert mass[liked].sum() == pytest.approx(LIKED, abs=0.08)
    assert laws.drift == pytest.approx(DRIFT, rel=0.4)
    assert laws.background == pytest.approx(BACKGROUND, abs=0.08)
    weights = mass * laws.pulls
    assert np.average(laws.click_rates[liked], weights=weights[liked]) == pytest.approx(CLICKS[1], abs=0.05)
    assert np.average(laws.click_rates[~liked], weights=mass[~liked]) == pytest.approx(CLICKS[0], abs=0.05)
    ratio = np.average(laws.watch_ratios[liked], weights=weights[liked]) / np.average(
        laws.watch_ratios[~liked], weights=mass[~liked]
    )
    assert ratio > 2


def test_beliefs_of_a_known_log_are_as_often_right_as_they_say(known, learnt):
    """What is believed at the end, of every user and topic, against the truth."""
    slots, liking = known
    laws = learnt
    walk = followed(slots, laws)
    last = {(user, topic): row for row, (user, topic) in enumerate(zip(slots.users, slots.topics, strict=True))}
    ends = {user: row for row, user in enumerate(slots.users)}
    users, topics = (grid.ravel() for grid in np.meshgrid(np.arange(600), np.arange(10), indexing="ij"))
    rows = np.array([last.get(pair, -1) for pair in zip(users, topics, strict=True)])
    met, now = rows >= 0, slots.instants.max()
    days = np.where(met, (now - slots.instants[rows]) / DAY, (now - slots.instants.min()) / DAY)
    clocks = walk.clocks_after[[ends[user] for user in users]] - np.where(met, walk.clocks[rows], 0.0)
    beliefs = beliefs_as_of(laws, topics, Since(walk.beliefs[rows], met, days, clocks))
    believed, truth = beliefs[:, laws.click_rates > 0.3].sum(axis=1), liking.ravel()
    assert believed.mean() == pytest.approx(truth.mean(), abs=0.03)
    sure, unsure = believed > 0.9, believed < 0.1
    assert truth[sure].mean() > 0.9
    assert truth[unsure].mean() < 0.1
    middle = ~sure & ~unsure
    assert truth[middle].mean() == pytest.approx(believed[middle].mean(), abs=0.1)
    assert 1 - np.mean((truth - believed) ** 2) / truth.var() > 0.7


def ledger_with_tastes(events, tastes=None):
    """Six items of three topics and one of none."""
    topics = np.array([0, 1, 1, 2, 2, 3, 3, 0], np.int32)
    side = Side({"topics": topics}, {"topics": 4}, {})
    return Ledger(events, Side({}, {}, {}), side, timed=True, tastes=tastes)


def random_events(seed=0, n=300):
    rng = np.random.default_rng(seed)
    clicked = rng.random(n) < 0.4
    users, items = rng.integers(1, 6, n).astype(np.int32), rng.integers(1, 8, n).astype(np.int32)
    return Events(users, items, rng.integers(0, 100, n) * HOUR, clicked, np.where(clicked, rng.random(n) * 90, 0.0))


def believed(ledger, users, items, instants):
    numbers = ledger.pair_block(users, items, instants).numbers
    return {name: values for name, values in numbers.items() if "believed" in name or "certainty" in name}


def test_the_ledger_reads_each_belief_strictly_before_the_instant():
    """At every instant what it finds is what following only the earlier slots would have."""
    events, laws = random_events(), laws_of()
    rng = np.random.default_rng(5)
    users, items = rng.integers(1, 6, 40).astype(np.int32), rng.integers(1, 7, 40).astype(np.int32)
    instants = rng.choice(events.instants, 40)
    found = believed(ledger_with_tastes(events, laws), users, items, instants)
    assert len(found) == 4
    for row, instant in enumerate(instants):
        early = events.instants < instant
        kept = Events(*(getattr(events, name)[early] for name in ("users", "items", "instants", "clicked", "seconds")))
        ledger = ledger_with_tastes(kept, laws)
        slots, user, topic = ledger.slots, users[row], ledger.sides["topic"][items[row]] - 1
        walk = followed(slots, laws)
        mine = np.flatnonzero(slots.users == user)
        met = mine[slots.topics[mine] == topic]
        clock = walk.clocks_after[mine[-1]] if len(mine) else 0.0
        left, at = laws.prior[[topic]], slots.instants[mine[:1]]
        if len(met):
            left, at = walk.beliefs[met[-1:]], slots.instants[met[-1:]]
            clock -= walk.clocks[met[-1]]
        days = (instant - at) / DAY if len(mine) else np.zeros(1)
        since = Since(left, np.ones(1, bool), days, np.array([clock]))
        wanted = taste_columns(laws, beliefs_as_of(laws, np.array([topic]), since))
        for name, values in wanted.items():
            assert found[f"user_topic_{name}"][row] == pytest.approx(values[0], rel=1e-9), (name, row)


def test_an_item_without_a_topic_has_no_taste_and_a_ledger_without_laws_none_at_all():
    events = random_events()
    item, user = np.array([7], np.int32), np.array([1], np.int32)
    assert all(
        np.isnan(values).all() for values in believed(ledger_with_tastes(events, laws_of()), user, item, DAY).values()
    )
    assert believed(ledger_with_tastes(events), user, item, DAY) == {}


def test_a_log_of_clicks_alone_has_tastes_too():
    events, often = random_events(n=3_000), np.random.default_rng(1).random(3_000) < 0.7
    items = np.where(often, 2 * (events.users % 3) + 1, events.items).astype(np.int32)
    events = replace(events, items=items, clicked=np.ones(3_000, bool), seconds=np.full(3_000, np.nan))
    ledger = ledger_with_tastes(events)
    laws = learn_tastes(ledger.slots, ledger.topics, 10**18, np.random.default_rng(0))
    columns = believed(replace(ledger, tastes=laws), events.users[:50], np.full(50, 1, np.int32), 90 * HOUR)
    assert len(columns) == 4
    assert all(np.isfinite(values).all() for values in columns.values())


def test_a_ledger_of_nothing_believes_what_the_prior_says():
    laws = laws_of()
    none = Events(*(np.zeros(0, kind) for kind in (np.int32, np.int32, np.int64, bool, np.float64)))
    found = believed(ledger_with_tastes(none, laws), np.array([1, 2], np.int32), np.array([1, 3], np.int32), 5 * HOUR)
    wanted = taste_columns(laws, laws.prior[[0, 1]])
    for name, values in wanted.items():
        np.testing.assert_allclose(found[f"user_topic_{name}"], values)
