"""A made-up world of viewers and videos whose laws are known, so that every estimate can be
checked.

The laws. A viewer likes a few of the topics, each at a level 0 to 3, and in each topic has one
favourite channel; now and then a level is drawn anew. A video belongs to one channel, hence to one
topic and one language; it is new, rises, and fades. Where a viewer meets a video the *situation* is
one of 16 (foreign language or not, level, favourite channel or not); a click and the share watched
follow from it and the video:

    P(click at position p) = p ** -examination * sigmoid(click score of video + effect of situation)
    watch seconds          = duration * U ** (1 / a)
    log a                  = watch score of video + effect of situation

with U uniform, so that E[seconds | click] = duration * a / (1 + a). Inside this module viewers and
videos are indexes; outside they are raw ids, scattered so that no id is ever a valid index.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from features.arrays import Flags, Float64, Int64
from features.errors import InputError
from features.schema import DAY

Codes = npt.NDArray[np.int8]
TimestampsUs = npt.NDArray[np.datetime64]
Instant = datetime | np.datetime64 | int | TimestampsUs | Int64
Block = TypeVar("Block")

LEVELS, SITUATIONS = 4, 16
PAGE_SIZES = (8, 12)

LANGUAGES = ("en", "es", "de")
COUNTRIES, COUNTRY_SHARES = ("US", "GB", "ES", "MX", "DE"), (0.4, 0.2, 0.12, 0.1, 0.18)
COUNTRY_LANGUAGE = np.array([0, 0, 1, 1, 2], dtype=np.int8)
CHANNEL_LANGUAGE_CYCLE = np.array([0, 0, 0, 1, 2], dtype=np.int8)
REGIONS = ("north", "east", "south", "west")
DEVICES, DEVICE_SHARES = ("phone", "desktop", "tv", "tablet"), (0.6, 0.2, 0.12, 0.08)
GENDERS = ("female", "male", "other")
AGE_BANDS = np.array([25, 45])
# fmt: off
TOPIC_WORDS = (
    "chess", "cooking", "sailing", "guitar", "history", "astronomy", "gardening", "cycling",
    "football", "cinema", "painting", "economics", "travel", "fashion", "robotics", "fishing",
    "poetry", "yoga", "photography", "wildlife", "architecture", "physics", "medicine", "law",
    "comedy", "theatre", "pottery", "climbing", "aviation", "railways", "knitting", "baking",
    "coffee", "tennis", "swimming", "magic", "languages", "volcanoes", "dogs", "cats",
)
# fmt: on

# Ids run through an arithmetic sequence modulo a prime: scattered, invertible, and stable as the
# world grows.
ID_PRIME, FIRST_ID = 9_999_991, 10_000_000
USER_STRIDE, ITEM_STRIDE = 3_618_034, 7_071_068

_STRUCTURE, _USERS, _ITEMS, _TASTES, VISITS = range(5)


class Behaviour(BaseModel):
    """How strongly viewers react; scores are on the logit scale, level_* run over the taste levels
    0 to 3.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    level_odds: tuple[float, float, float] = (0.3, 0.4, 0.3)
    level_pull: tuple[float, float, float, float] = (0.02, 1.0, 2.0, 4.0)
    level_click: tuple[float, float, float, float] = (0.0, 1.6, 2.4, 3.2)
    level_watch: tuple[float, float, float, float] = (0.0, 0.8, 1.4, 2.0)
    favourite_click: float = 0.8
    favourite_watch: float = 0.5
    favourite_pull: float = 0.4
    foreign_click: float = -1.2
    foreign_watch: float = -0.6
    foreign_pull: float = 0.1
    click: float = -2.6
    clickbait_click: float = 1.6
    freshness_click: float = 0.8
    appeal_click: float = 0.25
    watch: float = -1.0
    clickbait_watch: float = -2.6
    length_watch: float = -0.5
    examination: float = 0.35
    popular_power: float = 1.5


