"""Every as-of column of the ranker against a loop over the log, and the check that nothing later is
in it.
"""

import math
from dataclasses import replace

import numpy as np
import pytest

from features.asof_catalogue import CATALOGUE, FEATURES, LATELY, OpenFeatures, is_declared
from features.asof_counts import Events
from features.asof_features import AsOfFeatures, Block
from features.asof_log import GROUP_KEYS, AsOfLog
from features.expected_counts import HALF_SHOWN, OWN_PRIOR_ROWS, PRIOR_ROWS, PRIOR_SHOWN
from features.features_page import PAGE, features_page
from features.schema import DAY, HOUR, MINUTE
from features.side_features import SideFeatures

SPANS = {"hour": HOUR, "day": DAY}
USERS, ITEMS, ROWS = 5, 7, 150
COUNTRIES, ITEM_COUNTRIES = (
    np.array([0, 1, 2, 1, 0], np.int32),
    np.array([0, 1, 2, 0, 1, 1, 2], np.int32),
)
USER_SIDE = SideFeatures(
    {"country": COUNTRIES}, {"country": 3}, {"age": np.array([np.nan, 20, 30, np.nan, 40])}
)
CHANNELS, TOPICS = (
    np.array([0, 1, 1, 2, 2, 3, 0], np.int32),
    np.array([0, 1, 2, 1, 2, 1, 0], np.int32),
)
PUBLISHED = np.array([np.nan, 0, 5 * HOUR, 10 * HOUR, np.nan, 2 * HOUR, 3 * DAY])
DURATIONS = np.array([np.nan, 60, 70, np.nan, 30, 10, 5])
GROUPS = np.array([1, 10, 10, 1, 8, 5, 3])
ITEM_SIDE = SideFeatures(
    {"channel_id": CHANNELS, "topics": TOPICS},
    {"channel_id": 4, "topics": 3},
    {"published_at": PUBLISHED, "duration_seconds": DURATIONS},
    {"country": ITEM_COUNTRIES},
)


def random_log(seed=0):
    """Impressions over three days at few distinct hours, so that rows of one instant are common.

    Seconds are quarters, whose sums are exact: what must not change can be held to the last bit.
    """
    rng = np.random.default_rng(seed)
    clicked = rng.random(ROWS) < 0.4
    seconds = np.where(
        clicked, np.where(rng.random(ROWS) < 0.2, np.nan, rng.integers(1, 400, ROWS) / 4), 0.0
    )
    users, items = (
        rng.integers(1, USERS, ROWS).astype(np.int32),
        rng.integers(1, ITEMS, ROWS).astype(np.int32),
    )
    return Events.of(users, items, rng.integers(0, 36, ROWS) * 2 * HOUR, clicked, seconds)


def features_of(events, timed=True):
    return AsOfFeatures(AsOfLog(events, USER_SIDE, ITEM_SIDE, timed))


def columns(features, users, items, timestamps_us):
    """All numbers of the three blocks, side by side."""
    blocks = (
        features.user_block(users, timestamps_us),
        features.item_block(items, timestamps_us),
        features.pair_block(users, items, timestamps_us),
    )
    return {name: values for block in blocks for name, values in block.numbers.items()}


def counts(events, rows):
    """Shown, clicks, clicks with known seconds, their seconds, last impression and last click of
    the log's rows.
    """
    clicks = [r for r in rows if events.clicked[r]]
    known = [events.seconds[r] for r in clicks if not math.isnan(events.seconds[r])]
    last = [max((events.timestamps_us[r] for r in some), default=None) for some in (rows, clicks)]
    return len(rows), len(clicks), len(known), sum(known), *last


