"""The log of a simulated world: who came when, what the feed showed, what was clicked and how long
watched.

The feed fills a page slot by slot. For each slot it picks by taste (a liked topic, then often the
favourite channel, then what is talked about there), by popularity, or at random; taste and
popularity never show what the user has clicked before, and no page holds an item twice.
`propensity` is the exact probability, over the three ways together, that this slot of this user's
page shows this item, given the user's clicks before and the slots above. An impression is stamped
when its tile comes on screen, `SLOT_SECONDS` after the one above.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import schema as t
from features.arrays import Flags, Float64, Int64
from features.errors import InputError
from features.schema import DAY, HOUR, SECOND
from features.simulation import world as w
from features.simulation.world import Block, Codes, TimestampsUs, World, WorldConfig

SURFACES = ("home", "up_next", "search")
QUERY_FORMS = ("{}", "{} for beginners", "best {}", "{} explained")
RHYTHM = (
    np.array([2, 1, 1, 1, 1, 2, 4, 6, 6, 5, 5, 6, 7, 6, 5, 5, 6, 8, 10, 12, 12, 10, 7, 4]) / 132
)
TASTE, POPULAR, RANDOM = range(3)
SLOT_SECONDS = 3
# Channel 0 of the world is channel 1000 of its tables.
FIRST_CHANNEL = 1_000
SEARCH_FOCUS = 0.7
# A way of picking that has shown a user nearly all it could is left to chance, so that redrawing
# always ends.
EXHAUSTED = 0.99
# Ends every list of seen keys, so that a search always lands on an entry.
NO_KEY = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Searches:
    """Searches by time: raw user ids, instants (UTC), query texts; each some seconds before a
    page.
    """

    user_id: Int64
    timestamp: TimestampsUs
    query: npt.NDArray[np.str_]


@dataclass(frozen=True)
class SimulatedLog:
    """Impressions by time: raw ids, instants (UTC), codes into DEVICES and SURFACES, positions from
    1, and the number of the page that each one is on.
    """

    user_id: Int64
    item_id: Int64
    timestamp: TimestampsUs
    clicked: Flags
    watch_seconds: Float64
    device: Codes
    surface: Codes
    position: Int64
    propensity: Float64
    request_id: Int64
    searches: Searches


@dataclass(frozen=True)
class _Visits:
    """The pages opened in one hour, [pages]; `odds` [pages, topics] steer the taste part of the
    feed.
    """

    top: int
    user: Int64
    timestamp_us: Int64
    size: Int64
    searched: Int64
    odds: Float64


@dataclass(frozen=True)
class Shelves:
    """The catalogue at the top of an hour: what is out, how hot it is, and running sums to draw
    from.
    """

    published: Int64
    heat: Float64
    by_channel: Int64
    running: Float64
    channel_from: Float64
    channel_heat: Float64
    popular: Float64
    popular_running: Float64
    channel_odds: Float64


@dataclass(frozen=True)
class _Feed:
    """What the policy looks at in one hour; `seen`: sorted keys user * items + item of all clicks
    so far.
    """

    world: World
    shelves: Shelves
    visits: _Visits
    seen: Int64

    def is_seen(self, pages: Int64, items: Int64) -> Flags:
        """Whether the page's user has clicked the item before this hour: [n] -> [n]."""
        keys = self.visits.user[pages] * len(self.world.items.channel) + items
        place = np.searchsorted(self.seen, keys)
        return np.asarray(self.seen[place] == keys)


@dataclass(frozen=True)
class _Pages:
    """Items shown, -1 past the page's end, and the probability of each: [pages, slots]."""

    item: Int64
    propensity: Float64


@dataclass(frozen=True)
class _Rows:
    """One hour's impressions, by indexes and microseconds."""

    user: Int64
    item: Int64
    timestamp_us: Int64
    clicked: Flags
    seconds: Float64
    device: Codes
    surface: Codes
    position: Int64
    propensity: Float64
    page: Int64