class WorldConfig(BaseModel):
    """Size and seed of the world; what grows is stated per day, so that more days change nothing
    before them.

    `users` and `items` are there at the start (items published over the `backlog_days` before it);
    `impressions_a_day` is what the starting users see in a day. The feed picks a slot's item by
    taste, by popularity, and else at random; `drift` is the chance that a taste is drawn anew in a
    day.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    users: int = Field(5_400, ge=1, le=5_000_000)
    users_a_day: int = Field(50, ge=0, le=100_000)
    items: int = Field(3_000, ge=1, le=5_000_000)
    items_a_day: int = Field(200, ge=0, le=100_000)
    backlog_days: int = Field(15, ge=1, le=3_650)
    impressions_a_day: int = Field(44_000, ge=1)
    days: int = Field(14, ge=1, le=1_000)
    start: datetime = datetime(2025, 1, 1, tzinfo=UTC)
    topics: int = Field(40, ge=2, le=1_000)
    channels_a_topic: int = Field(5, ge=1, le=100)
    favourite_topics: float = Field(3.0, gt=0)
    drift: float = Field(0.015, ge=0, le=1)
    activity_spread: float = Field(0.8, ge=0, le=3)
    clickbait_share: float = Field(0.1, ge=0, le=1)
    taste_share: float = Field(0.6, ge=0, le=1)
    popular_share: float = Field(0.2, ge=0, le=1)
    search_share: float = Field(0.1, ge=0, le=1)
    seed: int = Field(0, ge=0)
    behaviour: Behaviour = Behaviour()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.taste_share + self.popular_share >= 1:
            raise ValueError(
                "taste_share + popular_share must leave some random slots: their sum must be below "
                "1"
            )
        if self.items < max(self.channels, 4 * PAGE_SIZES[1]):
            raise ValueError(
                f"items is {self.items}: at least one a channel ({self.channels}) and "
                f"{4 * PAGE_SIZES[1]}"
            )
        if self.favourite_topics > self.topics / 4:
            raise ValueError(
                f"favourite_topics is {self.favourite_topics}: at most a quarter of {self.topics} "
                "topics"
            )
        if self.start.utcoffset() != timedelta(0) or self.start.timestamp() % 86_400:
            raise ValueError(f"start is {self.start.isoformat()}: a midnight in UTC is expected")
        if max(self.users_by(self.days - 1), self.items_by(self.days - 1)) > ID_PRIME:
            raise ValueError(
                f"users and items together with the daily new ones must stay below {ID_PRIME:,}"
            )
        return self

    @property
    def channels(self) -> int:
        """Number of channels; channel c belongs to topic c // channels_a_topic."""
        return self.topics * self.channels_a_topic

    @property
    def origin(self) -> int:
        """The start in microseconds since 1970 (UTC)."""
        return round(self.start.timestamp()) * 1_000_000

    def users_by(self, day: int) -> int:
        """Number of users who exist on a day, counted from 0."""
        return self.users + (day + 1) * self.users_a_day

    def items_by(self, day: int) -> int:
        """Number of items published by the end of a day, counted from 0."""
        return self.items + (day + 1) * self.items_a_day

    def stream(self, block: int, purpose: int) -> np.random.Generator:
        """The random stream of one block (0 = before the start, d + 1 = day d) for one purpose."""
        return np.random.default_rng([self.seed, block, purpose])


@dataclass(frozen=True)
class Users:
    """Arrays over user indexes; categories are codes into the names above, `favourite` is [users,
    topics].
    """

    country: Codes
    region: Codes
    device: Codes
    gender: Codes
    age: Int64
    sessions_a_day: Float64
    joined_day: Int64
    favourite: Int64

    @property
    def language(self) -> Codes:
        """Language code by user: that of the country."""
        return COUNTRY_LANGUAGE[self.country]

    @property
    def band(self) -> Int64:
        """Age band (0, 1, 2) by user; tastes differ between bands."""
        return np.digitize(self.age, AGE_BANDS)


@dataclass(frozen=True)
class Items:
    """Arrays over item indexes; `published` in microseconds, `lifetime` in days, `duration` in
    seconds.
    """

    published: Int64
    duration: Float64
    channel: Int64
    second_topic: Int64
    clickbait: Flags
    appeal: Float64
    quality: Float64
    lifetime: Float64