def rates(name, own, whole):
    """The four rates of a group, smoothed towards the whole log's."""
    rate, mean = (whole[1] + 1) / (whole[0] + 2), (whole[3] + 1) / (whole[2] + 1)
    rate = (own[1] + PRIOR_ROWS * rate) / (own[0] + PRIOR_ROWS)
    mean = (own[3] + PRIOR_ROWS * mean) / (own[2] + PRIOR_ROWS)
    values = {
        "shown": math.log1p(own[0]),
        "click_rate": rate,
        "seconds_per_click": mean,
        "seconds_per_impression": rate * mean,
    }
    return {f"{name}_{column}": value for column, value in values.items()}


def expected_of(events, own_rows, of_row):
    """Clicks and seconds expected of rows by a rule for each row's rate and mean seconds."""
    each = [(*of_row(r), math.isnan(events.seconds[r])) for r in own_rows]
    return sum(rate for rate, _, _ in each), sum(
        rate * mean for rate, mean, unknown in each if not unknown
    )


def smoothed(events, rows, towards, prior):
    """Click rate and mean seconds a click of rows, shrunk to others by `prior` rows."""
    own = counts(events, rows)
    return (own[1] + prior * towards[0]) / (own[0] + prior), (own[3] + prior * towards[1]) / (
        own[2] + prior
    )


def whole_rates(events, timestamp_us):
    whole = counts(events, [r for r in range(ROWS) if events.timestamps_us[r] < timestamp_us])
    return (whole[1] + 1) / (whole[0] + 2), (whole[3] + 1) / (whole[2] + 1)


def item_led_to_expect(events):
    """Of each row, what its item had led to expect as of it."""

    def of_row(r):
        before = [
            q
            for q in range(ROWS)
            if events.timestamps_us[q] < events.timestamps_us[r]
            and events.items[q] == events.items[r]
        ]
        return smoothed(events, before, whole_rates(events, events.timestamps_us[r]), PRIOR_ROWS)

    return of_row


def user_led_to_expect(events):
    """Of each row, what its user had led to expect as of it: in the item's topic, shrunk to the
    user's own.
    """

    def of_row(r):
        mine = [
            q
            for q in range(ROWS)
            if events.timestamps_us[q] < events.timestamps_us[r]
            and events.users[q] == events.users[r]
        ]
        own = smoothed(events, mine, whole_rates(events, events.timestamps_us[r]), PRIOR_ROWS)
        topic = TOPICS[events.items[r]]
        alike = [q for q in mine if TOPICS[events.items[q]] == topic > 0]
        return smoothed(events, alike, own, OWN_PRIOR_ROWS)

    return of_row


def log_ratios(name, own, owed, mean):
    return {
        f"{name}_click_log_ratio": math.log((own[1] + 1) / (owed[0] + 1)),
        f"{name}_seconds_log_ratio": math.log((own[3] + mean) / (owed[1] + mean)),
    }


def share_of(events, r):
    """How much of its length a click was watched, at most twice; None where that is not known."""
    seconds, length = events.seconds[r], DURATIONS[events.items[r]]
    known = events.clicked[r] and not math.isnan(seconds) and not math.isnan(length)
    return min(seconds / max(length, 1), 2) if known else None


def mean_share(events, rows, towards, prior):
    shares = [share for share in (share_of(events, r) for r in rows) if share is not None]
    return (sum(shares) + prior * towards) / (len(shares) + prior)


def earlier_of(events, r, matches):
    return [
        q
        for q in range(ROWS)
        if events.timestamps_us[q] < events.timestamps_us[r]
        and matches(events.users[q], events.items[q])
    ]


def share_by_item(events, r):
    """What the item of a row had led to expect of its length."""
    everybody = mean_share(events, earlier_of(events, r, lambda *_: True), 0.5, 1)
    of_item = earlier_of(events, r, lambda _, i: i == events.items[r])
    return mean_share(events, of_item, everybody, PRIOR_ROWS)