@dataclass(frozen=True)
class _Queries:
    """One hour's searches, by indexes and microseconds."""

    user: Int64
    timestamp_us: Int64
    topic: Int64
    form: Int64


def simulate(config: WorldConfig) -> tuple[World, SimulatedLog]:
    """The world of a configuration and its log: the same seed, the same rows; more days only add
    rows.
    """
    world = w.build(config)
    seen, pages = np.array([NO_KEY]), 0
    rows, searches = [], []
    for day in range(config.days):
        rng = config.stream(day + 1, w.VISITS)
        for visits in _visits(world, day, rng):
            feed = _Feed(world, shelves(world, day, visits.top), visits, seen)
            rows.append(_watched(world, visits, _filled_pages(feed, rng), pages, rng))
            pages += visits.user.size
            searches.append(_searched(visits, rng))
            seen = _with_clicks(seen, rows[-1], len(world.items.channel))
    return world, _log(world, w.joined(rows), w.joined(searches))


def write(world: World, log: SimulatedLog, out: Path) -> None:
    """Writes the four tables of the canonical layout and `truth/` (npy and JSON) under `out`.

    Every file is renamed into its place, the interactions last: who finds new interactions finds
    the rest.
    """
    truth = out / "truth"
    truth.mkdir(parents=True, exist_ok=True)
    _write_truth(world, truth)
    _write_table(out / "users.parquet", _users_table(world))
    _write_table(out / "items.parquet", _items_table(world))
    _write_table(out / "searches.parquet", _searches_table(log))
    _write_table(out / "interactions.parquet", _interactions_table(log))


def simulate_into(out: Path, config: WorldConfig) -> int:
    """Simulate a world and `write` it under `out`; returns the log's rows."""
    world, log = simulate(config)
    write(world, log, out)
    return len(log.user_id)


def load_ground_truth(data: Path) -> World:
    """The world that `write` kept under `data`; refuses a folder without it or with a damaged
    one.
    """
    truth = data / "truth"
    try:
        config = WorldConfig.model_validate_json((truth / "config.json").read_text())
        users = w.Users(
            **{field.name: _array(truth, f"users.{field.name}") for field in fields(w.Users)}
        )
        items = w.Items(
            **{field.name: _array(truth, f"items.{field.name}") for field in fields(w.Items)}
        )
        return World(config, users, items, _array(truth, "prior"), _array(truth, "levels"))
    except (OSError, ValueError, EOFError) as fault:
        raise InputError(
            f"{truth}: the truth of a simulated world is expected here and cannot be read "
            f"({str(fault).splitlines()[0]}); write the world again with `funnel simulate`."
        ) from fault


def load_log(data: Path) -> SimulatedLog:
    """The log that `write` kept under `data`."""
    rows = pq.read_table(data / "interactions.parquet")
    searches = pq.read_table(data / "searches.parquet")
    return SimulatedLog(
        user_id=rows[t.USER].to_numpy(),
        item_id=rows[t.ITEM].to_numpy(),
        timestamp=_timestamps_us(rows[t.TIMESTAMP]),
        clicked=rows[t.CLICKED].to_numpy(),
        watch_seconds=rows[t.WATCH_SECONDS].to_numpy(),
        device=_codes(rows[t.DEVICE], w.DEVICES),
        surface=_codes(rows[t.SURFACE], SURFACES),
        position=rows[t.POSITION].to_numpy(),
        propensity=rows[t.PROPENSITY].to_numpy(),
        request_id=rows[t.REQUEST].to_numpy(),
        searches=Searches(
            user_id=searches[t.USER].to_numpy(),
            timestamp=_timestamps_us(searches[t.TIMESTAMP]),
            query=searches[t.QUERY].to_numpy().astype(np.str_),
        ),
    )


def _visits(world: World, day: int, rng: np.random.Generator) -> Iterator[_Visits]:
    count = world.config.users_by(day)
    chance = 1 - np.exp(-RHYTHM[:, None] * world.users.sessions_a_day[:count])
    came = rng.random(chance.shape) < chance
    pull = np.array(world.config.behaviour.level_pull)[world.levels[day, :count]]
    odds = pull / pull.sum(axis=1, keepdims=True)
    for hour in np.flatnonzero(came.any(axis=1)):
        users = np.flatnonzero(came[hour])
        top = world.config.origin + day * DAY + int(hour) * HOUR
        yield _opened(world.config, top, users, odds[users], rng)


