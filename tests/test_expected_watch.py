"""What would be watched longest, in a world of two tastes where watched and shown are two
things.
"""

import numpy as np
import pytest

from features.asof_counts import Events
from features.asof_features import AsOfFeatures
from features.asof_log import AsOfLog
from features.schema import HOUR
from features.side_features import SideFeatures
from features.timeline import pair_keys
from recall.candidates import Pairs
from recall.generators.base import Requests
from recall.generators.expected_watch import Odds, fit_expected_watch, fit_odds

USERS, ITEMS, ROWS = 40, 60, 6_000
END = 100 * HOUR
# Channel 1 is of even items, channel 2 of odd ones; a tenth of all impressions are of what the user
# likes less.
CHANNELS = (np.arange(ITEMS + 1) % 2 + 1).astype(np.int32)
LENGTHS = np.where(np.arange(ITEMS + 1) % 3 == 0, 400.0, 40.0)
ITEM_SIDE = SideFeatures(
    {"channel_id": CHANNELS},
    {"channel_id": 3},
    {"duration_seconds": LENGTHS},
    {"language": CHANNELS % 2 + 1},
)
USER_SIDE = SideFeatures(
    {"language": (np.arange(USERS + 1) % 3).astype(np.int32)}, {"language": 3}, {}
)


def two_tastes(rows=ROWS, seed=0):
    """Users click items of their own parity in .7 of all cases, others in .05; they watch half of
    what they click.
    """
    rng = np.random.default_rng(seed)
    users = rng.integers(1, USERS + 1, rows).astype(np.int32)
    items = rng.integers(1, ITEMS + 1, rows).astype(np.int32)
    clicked = rng.random(rows) < np.where(users % 2 == items % 2, 0.7, 0.05)
    seconds = np.where(clicked, LENGTHS[items] * rng.random(rows), 0.0)
    return Events.of(users, items, np.sort(rng.integers(0, 120, rows)) * HOUR, clicked, seconds)


def features_of(events):
    return AsOfFeatures(AsOfLog(events, USER_SIDE, ITEM_SIDE, timed=True))


def requests_of(users, seen=()):
    rows, items = np.array(sorted(seen), np.int64).reshape(-1, 2).T
    pairs = Pairs(pair_keys(rows, items), np.bincount(rows, minlength=len(users)))
    none = np.zeros((len(users), 0))
    return Requests(
        users, none.astype(np.float32), none.astype(np.int32), pairs, np.ones(len(users), np.int64)
    )


ALL = np.arange(ITEMS + 1) > 0
EVERYBODY = np.arange(1, USERS + 1, dtype=np.int32)


@pytest.fixture(scope="module")
def channel():
    return fit_expected_watch(features_of(two_tastes()), ALL, END)


def test_the_odds_are_expected_seconds_where_the_columns_tell_them():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 3, 60_000).astype(np.float64)
    seconds = np.where(rng.random(len(x)) < 0.1 + 0.3 * x, rng.exponential(20 * (1 + x)), 0.0)
    odds = fit_odds({"x": x, "unknown": np.full(len(x), np.nan)}, seconds)
    said = np.exp(odds.part({"x": np.arange(3.0), "unknown": np.full(3, np.nan)}) + odds.bias)
    np.testing.assert_allclose(said, [seconds[x == value].mean() for value in range(3)], rtol=0.03)


def test_the_parts_add_up_whatever_columns_they_are_given_in():
    rng = np.random.default_rng(2)
    names = ("a", "b", "c")
    odds = Odds(names, *(rng.normal(size=3) ** 2 + 0.1 for _ in range(4)), bias=0.3)
    columns = {name: rng.normal(size=9) for name in names}
    apart = sum(odds.part({name: values}) for name, values in columns.items())
    np.testing.assert_allclose(odds.part(columns), apart, rtol=1e-5)
    np.testing.assert_array_equal(odds.part({"not read": np.ones(4)}), np.zeros(4))


def test_users_are_offered_the_long_items_of_their_own_parity(channel):
    named = channel.answer(requests_of(EVERYBODY)).named(5)
    assert (named.items % 2 == EVERYBODY[:, None] % 2).mean() > 0.95
    assert (LENGTHS[named.items] == 400).mean() > 0.95


