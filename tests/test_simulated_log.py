import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.arrays import Float64, Int64
from features.errors import InputError
from features.schema import CONTRACTS, DAY, HOUR
from features.simulation import simulated_log as s
from features.simulation import world as w
from features.simulation.simulated_log import (
    SimulatedLog,
    load_ground_truth,
    load_log,
    simulate,
    write,
)
from features.simulation.world import World, WorldConfig, expected_seconds

pytestmark = pytest.mark.slow

TINY = WorldConfig(
    users=60,
    users_a_day=5,
    items=80,
    items_a_day=10,
    days=3,
    impressions_a_day=1_500,
    topics=8,
    favourite_topics=2,
)


@pytest.fixture(scope="module")
def tiny() -> tuple[World, SimulatedLog]:
    return simulate(TINY)


def _expected(world: World, log: SimulatedLog) -> Float64:
    looked = w.examination(world.config.behaviour, log.position)
    return expected_seconds(world, log.user_id, log.item_id, log.timestamp) * looked


def _z(values: Float64, truth: Float64 | float) -> float:
    """By how many standard errors the mean of values misses the mean of the truth."""
    error = values - truth
    return float(error.mean() / (error.std() / np.sqrt(error.size)))


def _microseconds(log: SimulatedLog) -> Int64:
    return w.microseconds(log.timestamp)


def _published_then(world: World, timestamps_us: Int64) -> Int64:
    """How many items the feed could pick from: those out at the top of the hour."""
    return np.searchsorted(
        np.sort(world.items.published), timestamps_us // HOUR * HOUR, side="right"
    )


def test_watched_seconds_agree_with_their_expectation_in_every_bucket(
    world: World, log: SimulatedLog
) -> None:
    expected = _expected(world, log)
    for bucket in np.array_split(np.argsort(expected), 12):
        assert abs(_z(log.watch_seconds[bucket], expected[bucket])) < 4


def test_seconds_given_a_click_agree_with_their_closed_form(
    world: World, log: SimulatedLog
) -> None:
    clicks = log.clicked
    user, item = world.user_index(log.user_id[clicks]), world.item_index(log.item_id[clicks])
    log_a = w.reactions(world, user, item, _microseconds(log)[clicks])[1]
    expected = world.items.duration[item] * w.sigmoid(log_a)
    for bucket in np.array_split(np.argsort(expected), 8):
        assert abs(_z(log.watch_seconds[clicks][bucket], expected[bucket])) < 4


def test_clicks_follow_the_position_bias(world: World, log: SimulatedLog) -> None:
    user, item = world.user_index(log.user_id), world.item_index(log.item_id)
    attraction = w.reactions(world, user, item, _microseconds(log))[0]
    for position in range(1, 13):
        rows = log.position == position
        looked = log.clicked[rows].sum() / attraction[rows].sum()
        assert looked == pytest.approx(position**-world.config.behaviour.examination, rel=0.08)


def test_the_click_rate_is_that_of_a_feed(log: SimulatedLog) -> None:
    assert 0.15 < log.clicked.mean() < 0.35


def test_clickbait_is_clicked_much_and_watched_little(world: World, log: SimulatedLog) -> None:
    bait = world.items.clickbait[world.item_index(log.item_id)]
    assert log.clicked[bait].mean() > 1.3 * log.clicked[~bait].mean()
    clicked = log.clicked
    assert (
        log.watch_seconds[clicked & bait].mean() < 0.4 * log.watch_seconds[clicked & ~bait].mean()
    )


def test_propensities_of_one_slot_sum_to_one_over_all_items(
    world: World, log: SimulatedLog
) -> None:
    feed = _feed_after(world, log, pages=200)
    items = np.arange(world.config.items_by(3))
    page, item = (grid.ravel() for grid in np.meshgrid(np.arange(200), items, indexing="ij"))
    barred = s._seen_chances(feed)
    ways = s._ways(world.config, barred)[page]
    picks = s._chances(feed, page, item) * ~feed.is_seen(page, item)[:, None] / (1 - barred[page])
    at_random = ways[:, 2] * np.isin(item, feed.shelves.published) / feed.shelves.published.size
    total = ((ways[:, :2] * picks).sum(axis=1) + at_random).reshape(200, -1).sum(axis=1)
    assert barred.max() > 0.1
    np.testing.assert_allclose(total, 1, rtol=1e-9)