def _opened(
    config: WorldConfig, top: int, users: Int64, odds: Float64, rng: np.random.Generator
) -> _Visits:
    # Two minutes at either end keep searches and the page's last slot inside the hour.
    timestamp_us = top + rng.integers(120 * SECOND, HOUR - 120 * SECOND, size=users.size)
    size = rng.integers(w.PAGE_SIZES[0], w.PAGE_SIZES[1] + 1, size=users.size)
    wanted = w.drawn(odds, rng.random(users.size))
    searched = np.where(rng.random(users.size) < config.search_share, wanted, -1)
    focus = np.where(searched >= 0, SEARCH_FOCUS, 0.0)[:, None]
    odds = (1 - focus) * odds + focus * (wanted[:, None] == np.arange(config.topics))
    return _Visits(top, users, timestamp_us, size, searched, odds)


def shelves(world: World, day: int, top: int) -> Shelves:
    """The catalogue of a day at an instant (microseconds) of it."""
    config = world.config
    # Only what is published by the day's end: sums run over the same numbers however long the world
    # goes on.
    items = np.arange(config.items_by(day))
    out = world.items.published[items] <= top
    heat = np.where(
        out, np.exp(world.items.appeal[items]) * w.buzz(world, items, np.asarray(top)), 0.0
    )
    by_channel = np.argsort(world.items.channel[items], kind="stable")
    ends = np.searchsorted(
        world.items.channel[by_channel], np.arange(config.channels), side="right"
    )
    running = np.cumsum(heat[by_channel])
    channel_to = running[ends - 1]
    channel_from = np.append(0.0, channel_to[:-1])
    popular = heat**config.behaviour.popular_power
    popular_running = np.cumsum(popular)
    return Shelves(
        published=np.flatnonzero(out),
        heat=heat,
        by_channel=by_channel,
        running=running,
        channel_from=channel_from,
        channel_heat=channel_to - channel_from,
        popular=popular / popular_running[-1],
        popular_running=popular_running,
        channel_odds=w.channel_odds(config),
    )


def _filled_pages(feed: _Feed, rng: np.random.Generator) -> _Pages:
    shape = (feed.visits.user.size, w.PAGE_SIZES[1])
    pages = _Pages(np.full(shape, -1), np.zeros(shape))
    barred = _seen_chances(feed)
    for slot in range(shape[1]):
        rows = np.flatnonzero(feed.visits.size > slot)
        ways = _ways(feed.world.config, barred[rows])
        items = _chosen(feed, rows, pages.item, ways, rng)
        chances = _chances(feed, rows, items) * ~feed.is_seen(rows, items)[:, None]
        allowed = np.maximum(1 - barred[rows], 1 - EXHAUSTED)
        at_random = ways[:, RANDOM] / (feed.shelves.published.size - slot)
        pages.propensity[rows, slot] = (ways[:, :RANDOM] * chances / allowed).sum(
            axis=1
        ) + at_random
        pages.item[rows, slot] = items
        barred[rows] += chances
    return pages


def _ways(config: WorldConfig, barred: Float64) -> Float64:
    """Chance of picking by taste, by popularity and at random for each page: [n, 3]."""
    planned = np.array([config.taste_share, config.popular_share])
    ways = np.where(barred < EXHAUSTED, planned, 0.0)
    return np.column_stack([ways, 1 - ways.sum(axis=1)])