def test_every_score_is_the_models_of_the_pairs_own_columns(channel):
    features, users, items = channel.features, EVERYBODY[:7], channel.items
    logits = channel.logits(users)
    pairs = np.repeat(users, len(items)), np.tile(items, len(users))
    block, pair = (
        features.item_block(pairs[1], END).numbers,
        features.pair_block(*pairs, END).numbers,
    )
    columns = {}
    for name, values in {**block, **pair}.items():
        as_log = not name.endswith(("_shown", "_log_ratio")) and not name.startswith("same_")
        columns[name] = np.log(np.maximum(values, 1e-3)) if as_log else values
    columns["item_age_hours"] = np.zeros(len(pairs[0]))
    expected = channel.odds.part(columns) + channel.odds.bias
    np.testing.assert_allclose(logits.ravel(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_of_many_scores_the_k_best_are_named_by_brute_force(channel, k):
    named = channel.answer(requests_of(EVERYBODY)).named(k)
    scores = np.exp(channel.logits(EVERYBODY))
    np.testing.assert_allclose(named.scores, -np.sort(-scores, axis=1)[:, :k], rtol=1e-5)


def test_the_best_are_named_in_order_and_nothing_that_was_seen(channel):
    users = EVERYBODY[:3]
    best = channel.answer(requests_of(users)).named(4)
    seen = [(row, int(item)) for row, item in enumerate(best.items[:, 0])]
    named = channel.answer(requests_of(users, seen)).named(100)
    logits = channel.logits(users)
    for row in range(len(users)):
        expected = [
            i
            for i in channel.items[np.argsort(-logits[row], kind="stable")]
            if (row, i) not in seen
        ]
        listed = named.items[row][named.items[row] > 0]
        assert listed.tolist() == expected
        scores = [
            np.exp(logits[row, np.flatnonzero(channel.items == item)[0]]) for item in expected
        ]
        np.testing.assert_allclose(named.scores[row, : len(listed)], scores, rtol=1e-5)


def test_the_merge_is_told_where_a_pair_stands_in_the_users_pool(channel):
    answer = channel.answer(requests_of(EVERYBODY[:2]))
    logits = channel.logits(EVERYBODY[:2])
    rows, items = (
        np.array([0, 1, 1]),
        np.array([channel.items[3], channel.items[0], ITEMS + 5], np.int32),
    )
    z = (logits - logits.mean(axis=1, keepdims=True)) / logits.std(axis=1, keepdims=True)
    np.testing.assert_allclose(
        answer.columns(rows, items)["expected_watch"], [z[0, 3], z[1, 0], -1], rtol=1e-4
    )


def test_what_comes_at_or_after_the_instant_changes_nothing(channel):
    events = two_tastes()
    later = events.timestamps_us >= END
    changed = Events.of(
        events.users,
        np.where(later, 1, events.items).astype(np.int32),
        events.timestamps_us,
        events.clicked | later,
        np.where(later, 9_999.0, events.seconds),
    )
    again = fit_expected_watch(features_of(changed), ALL, END)
    np.testing.assert_allclose(again.logits(EVERYBODY), channel.logits(EVERYBODY), atol=0.05)


def test_only_the_catalogue_is_named_and_of_a_large_one_the_best(channel, monkeypatch):
    monkeypatch.setattr("recall.generators.expected_watch.POOL", 6)
    even = ALL & (np.arange(ITEMS + 1) % 2 == 0)
    few = fit_expected_watch(features_of(two_tastes()), even, END)
    assert len(few.items) == 6
    assert (few.items % 2 == 0).all()
    alone = dict(zip(channel.items.tolist(), channel.of_items.tolist(), strict=True))
    assert (
        min(alone[i] for i in few.items)
        >= max(alone[i] for i in np.flatnonzero(even) if i not in few.items) - 1e-4
    )


def test_a_log_of_too_few_clicks_names_nothing():
    nothing = fit_expected_watch(features_of(two_tastes(rows=30)), ALL, END).answer(
        requests_of(EVERYBODY[:3])
    )
    assert not nothing.named(5).items.any()
    assert nothing.columns(np.zeros(2, int), np.array([1, 2], np.int32))[
        "expected_watch"
    ].tolist() == [-1, -1]