def test_items_are_shown_as_often_as_their_propensity_says(world: World, log: SimulatedLog) -> None:
    pages = 20_000
    feed = _feed_after(world, log, pages, same_user=True)
    shown = s._filled_pages(feed, np.random.default_rng(1))
    item, first, count = np.unique(shown.item[:, 0], return_index=True, return_counts=True)
    propensity = shown.propensity[first, 0]
    deviation = (count - pages * propensity) / np.sqrt(pages * propensity * (1 - propensity))
    often = pages * propensity > 10
    assert often.sum() > 20
    assert np.abs(deviation[often]).max() < 4.5
    assert item.size > 300


def test_propensities_of_lower_slots_know_what_stands_above_them(
    world: World, log: SimulatedLog
) -> None:
    shown = s._filled_pages(
        _feed_after(world, log, 20_000, same_user=True), np.random.default_rng(2)
    )
    often = np.argsort(-np.bincount(shown.item[:, 7]))[:25]
    for item in often:
        free = (shown.item[:, :7] != item).all(axis=1)
        weight = (shown.item[:, 7] == item) / shown.propensity[:, 7]
        assert abs(_z(weight, free.astype(float))) < 4


@pytest.mark.parametrize("position", [1, 2, 5, 8])
def test_inverse_propensities_count_the_catalogue_at_every_slot(
    world: World, log: SimulatedLog, position: int
) -> None:
    rows = log.position == position
    open_to_the_slot = _published_then(world, _microseconds(log)[rows]) - (position - 1)
    assert abs(_z(1 / log.propensity[rows], open_to_the_slot.astype(float))) < 4