def _seen_chances(feed: _Feed) -> Float64:
    """Taste's and popularity's chance of what each page's user has clicked before: [pages, 2]."""
    size = len(feed.world.items.channel)
    first, last = np.searchsorted(
        feed.seen, [feed.visits.user * size, (feed.visits.user + 1) * size]
    )
    pages = np.repeat(np.arange(first.size), last - first)
    within = np.arange(pages.size) - np.repeat(
        np.cumsum(last - first) - (last - first), last - first
    )
    chances = _chances(feed, pages, feed.seen[first[pages] + within] % size)
    sums = [np.bincount(pages, chances[:, way], first.size) for way in (TASTE, POPULAR)]
    return np.stack(sums, axis=1).astype(np.float64)


def _chances(feed: _Feed, pages: Int64, items: Int64) -> Float64:
    """Taste's and popularity's chance of each item were nothing barred: [n, 2]."""
    world, shelves, behaviour = feed.world, feed.shelves, feed.world.config.behaviour
    users, channel = feed.visits.user[pages], world.items.channel[items]
    topic, place = np.divmod(channel, world.config.channels_a_topic)
    favourite = world.users.favourite[users, topic] == place
    language = w.COUNTRY_LANGUAGE[world.users.country[users]]
    other = (1 - behaviour.favourite_pull) * shelves.channel_odds[language, topic, place]
    in_topic = (
        (behaviour.favourite_pull * favourite + other)
        * shelves.heat[items]
        / shelves.channel_heat[channel]
    )
    return np.stack([feed.visits.odds[pages, topic] * in_topic, shelves.popular[items]], axis=1)


def _chosen(
    feed: _Feed, pages: Int64, shown: Int64, ways: Float64, rng: np.random.Generator
) -> Int64:
    """One item a page; what is on the page, or seen and not picked at random, is drawn again the
    same way.
    """
    way = w.drawn(ways, rng.random(pages.size))
    items = np.empty(pages.size, dtype=np.int64)
    left = np.arange(pages.size)
    while left.size:
        items[left] = _offers(feed, pages[left], way[left], rng)
        repeated = (shown[pages[left]] == items[left, None]).any(axis=1)
        known = (way[left] != RANDOM) & feed.is_seen(pages[left], items[left])
        left = left[repeated | known]
    return items


def _offers(feed: _Feed, pages: Int64, way: Int64, rng: np.random.Generator) -> Int64:
    shelves = feed.shelves
    items = shelves.published[rng.integers(shelves.published.size, size=pages.size)]
    popular, taste = np.flatnonzero(way == POPULAR), np.flatnonzero(way == TASTE)
    mark = rng.random(popular.size) * shelves.popular_running[-1]
    items[popular] = np.searchsorted(shelves.popular_running, mark, side="right")
    items[taste] = _offers_by_taste(feed, pages[taste], rng)
    return items


def _offers_by_taste(feed: _Feed, pages: Int64, rng: np.random.Generator) -> Int64:
    world, shelves, config = feed.world, feed.shelves, feed.world.config
    users = feed.visits.user[pages]
    topic = w.drawn(feed.visits.odds[pages], rng.random(pages.size))
    language = w.COUNTRY_LANGUAGE[world.users.country[users]]
    other = w.drawn(shelves.channel_odds[language, topic], rng.random(pages.size))
    loyal = rng.random(pages.size) < config.behaviour.favourite_pull
    place = np.where(loyal, world.users.favourite[users, topic], other)
    channel = topic * config.channels_a_topic + place
    mark = shelves.channel_from[channel] + rng.random(pages.size) * shelves.channel_heat[channel]
    return shelves.by_channel[np.searchsorted(shelves.running, mark, side="right")]


def _watched(
    world: World, visits: _Visits, pages: _Pages, earlier: int, rng: np.random.Generator
) -> _Rows:
    """What became of one hour's pages, by time, `earlier` pages having been opened before it."""
    page, slot = np.nonzero(pages.item >= 0)
    user, item = visits.user[page], pages.item[page, slot]
    timestamp_us = visits.timestamp_us[page] + slot * SLOT_SECONDS * SECOND
    click, watch_logit = w.reactions(world, user, item, timestamp_us)
    clicked = rng.random(item.size) < click * w.examination(world.config.behaviour, slot + 1)
    watched = world.items.duration[item] * rng.random(item.size) ** np.exp(-watch_logit)
    device, surface = _context(world, visits, rng)
    rows = _Rows(
        user=user,
        item=item,
        timestamp_us=timestamp_us,
        clicked=clicked,
        seconds=np.where(clicked, watched, 0.0),
        device=device[page],
        surface=surface[page],
        position=slot + 1,
        propensity=pages.propensity[page, slot],
        page=earlier + page,
    )
    return _taken(rows, np.lexsort((user, timestamp_us)))