@dataclass(frozen=True)
class World:
    """All that is true; `prior` [age bands, topics, levels] of the taste `levels` [days, users,
    topics].
    """

    config: WorldConfig
    users: Users
    items: Items
    prior: Float64
    levels: Codes

    def topic_of(self, items: Int64) -> Int64:
        """Topic of each item (by index)."""
        return self.items.channel[items] // self.config.channels_a_topic

    @property
    def user_ids(self) -> Int64:
        """Raw id by user index."""
        return scattered(np.arange(len(self.users.age)), USER_STRIDE)

    @property
    def item_ids(self) -> Int64:
        """Raw id by item index."""
        return scattered(np.arange(len(self.items.channel)), ITEM_STRIDE)

    def user_index(self, user_ids: npt.ArrayLike) -> Int64:
        """Indexes of raw user ids; refuses an id that is not of this world."""
        return _gathered(user_ids, USER_STRIDE, len(self.users.age), "user_id")

    def item_index(self, item_ids: npt.ArrayLike) -> Int64:
        """Indexes of raw item ids; refuses an id that is not of this world."""
        return _gathered(item_ids, ITEM_STRIDE, len(self.items.channel), "item_id")

    def day_of(self, timestamps_us: Int64) -> Int64:
        """Day number, from 0, of instants in microseconds; the first before the start, the last
        after the end.
        """
        return np.clip((timestamps_us - self.config.origin) // DAY, 0, self.config.days - 1)


def build(config: WorldConfig) -> World:
    """The world of a configuration: the same seed gives the same world, one more day only adds to
    it.
    """
    blocks = range(config.days + 1)
    prior = _prior(config)
    users = joined([_arriving_users(config, block) for block in blocks])
    items = joined([_new_items(config, block) for block in blocks])
    return World(config, users, items, prior, _levels(config, prior, users.band))


def expected_seconds(
    world: World, users: npt.ArrayLike, items: npt.ArrayLike, at: Instant
) -> Float64:
    """E[watch seconds] of showing each item to each user at position 1, 0 if not clicked: [n] ->
    [n].

    `users` and `items` are raw ids, `at` one instant or one for each pair (UTC); an item not yet
    published has 0. Refuses unknown ids.
    """
    user, item = world.user_index(users), world.item_index(items)
    timestamps_us = np.broadcast_to(microseconds(at), item.shape)
    click, watch_logit = reactions(world, user, item, timestamps_us)
    seconds = click * sigmoid(watch_logit) * world.items.duration[item]
    return np.where(world.items.published[item] <= timestamps_us, seconds, 0.0)


def reactions(
    world: World, users: Int64, items: Int64, timestamps_us: Int64
) -> tuple[Float64, Float64]:
    """P(click) at position 1 and log a of the share watched; takes indexes and microseconds, [n]
    each.
    """
    behaviour = world.config.behaviour
    situation = situations(world, users, world.items.channel[items], world.day_of(timestamps_us))
    click = sigmoid(click_scores(world, items, timestamps_us) + click_effects(behaviour)[situation])
    return click, watch_logits(watch_scores(world, items), watch_effects(behaviour)[situation])


def situations(world: World, users: Int64, channels: Int64, days: Int64) -> Int64:
    """Situation (0 to 15) in which users meet the items of channels on days; indexes, broadcast
    together.
    """
    topic, place = np.divmod(channels, world.config.channels_a_topic)
    favourite = world.users.favourite[users, topic] == place
    foreign = (
        COUNTRY_LANGUAGE[world.users.country[users]] != channel_language(world.config)[channels]
    )
    level = world.levels[days, users, topic].astype(np.int64)
    return np.asarray(2 * LEVELS * foreign + 2 * level + favourite)


def click_scores(world: World, items: Int64, timestamps_us: Int64) -> Float64:
    """The video's part of the click logit at each instant: [n] -> [n]."""
    behaviour, videos = world.config.behaviour, world.items
    return np.asarray(
        behaviour.click
        + behaviour.clickbait_click * videos.clickbait[items]
        + behaviour.freshness_click * buzz(world, items, timestamps_us)
        + behaviour.appeal_click * videos.appeal[items]
    )


def watch_scores(world: World, items: Int64) -> Float64:
    """The video's part of the logit of the expected share watched, given a click: [n] -> [n]."""
    behaviour, videos = world.config.behaviour, world.items
    return np.asarray(
        behaviour.watch
        + behaviour.clickbait_watch * videos.clickbait[items]
        + behaviour.length_watch * np.log(videos.duration[items] / 240)
        + videos.quality[items]
    )


def click_effects(behaviour: Behaviour) -> Float64:
    """What each situation adds to the click logit, [16]."""
    return _effects(behaviour.level_click, behaviour.favourite_click, behaviour.foreign_click)


def watch_effects(behaviour: Behaviour) -> Float64:
    """What each situation adds to the logit of the expected share watched, [16]."""
    return _effects(behaviour.level_watch, behaviour.favourite_watch, behaviour.foreign_watch)


def watch_logits(scores: Float64, effects: Float64) -> Float64:
    """log a = logit of the expected share watched, given a click; bounded, so that no watch
    vanishes.
    """
    return np.clip(scores + effects, -3.5, 4.0)


def buzz(world: World, items: Int64, timestamps_us: Int64) -> Float64:
    """How much each item is talked about, 0 to 1: rises within hours, fades over its lifetime,
    never dies.
    """
    age = np.maximum(timestamps_us - world.items.published[items], 0) / DAY
    return np.asarray(
        (1 - 0.7 * np.exp(-age / 0.2)) * np.exp(-age / world.items.lifetime[items]) + 0.01
    )


def channel_language(config: WorldConfig) -> Codes:
    """Language code by channel."""
    slot = np.arange(config.channels) % config.channels_a_topic
    return CHANNEL_LANGUAGE_CYCLE[slot % len(CHANNEL_LANGUAGE_CYCLE)]


def channel_odds(config: WorldConfig) -> Float64:
    """Chance of each channel within its topic by the user's language: [languages, topics, channels
    a topic].
    """
    foreign = np.arange(len(LANGUAGES))[:, None] != channel_language(config)
    weight = np.where(foreign, config.behaviour.foreign_pull, 1.0)
    weight = weight.reshape(len(LANGUAGES), config.topics, config.channels_a_topic)
    return np.asarray(weight / weight.sum(axis=2, keepdims=True))


def topic_names(config: WorldConfig) -> list[str]:
    """One name a topic: a word, numbered from the second round on."""
    rounds, words = np.divmod(np.arange(config.topics), len(TOPIC_WORDS))
    names = np.array(TOPIC_WORDS)[words]
    return [
        name if lap == 0 else f"{name}{lap + 1}" for lap, name in zip(rounds, names, strict=True)
    ]


def examination(behaviour: Behaviour, positions: npt.ArrayLike) -> Float64:
    """Chance that a viewer looks at a position, 1 at position 1: [n] -> [n]."""
    return np.asarray(np.asarray(positions, dtype=np.float64) ** -behaviour.examination)


def microseconds(at: Instant) -> Int64:
    """TimestampsUs as microseconds since 1970, which integers are taken for; what has no zone is
    UTC.
    """
    if isinstance(at, datetime):
        at = np.datetime64((at.astimezone(UTC) if at.tzinfo else at).replace(tzinfo=None), "us")
    return np.asarray(at).astype("datetime64[us]").astype(np.int64)


def scattered(index: Int64, stride: int) -> Int64:
    """Raw ids of indexes: distinct, at least 10,000,000, in no order; the inverse is
    `World.*_index`.
    """
    return np.asarray(FIRST_ID + (index + 1) * stride % ID_PRIME)


def drawn(odds: Float64, uniform: Float64) -> Int64:
    """One category for each row of odds [n, categories] (rows sum to 1) by its uniform number:
    [n].
    """
    passed = (np.cumsum(odds, axis=1) <= uniform[:, None]).sum(axis=1)
    return np.asarray(np.minimum(passed, odds.shape[1] - 1))


def sigmoid(score: Float64) -> Float64:
    """1 / (1 + exp(-score))."""
    return np.asarray(1 / (1 + np.exp(-score)))


def _gathered(ids: npt.ArrayLike, stride: int, count: int, column: str) -> Int64:
    raw = np.asarray(ids, dtype=np.int64)
    index = (raw - FIRST_ID) * pow(stride, -1, ID_PRIME) % ID_PRIME - 1
    strange = (index < 0) | (index >= count) | (raw < FIRST_ID) | (raw >= FIRST_ID + ID_PRIME)
    if strange.any():
        raise InputError(
            f"simulated world, column {column}: {int(strange.sum())} ids that are not of this "
            "world "
            f"(first: {raw[strange].flat[0]}); use the ids of the tables written with it."
        )
    return index


def _effects(levels: Sequence[float], favourite: float, foreign: float) -> Float64:
    grid = (
        np.array([0, foreign])[:, None, None] + np.array(levels)[:, None] + np.array([0, favourite])
    )
    return np.asarray(grid.reshape(SITUATIONS))


def _prior(config: WorldConfig) -> Float64:
    rng = config.stream(0, _STRUCTURE)
    liked = rng.lognormal(sigma=0.5, size=config.topics) * rng.lognormal(
        sigma=0.4, size=(3, config.topics)
    )
    liked *= config.favourite_topics / liked.sum(axis=1, keepdims=True)
    liked = np.minimum(liked, 0.5)[:, :, None]
    return np.concatenate([1 - liked, liked * np.array(config.behaviour.level_odds)], axis=2)


def _arriving_users(config: WorldConfig, block: int) -> Users:
    count = config.users if block == 0 else config.users_a_day
    rng = config.stream(block, _USERS)
    country = rng.choice(len(COUNTRIES), size=count, p=COUNTRY_SHARES).astype(np.int8)
    spread = config.activity_spread
    activity = rng.lognormal(-(spread**2) / 2, spread, size=count)
    return Users(
        country=country,
        region=rng.integers(len(REGIONS), size=count, dtype=np.int8),
        device=rng.choice(len(DEVICES), size=count, p=DEVICE_SHARES).astype(np.int8),
        gender=rng.choice(len(GENDERS), size=count, p=(0.49, 0.49, 0.02)).astype(np.int8),
        age=np.clip(rng.gamma(5, 5, size=count) + 13, 13, 90).astype(np.int64),
        sessions_a_day=activity * config.impressions_a_day / config.users / np.mean(PAGE_SIZES),
        joined_day=np.full(count, max(block - 1, 0)),
        favourite=_favourites(config, COUNTRY_LANGUAGE[country], rng),
    )


def _favourites(config: WorldConfig, language: Codes, rng: np.random.Generator) -> Int64:
    odds = channel_odds(config)[language].reshape(-1, config.channels_a_topic)
    return drawn(odds, rng.random(len(odds))).reshape(-1, config.topics)


def _new_items(config: WorldConfig, block: int) -> Items:
    count = config.items if block == 0 else config.items_a_day
    rng = config.stream(block, _ITEMS)
    span = config.backlog_days * DAY if block == 0 else DAY
    until = config.origin + block * DAY
    channel = rng.integers(config.channels, size=count)
    if block == 0:
        # From the first hour on no channel is empty.
        channel[: config.channels] = np.arange(config.channels)
    return Items(
        published=until - rng.integers(1, span + 1, size=count),
        duration=np.clip(np.round(rng.lognormal(np.log(240), 0.6, size=count)), 20, 1_800),
        channel=channel,
        second_topic=np.where(
            rng.random(count) < 0.25, rng.integers(config.topics, size=count), -1
        ),
        clickbait=rng.random(count) < config.clickbait_share,
        appeal=rng.normal(0, 0.8, size=count),
        quality=rng.normal(0, 0.5, size=count),
        lifetime=rng.uniform(2, 5, size=count),
    )


def joined(blocks: Sequence[Block]) -> Block:
    """One block of arrays out of several of the same kind, end to end."""
    columns: dict[str, Any] = {
        field.name: np.concatenate([getattr(block, field.name) for block in blocks])
        for field in fields(blocks[0])  # type: ignore[arg-type]
    }
    return type(blocks[0])(**columns)


def _levels(config: WorldConfig, prior: Float64, band: Int64) -> Codes:
    levels = np.zeros((config.days, len(band), config.topics), dtype=np.int8)
    before = 0
    for day in range(config.days):
        count, rng = config.users_by(day), config.stream(day + 1, _TASTES)
        if day:
            levels[day] = levels[day - 1]
        anew = rng.random((count, config.topics)) < config.drift
        anew[before:] = True
        user, topic = np.nonzero(anew)
        levels[day, user, topic] = drawn(prior[band[user], topic], rng.random(len(user)))
        before = count
    return levels