def test_inverse_propensity_weights_recover_the_value_of_showing_at_random(
    world: World, log: SimulatedLog
) -> None:
    rows = np.flatnonzero(log.position == 1)
    chance = 1 / _published_then(world, _microseconds(log)[rows])
    estimate = log.watch_seconds[rows] * chance / log.propensity[rows]
    some = rows[:: len(rows) // 400]
    user, item = (g.ravel() for g in np.meshgrid(log.user_id[some], world.item_ids, indexing="ij"))
    top = np.repeat(_microseconds(log)[some] // HOUR * HOUR, len(world.item_ids))
    value = (
        expected_seconds(world, user, item, top).sum()
        / _published_then(world, top).mean()
        / some.size
    )
    naive = log.watch_seconds[rows].mean()
    assert naive > 3 * value
    assert abs(_z(estimate, value)) < 4


def test_what_a_user_clicked_is_shown_again_by_chance_only(world: World, log: SimulatedLog) -> None:
    pair = log.user_id * 10**9 + log.item_id
    first_click = np.sort(np.unique(pair[log.clicked]))
    _, first_row = np.unique(pair[log.clicked], return_index=True)
    row_of_click = np.flatnonzero(log.clicked)[first_row]
    place = np.minimum(np.searchsorted(first_click, pair), len(first_click) - 1)
    again = (first_click[place] == pair) & (np.arange(pair.size) > row_of_click[place])
    assert 0 < again.mean() < 0.01
    by_chance = 1 - world.config.taste_share - world.config.popular_share
    most = by_chance / (_published_then(world, _microseconds(log)[again]) - 12)
    exhausted = log.propensity[again] > most
    assert exhausted.mean() < 0.05


def test_rows_are_in_time_order_and_never_before_publication(
    world: World, log: SimulatedLog
) -> None:
    timestamps_us = _microseconds(log)
    assert (np.diff(timestamps_us) >= 0).all()
    assert (world.items.published[world.item_index(log.item_id)] <= timestamps_us).all()


def test_unclicked_rows_have_no_seconds_and_no_watch_is_longer_than_the_video(
    world: World, log: SimulatedLog
) -> None:
    assert (log.watch_seconds[~log.clicked] == 0).all()
    assert (log.watch_seconds[log.clicked] > 0).all()
    assert (log.watch_seconds <= world.items.duration[world.item_index(log.item_id)]).all()


def test_a_page_has_eight_to_twelve_distinct_items(log: SimulatedLog) -> None:
    order = np.lexsort((_microseconds(log), log.user_id))
    page = np.cumsum(log.position[order] == 1)
    sizes = np.bincount(page)[1:]
    assert (sizes.min(), sizes.max()) == (8, 12)
    assert len(np.unique(page * 10**9 + log.item_id[order])) == len(order)


def test_activity_is_heavy_tailed_and_has_a_daily_rhythm(world: World, log: SimulatedLog) -> None:
    _, rows = np.unique(log.user_id, return_counts=True)
    assert np.percentile(rows, 99) > 4 * np.median(rows)
    by_hour = np.bincount(_microseconds(log) // HOUR % 24, minlength=24)
    assert by_hour[19:22].mean() > 4 * by_hour[1:5].mean()
    assert len(log.user_id) == pytest.approx(
        world.config.days * world.config.impressions_a_day, rel=0.1
    )


def test_new_users_come_every_day_and_only_from_their_day_on(
    world: World, log: SimulatedLog
) -> None:
    user = world.user_index(log.user_id)
    day = world.day_of(_microseconds(log))
    assert (world.users.joined_day[user] <= day).all()
    newcomers = user >= world.config.users
    assert set(world.users.joined_day[user[newcomers]]) == set(range(world.config.days))


def test_a_search_comes_just_before_a_page_that_leans_to_its_topic(
    world: World, log: SimulatedLog
) -> None:
    timestamps_us, searched_at = _microseconds(log), w.microseconds(log.searches.timestamp)
    assert (np.diff(searched_at) >= 0).all()
    pages = np.flatnonzero((log.surface == s.SURFACES.index("search")) & (log.position == 1))
    assert len(pages) == len(searched_at)
    pages = pages[np.lexsort((timestamps_us[pages], log.user_id[pages]))]
    searches = np.lexsort((searched_at, log.searches.user_id))
    np.testing.assert_array_equal(log.user_id[pages], log.searches.user_id[searches])
    lead = (timestamps_us[pages] - searched_at[searches]) / s.SECOND
    assert lead.min() >= 20
    assert lead.max() < 90
    names = np.array(w.topic_names(world.config))[
        world.topic_of(world.item_index(log.item_id[pages]))
    ]
    of_its_topic = np.array(
        [
            name in query.split()
            for name, query in zip(names, log.searches.query[searches], strict=True)
        ]
    )
    assert of_its_topic.mean() > 0.5


def test_a_new_day_leaves_the_rows_of_the_days_before_as_they_are(
    tiny: tuple[World, SimulatedLog],
) -> None:
    three, four = tiny[1], simulate(TINY.model_copy(update={"days": 4}))[1]
    _assert_begins_with(four, three, skip=("searches",))
    _assert_begins_with(four.searches, three.searches)
    assert len(four.user_id) > len(three.user_id)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(
    tiny: tuple[World, SimulatedLog], tmp_path: Path
) -> None:
    write(*tiny, tmp_path / "one")
    write(*simulate(TINY), tmp_path / "again")
    write(*simulate(TINY.model_copy(update={"seed": 1})), tmp_path / "other")
    one, again, other = (_digests(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    same = {name for name, digest in one.items() if other[name] == digest}
    assert same == {"truth/users.joined_day.npy"}


def test_written_tables_keep_the_contract(tiny: tuple[World, SimulatedLog], tmp_path: Path) -> None:
    write(*tiny, tmp_path)
    for name, contract in CONTRACTS.items():
        schema = pq.read_schema(tmp_path / f"{name}.parquet")
        assert set(schema.names) == set(contract.kinds)
        timestamps_us = [
            column for column, kind in contract.kinds.items() if kind == "timestamp_us"
        ]
        assert all(
            schema.field(column).type == pa.timestamp("us", tz="UTC") for column in timestamps_us
        )
        assert all(
            column.null_count == 0 for column in pq.read_table(tmp_path / f"{name}.parquet").columns
        )
    assert not list(tmp_path.rglob("*.partial*"))


def test_truth_and_log_come_back_as_they_were_written(
    tiny: tuple[World, SimulatedLog], tmp_path: Path
) -> None:
    world, log = tiny
    write(world, log, tmp_path)
    back, log_back = load_ground_truth(tmp_path), load_log(tmp_path)
    assert back.config == world.config
    _assert_begins_with(log_back, log, skip=("searches",))
    _assert_begins_with(log_back.searches, log.searches)
    np.testing.assert_array_equal(_expected(back, log_back), _expected(world, log))


@pytest.mark.parametrize("fault", ["absent", "truncated", "config"])
def test_a_missing_or_damaged_truth_is_refused(
    tiny: tuple[World, SimulatedLog], tmp_path: Path, fault: str
) -> None:
    write(*tiny, tmp_path)
    damaged = tmp_path / "truth" / ("config.json" if fault == "config" else "levels.npy")
    if fault == "absent":
        damaged.unlink()
    else:
        damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(InputError, match=r"the truth of a simulated world is expected here"):
        load_ground_truth(tmp_path)


def test_users_who_have_seen_nearly_everything_are_still_served() -> None:
    config = WorldConfig(
        users=4, users_a_day=0, items=48, items_a_day=0, days=2, impressions_a_day=2_000, topics=2,
        channels_a_topic=1, favourite_topics=0.5, taste_share=0.9, popular_share=0.05,
    )  # fmt: skip
    _, log = simulate(config)
    assert len(log.user_id) > 400
    assert ((log.propensity > 0) & (log.propensity <= 1)).all()


def _feed_after(world: World, log: SimulatedLog, pages: int, same_user: bool = False) -> s._Feed:
    """The feed at noon of day 3 for the most active users, or for one of them many times over."""
    top = world.config.origin + 3 * DAY + 12 * HOUR
    before = log.clicked & (_microseconds(log) < top)
    user, item = world.user_index(log.user_id[before]), world.item_index(log.item_id[before])
    seen = np.append(np.unique(user * len(world.items.channel) + item), s.NO_KEY)
    busiest = np.argsort(-np.bincount(user))[: 1 if same_user else pages]
    users = np.resize(busiest, pages)
    pull = np.array(world.config.behaviour.level_pull)[world.levels[3, users]]
    odds = pull / pull.sum(axis=1, keepdims=True)
    visits = s._Visits(top, users, np.full(pages, top), np.full(pages, 8), np.full(pages, -1), odds)
    return s._Feed(world, s.shelves(world, 3, top), visits, seen)


def _assert_begins_with(longer: object, shorter: object, skip: tuple[str, ...] = ()) -> None:
    for name, column in vars(shorter).items():
        if name not in skip:
            np.testing.assert_array_equal(vars(longer)[name][: len(column)], column, err_msg=name)


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_titles_say_topic_channel_and_number_and_stay_when_the_world_goes_on(
    tmp_path: Path,
) -> None:
    titles = {}
    for days in (1, 3):
        write(*simulate(TINY.model_copy(update={"days": days})), tmp_path)
        items = pq.read_table(tmp_path / "items.parquet").to_pylist()
        titles[days] = {item["item_id"]: item["title"] for item in items}
        for item in items:
            topic, channel = item["topics"][0].capitalize(), item["channel_id"]
            assert item["title"].startswith(f"{topic} {channel}, part ")
    assert len(set(titles[3].values())) == len(titles[3])
    assert titles[1].items() <= titles[3].items()