def _context(world: World, visits: _Visits, rng: np.random.Generator) -> tuple[Codes, Codes]:
    """Device (mostly the user's own) and surface of each page; neither changes what is clicked."""
    pages = visits.user.size
    elsewhere = rng.integers(len(w.DEVICES), size=pages, dtype=np.int8)
    device = np.where(rng.random(pages) < 0.85, world.users.device[visits.user], elsewhere)
    surface = np.where(visits.searched >= 0, SURFACES.index("search"), rng.random(pages) < 0.3)
    return device, surface.astype(np.int8)


def _searched(visits: _Visits, rng: np.random.Generator) -> _Queries:
    page = np.flatnonzero(visits.searched >= 0)
    timestamp_us = visits.timestamp_us[page] - rng.integers(
        20 * SECOND, 90 * SECOND, size=page.size
    )
    form = rng.integers(len(QUERY_FORMS), size=page.size)
    queries = _Queries(visits.user[page], timestamp_us, visits.searched[page], form)
    return _taken(queries, np.lexsort((queries.user, timestamp_us)))


def _with_clicks(seen: Int64, rows: _Rows, items: int) -> Int64:
    keys = np.sort(rows.user[rows.clicked] * items + rows.item[rows.clicked])
    places = np.searchsorted(seen, keys)
    fresh = seen[places] != keys
    return np.insert(seen, places[fresh], keys[fresh])


def _log(world: World, rows: _Rows, queries: _Queries) -> SimulatedLog:
    forms = [[form.format(topic) for form in QUERY_FORMS] for topic in w.topic_names(world.config)]
    return SimulatedLog(
        user_id=world.user_ids[rows.user],
        item_id=world.item_ids[rows.item],
        timestamp=rows.timestamp_us.view("datetime64[us]"),
        clicked=rows.clicked,
        watch_seconds=rows.seconds,
        device=rows.device,
        surface=rows.surface,
        position=rows.position,
        propensity=rows.propensity,
        request_id=rows.page,
        searches=Searches(
            user_id=world.user_ids[queries.user],
            timestamp=queries.timestamp_us.view("datetime64[us]"),
            query=np.array(forms)[queries.topic, queries.form],
        ),
    )


def _interactions_table(log: SimulatedLog) -> pa.Table:
    return pa.table(
        {
            t.USER: log.user_id,
            t.ITEM: log.item_id,
            t.TIMESTAMP: _utc(log.timestamp),
            t.CLICKED: log.clicked,
            t.WATCH_SECONDS: log.watch_seconds,
            t.DEVICE: _named(w.DEVICES, log.device),
            t.SURFACE: _named(SURFACES, log.surface),
            t.POSITION: log.position,
            t.PROPENSITY: log.propensity,
            t.REQUEST: log.request_id,
        }
    )


def _items_table(world: World) -> pa.Table:
    config, items = world.config, world.items
    language = w.channel_language(config)[items.channel]
    return pa.table(
        {
            t.ITEM: world.item_ids,
            t.TITLE: _titles(world),
            t.PUBLISHED_AT: _utc(items.published.view("datetime64[us]")),
            t.DURATION_SECONDS: items.duration,
            t.CHANNEL: items.channel + FIRST_CHANNEL,
            t.TOPICS: _topic_lists(world),
            t.LANGUAGE: _named(w.LANGUAGES, language),
        }
    )