def share_by_user(events, r):
    """What the user of a row had led to expect of a length, in the item's topic."""
    user, topic = events.users[r], TOPICS[events.items[r]]
    everybody = mean_share(events, earlier_of(events, r, lambda *_: True), 0.5, 1)
    own = mean_share(events, earlier_of(events, r, lambda u, _: u == user), everybody, PRIOR_ROWS)
    alike = earlier_of(events, r, lambda u, i: u == user and TOPICS[i] == topic > 0)
    return mean_share(events, alike, own, OWN_PRIOR_ROWS)


def completion_log_ratio(name, events, rows, led):
    known = [r for r in rows if share_of(events, r) is not None]
    watched, owed = sum(share_of(events, r) for r in known), sum(led(events, r) for r in known)
    return {f"{name}_completion_log_ratio": math.log((watched + 0.5) / (owed + 0.5))}


def since(name, own, timestamp_us):
    hours = [math.nan if last is None else (timestamp_us - last) / HOUR for last in own[4:6]]
    return {f"{name}_hours_since_shown": hours[0], f"{name}_hours_since_click": hours[1]}


def trends(events, name, rows, timestamp_us):
    recent = {
        span: [r for r in rows if events.timestamps_us[r] >= timestamp_us - length]
        for span, length in SPANS.items()
    }
    columns = {}
    for span, some in recent.items():
        columns[f"{name}_shown_last_{span}"] = math.log1p(len(some))
        columns[f"{name}_clicks_last_{span}"] = math.log1p(sum(events.clicked[r] for r in some))
    return columns


def concentration(events, rows):
    """How many pairs of a user's impressions, and of clicks, are of one topic, the pairs of one
    instant left out.
    """
    columns = {}
    for name, some in (
        ("impression_concentration", rows),
        ("click_concentration", [r for r in rows if events.clicked[r]]),
    ):
        alike = sum(
            events.timestamps_us[q] < events.timestamps_us[r]
            and TOPICS[events.items[q]] == TOPICS[events.items[r]] > 0
            for r in some
            for q in some
        )
        columns[f"user_{name}"] = (alike + 1) / (len(some) * (len(some) - 1) / 2 + 10)
    return columns