def _titles(world: World) -> pa.Array:
    """Titles as a series has them, such as `Chess 1003, part 12`: topic, channel, and number in the
    channel.

    An item's number counts those of its channel before it, so that more days change no older title.
    """
    channels = world.items.channel
    order = np.argsort(channels, kind="stable")
    number = np.empty(len(channels), np.int64)
    number[order] = np.arange(1, len(channels) + 1) - np.searchsorted(
        channels[order], channels[order]
    )
    names = [name.capitalize() for name in w.topic_names(world.config)]
    topics = _named(names, world.topic_of(np.arange(len(channels))))
    series = pa.array(channels + FIRST_CHANNEL).cast(pa.string())
    with_channel = pc.binary_join_element_wise(topics, series, " ")
    return pc.binary_join_element_wise(with_channel, pa.array(number).cast(pa.string()), ", part ")


def _topic_lists(world: World) -> pa.ListArray:
    """The item's own topic, and for some a second tag that nobody reacts to, as tags often are."""
    own, second = world.topic_of(np.arange(len(world.items.channel))), world.items.second_topic
    tags = np.column_stack([own, second])
    kept = np.column_stack([own >= 0, (second >= 0) & (second != own)])
    offsets = np.append(0, np.cumsum(kept.sum(axis=1)))
    return pa.ListArray.from_arrays(
        offsets.astype(np.int32), _named(w.topic_names(world.config), tags[kept])
    )


def _users_table(world: World) -> pa.Table:
    users = world.users
    regions = [f"{country}-{region}" for country in w.COUNTRIES for region in w.REGIONS]
    return pa.table(
        {
            t.USER: world.user_ids,
            t.COUNTRY: _named(w.COUNTRIES, users.country),
            t.REGION: _named(
                regions, users.country.astype(np.int64) * len(w.REGIONS) + users.region
            ),
            t.DEVICE: _named(w.DEVICES, users.device),
            t.GENDER: _named(w.GENDERS, users.gender),
            t.AGE: users.age,
            t.LANGUAGE: _named(w.LANGUAGES, users.language),
        }
    )


def _searches_table(log: SimulatedLog) -> pa.Table:
    searches = log.searches
    return pa.table(
        {
            t.USER: searches.user_id,
            t.TIMESTAMP: _utc(searches.timestamp),
            t.QUERY: pa.array(searches.query, pa.string()),
        }
    )


def _utc(timestamps_us: TimestampsUs) -> pa.Array:
    return pa.array(timestamps_us.view(np.int64)).cast(pa.timestamp("us", tz="UTC"))


def _timestamps_us(column: pa.ChunkedArray) -> TimestampsUs:
    return np.asarray(column.cast(pa.int64()).to_numpy().view("datetime64[us]"))


def _codes(column: pa.ChunkedArray, names: Sequence[str]) -> Codes:
    return np.asarray(pc.index_in(column, pa.array(names)).to_numpy().astype(np.int8))


def _named(names: Sequence[str], codes: npt.NDArray[Any]) -> pa.Array:
    return pa.array(names).take(pa.array(codes))


def _write_table(path: Path, table: pa.Table) -> None:
    partial = path.with_name(f".{path.name}.partial")
    pq.write_table(table, partial, compression="zstd")
    os.replace(partial, path)


def _write_truth(world: World, truth: Path) -> None:
    arrays = {f"users.{name}": array for name, array in _columns(world.users).items()}
    arrays |= {f"items.{name}": array for name, array in _columns(world.items).items()}
    for name, array in (arrays | {"prior": world.prior, "levels": world.levels}).items():
        partial = truth / f".{name}.partial.npy"
        np.save(partial, array, allow_pickle=False)
        os.replace(partial, truth / f"{name}.npy")
    (truth / "config.json").write_text(world.config.model_dump_json(indent=2))


def _array(truth: Path, name: str) -> Any:
    return np.load(truth / f"{name}.npy", allow_pickle=False)


def _columns(block: Any) -> dict[str, npt.NDArray[Any]]:
    return {field.name: getattr(block, field.name) for field in fields(block)}


def _taken(block: Block, order: Int64) -> Block:
    return type(block)(**{name: column[order] for name, column in _columns(block).items()})