def expected(events, user, item, timestamp_us):
    """All columns of one exposure by looping over what came strictly before it."""
    before = [r for r in range(ROWS) if events.timestamps_us[r] < timestamp_us]
    whole = counts(events, before)

    def of(matches):
        return [r for r in before if matches(events.users[r], events.items[r])]

    mine = of(lambda u, _: u == user)
    mine_lately = [r for r in mine if events.timestamps_us[r] >= timestamp_us - LATELY]
    row = {
        "hour": timestamp_us % DAY / HOUR,
        "weekday": (timestamp_us // DAY + 3) % 7,
        "user_age": USER_SIDE.numbers["age"][user],
    }
    for name, rows in (("user", of(lambda u, _: u == user)), ("item", of(lambda _, i: i == item))):
        own = counts(events, rows)
        row |= (
            rates(name, own, whole)
            | since(name, own, timestamp_us)
            | trends(events, name, rows, timestamp_us)
        )
        led = item_led_to_expect(events) if name == "user" else user_led_to_expect(events)
        row |= log_ratios(
            name, own, expected_of(events, rows, led), whole_rates(events, timestamp_us)[1]
        )
        row |= completion_log_ratio(
            name, events, rows, share_by_item if name == "user" else share_by_user
        )
    pair = counts(events, of(lambda u, i: u == user and i == item))
    row |= {"pair_ignored": pair[0] - pair[1], "pair_clicks": pair[1]} | since(
        "pair", pair, timestamp_us
    )
    row["item_age_hours"] = np.maximum((timestamp_us - PUBLISHED[item]) / HOUR, 0)
    row["item_duration_seconds"], row["item_duration_unknown"] = (
        DURATIONS[item],
        float(np.isnan(DURATIONS[item])),
    )
    known = COUNTRIES[user] > 0 and ITEM_COUNTRIES[item] > 0
    row["same_country"] = float(COUNTRIES[user] == ITEM_COUNTRIES[item]) if known else math.nan
    for name, side in (("channel", CHANNELS), ("topic", TOPICS), ("duration_bucket", GROUPS)):
        row |= rates(
            name, counts(events, of(lambda _, i, side=side: side[i] == side[item] > 0)), whole
        )
        of_side = counts(events, of(lambda _, i, side=side: side[i] == side[item] > 0))
        rows = of(lambda u, i, side=side: u == user and side[i] == side[item] > 0)
        own = counts(events, rows)
        row |= rates(f"user_{name}", own, whole) | since(f"user_{name}", own, timestamp_us)
        row |= log_ratios(
            f"user_{name}",
            own,
            expected_of(events, rows, item_led_to_expect(events)),
            whole_rates(events, timestamp_us)[1],
        )
        row |= completion_log_ratio(f"user_{name}", events, rows, share_by_item)
        share = (of_side[0] + 1) / (whole[0] + PRIOR_SHOWN)
        row[f"user_{name}_exposure_log_ratio"] = math.log(
            (own[0] + HALF_SHOWN) / (len(mine) * share + HALF_SHOWN)
        )
        if name == "duration_bucket":
            continue
        recent = [r for r in rows if r in mine_lately]
        row[f"user_{name}_share"] = math.log((own[0] + HALF_SHOWN) / (len(mine) + PRIOR_SHOWN))
        row[f"user_{name}_shown_last_3_days"] = math.log1p(len(recent))
        row[f"user_{name}_clicks_last_3_days"] = math.log1p(sum(events.clicked[r] for r in recent))
        recently_expected = len(mine_lately) * share
        row[f"user_{name}_exposure_log_ratio_last_3_days"] = math.log(
            (len(recent) + HALF_SHOWN) / (recently_expected + HALF_SHOWN)
        )
    of_topic = of(lambda u, i: u == user and TOPICS[i] == TOPICS[item] > 0)
    of_channel = of(lambda u, i: u == user and CHANNELS[i] == CHANNELS[item] > 0)
    by_all = [
        len(of(lambda _, i, side=side: side[i] == side[item] > 0)) + 1
        for side in (CHANNELS, TOPICS)
    ]
    ratio = (len(of_channel) + HALF_SHOWN) / (
        len(of_topic) * min(by_all[0] / by_all[1], 1) + HALF_SHOWN
    )
    row["user_channel_exposure_log_ratio_in_topic"] = math.log(ratio)
    row |= concentration(events, mine)
    clicks = counts(events, of(lambda _, i: i == item))
    seconds = clicks[3] + OWN_PRIOR_ROWS * row["duration_bucket_seconds_per_click"]
    row["item_completion"] = seconds / (clicks[2] + OWN_PRIOR_ROWS) / np.maximum(DURATIONS[item], 1)
    return row


@pytest.fixture(scope="module")
def events():
    return random_log()


def exposures(events, n=40):
    """Users, items and instants: half of them the log's own, the rest in between and at the
    ends.
    """
    rng = np.random.default_rng(9)
    asked = np.concatenate(
        [events.timestamps_us[: n // 2], rng.integers(0, 80 * HOUR, n - n // 2 - 1), [0]]
    )
    return (
        rng.integers(1, USERS, n).astype(np.int32),
        rng.integers(1, ITEMS, n).astype(np.int32),
        asked,
    )


def test_every_column_is_what_a_loop_over_the_earlier_rows_finds(events):
    users, items, timestamps_us = exposures(events)
    found = columns(features_of(events), users, items, timestamps_us)
    wanted = [expected(events, *row) for row in zip(users, items, timestamps_us, strict=True)]
    assert set(found) == set(wanted[0])
    for name, values in found.items():
        np.testing.assert_allclose(values, [row[name] for row in wanted], rtol=1e-9, err_msg=name)


def test_codes_are_the_side_columns_and_the_item_itself(events):
    users, items, timestamps_us = exposures(events)
    features = features_of(events)
    np.testing.assert_array_equal(
        features.user_block(users, timestamps_us).codes["user_country"],
        USER_SIDE.codes["country"][users],
    )
    codes = features.item_block(items, timestamps_us).codes
    np.testing.assert_array_equal(codes["item"], items)
    np.testing.assert_array_equal(codes["item_channel_id"], CHANNELS[items])
    np.testing.assert_array_equal(codes["item_topics"], TOPICS[items])


@pytest.mark.parametrize("edge", [10 * HOUR, 36 * HOUR, 60 * HOUR])
def test_rows_at_or_after_an_instant_change_no_feature_of_the_rows_up_to_it(events, edge):
    """The check: the row's own click and seconds, and all that follows, may be anything."""
    other, later = random_log(1), events.timestamps_us >= edge
    changed = Events.of(
        np.where(later, other.users, events.users),
        np.where(later, other.items, events.items),
        np.where(later, np.maximum(other.timestamps_us, edge), events.timestamps_us),
        np.where(later, other.clicked, events.clicked),
        np.where(later, other.seconds, events.seconds),
    )
    users, items, timestamps_us = (
        values[exposures(events)[2] <= edge] for values in exposures(events)
    )
    after = columns(features_of(changed), users, items, timestamps_us)
    for name, values in columns(features_of(events), users, items, timestamps_us).items():
        np.testing.assert_allclose(values, after[name], rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_order_in_which_rows_come_in_changes_nothing(events):
    order = np.random.default_rng(2).permutation(ROWS)
    shuffled = Events.of(
        *(
            getattr(events, name)[order]
            for name in ("users", "items", "timestamps_us", "clicked", "seconds")
        )
    )
    asked = exposures(events)
    after = columns(features_of(shuffled), *asked)
    for name, values in columns(features_of(events), *asked).items():
        np.testing.assert_allclose(values, after[name], rtol=1e-9, err_msg=name)


def test_training_at_many_instants_and_serving_at_one_give_equal_features(events):
    users, items, _ = exposures(events)
    at = 40 * HOUR
    trained = columns(features_of(events), users, items, np.full(len(users), at))
    mixed = columns(
        features_of(events),
        np.tile(users, 2),
        np.tile(items, 2),
        np.repeat([at, at + DAY], len(users)),
    )
    for name, values in columns(features_of(events), users, items, at).items():
        np.testing.assert_array_equal(values, trained[name], err_msg=name)
        np.testing.assert_array_equal(values, mixed[name][: len(users)], err_msg=name)


def test_what_is_scored_of_the_log_is_what_was_served_from_all_that_was_known_at_the_request():
    """Pages of three slots a minute apart, watches of up to three hours: one log, read twice."""
    rng = np.random.default_rng(5)
    pages, slots = ROWS // 3, 3
    requests_us = np.repeat(np.sort(rng.integers(0, 36, pages)) * HOUR, slots)
    users = np.repeat(rng.integers(1, USERS, pages), slots).astype(np.int32)
    items, clicked = rng.integers(1, ITEMS, ROWS).astype(np.int32), rng.random(ROWS) < 0.4
    seconds = np.where(clicked, rng.integers(1, 3 * 3_600, ROWS) * 1.0, 0.0)
    slot = np.tile(np.arange(slots), pages) * MINUTE
    events = Events.of(users, items, requests_us + slot, clicked, seconds, requests_us)
    scored = features_of(events).blocks(features_of(events).log.rows(users, items, requests_us))
    running = 0
    for as_of in np.unique(requests_us)[::5]:
        rows = np.flatnonzero(requests_us == as_of)
        known = events.known_before(int(as_of))
        running += int(np.isnan(known.seconds).sum())
        server = features_of(known)
        served = {
            "user": server.user_block(users[rows], as_of),
            "item": server.item_block(items[rows], as_of),
            "pair": server.pair_block(users[rows], items[rows], as_of),
        }
        for block, columns_of in served.items():
            expected = scored[block].take(rows)
            assert set(columns_of.numbers) == set(expected.numbers)
            for name, values in columns_of.numbers.items():
                np.testing.assert_allclose(values, expected.numbers[name], rtol=1e-9, err_msg=name)
            for name, codes in columns_of.codes.items():
                np.testing.assert_array_equal(codes, expected.codes[name], err_msg=name)
    assert running > 0


def test_the_order_clock_has_no_feature_of_time_and_no_other_differs(events):
    asked = exposures(events)
    timed, ordered = (columns(features_of(events, timed), *asked) for timed in (True, False))
    gone = set(timed) - set(ordered)
    recent = {name for name in timed if "_since_" in name or "_last_" in name}
    assert gone == recent | {"hour", "weekday", "item_age_hours"}
    assert set(ordered) < set(timed)
    for name, values in ordered.items():
        np.testing.assert_array_equal(values, timed[name], err_msg=name)


def test_a_log_without_side_columns_has_features_all_the_same(events):
    bare = AsOfFeatures(
        AsOfLog(events, SideFeatures({}, {}, {}), SideFeatures({}, {}, {}), timed=True)
    )
    found = columns(bare, *exposures(events))
    assert {"user_click_rate", "item_seconds_per_impression", "pair_ignored"} <= set(found)
    assert not any("channel" in name or "topic" in name for name in found)


def test_where_t_is_no_seconds_nothing_is_measured_by_lengths(events):
    users, items, timestamps_us = exposures(events)
    logs = (
        AsOfLog(events, USER_SIDE, ITEM_SIDE, timed=True, in_seconds=flag) for flag in (True, False)
    )
    found, other = (columns(AsOfFeatures(log), users, items, timestamps_us) for log in logs)
    gone = {
        name
        for name in found
        if name.endswith("_completion") or name.endswith("_completion_log_ratio")
    }
    assert gone
    assert found.keys() - other.keys() == gone
    for name in other:
        np.testing.assert_array_equal(found[name], other[name])


def test_an_empty_log_gives_priors_and_no_recency():
    empty = Events.of(
        np.zeros(0, np.int32),
        np.zeros(0, np.int32),
        np.zeros(0, np.int64),
        np.zeros(0, bool),
        np.zeros(0),
    )
    found = columns(features_of(empty), np.array([1], np.int32), np.array([1], np.int32), 5 * HOUR)
    assert found["item_click_rate"][0] == pytest.approx(0.5)
    assert np.isnan(found["user_hours_since_click"][0])


def test_the_last_clicked_items_are_the_newest_of_a_loop_and_never_of_the_instant_itself(events):
    users, _, timestamps_us = exposures(events)
    found = features_of(events).log.last_clicked(users, timestamps_us, 4)
    order = np.argsort(events.timestamps_us, kind="stable")
    for row, (user, timestamp_us) in enumerate(zip(users, timestamps_us, strict=True)):
        own = [
            r
            for r in order
            if events.users[r] == user
            and events.clicked[r]
            and events.timestamps_us[r] < timestamp_us
        ]
        newest = [int(events.items[r]) for r in own[::-1][:4]]
        assert found[row].tolist() == newest + [0] * (4 - len(newest))
    np.testing.assert_array_equal(
        features_of(events).user_block(users, timestamps_us).codes["user_last_item"], found[:, 0]
    )


def test_blocks_keep_their_columns_together():
    block = Block(
        3,
        {"x": np.array([1.0, 2, 3]), "y": np.array([7.0, 8, 9])},
        {"c": np.array([4, 5, 6], np.int32)},
    )
    taken = block.take(np.array([2, 0]))
    assert taken.size == 2
    assert taken.numbers["x"].tolist() == [3, 1]
    assert taken.numbers["y"].tolist() == [9, 7]
    assert taken.codes["c"].tolist() == [6, 4]


def test_side_columns_that_are_called_like_what_is_made_of_the_log_are_named():
    """`last_device`, `history_length` and the like are the users' own; of a log without topics
    nothing is of topics.
    """
    own = {"last_device": COUNTRIES, "last_item": COUNTRIES, "history_length": COUNTRIES}
    ages = USER_SIDE.numbers["age"]
    numbers = {"age": ages, "shown": ages, "topic_share": ages, "last_topics_seen": ages}
    more = {"seconds_per_click": DURATIONS, "age_hours": DURATIONS, "size": DURATIONS}
    items = replace(ITEM_SIDE, numbers=ITEM_SIDE.numbers | more)
    features = AsOfFeatures(
        AsOfLog(random_log(), SideFeatures(own, {}, numbers), items, timed=True)
    )
    users = ["user_shown", "user_topic_share", "user_last_item"]
    assert features.name_clashes() == [*users, "item_seconds_per_click", "item_age_hours"]
    assert not features_of(random_log()).name_clashes()


def test_a_log_whose_items_have_no_channel_has_all_its_blocks():
    side = replace(ITEM_SIDE, codes=ITEM_SIDE.codes | {"channel_id": np.zeros(7, np.int32)})
    features = AsOfFeatures(AsOfLog(random_log(), USER_SIDE, side, timed=True))
    blocks = features.blocks(
        features.log.rows(np.array([1, 2, 0], np.int32), np.array([1, 0, 6], np.int32), 50 * HOUR)
    )
    assert not blocks["item"].numbers["channel_shown"].any()
    assert not blocks["pair"].numbers["user_channel_shown"].any()


def test_every_column_that_is_built_is_declared_in_its_block_and_of_a_known_group(events):
    features = AsOfFeatures(AsOfLog(events, USER_SIDE, ITEM_SIDE, timed=True, contexts={}))
    blocks = features.blocks(features.log.rows(*exposures(events)))
    opened = {
        "user": {"user_age", "user_country"},
        "item": {"item_channel_id", "item_topics"},
        "pair": {"same_country"},
    }
    for name, block in blocks.items():
        declared = {entry.name for entry in FEATURES.values() if entry.block == name}
        assert {*block.numbers, *block.codes} == declared | opened[name]
    assert len({entry.name for entry in CATALOGUE}) == len(CATALOGUE)
    assert {entry.group for entry in CATALOGUE} <= set(GROUP_KEYS)


def test_some_columns_are_those_of_their_blocks(events):
    features = features_of(events)
    rows = features.log.rows(*exposures(events))
    names = ("user_topic_click_log_ratio", "item_completion", "hour", "item_duration_seconds")
    whole = columns(features, *exposures(events))
    found = features.columns(names, rows)
    assert tuple(found) == names
    for name in names:
        np.testing.assert_array_equal(found[name], whole[name])


@pytest.mark.parametrize(
    ("pattern", "declared"),
    [
        *[
            ("item", True),
            ("*_log_ratio", True),
            ("user_topic_*", True),
            ("user_anything", True),
            ("recall_*", True),
        ],
        *[("device", True), ("us*", True), ("*", True), ("same_language", True), ("[hu]*", True)],
        *[
            ("zzz*", False),
            ("itme_shown", False),
            ("user", False),
            ("User_age", False),
            ("user_", False),
        ],
    ],
)
def test_a_pattern_is_declared_if_it_may_name_a_column(pattern, declared):
    assert is_declared(pattern) == declared


def test_every_entry_says_what_it_means_and_the_page_has_it():
    page = features_page()
    for entry in CATALOGUE:
        assert entry.meaning.endswith(".")
        assert f"| `{entry.name}` |" in page
        assert entry.source in page
    assert any(isinstance(entry, OpenFeatures) for entry in CATALOGUE)


def test_the_page_of_features_is_the_catalogues():
    assert PAGE.read_text() == features_page(), "run `python -m features.features_page`"
