"""The best lists a simulated world allows, and reference lists that say how far from them a list
is.

`oracle` knows every taste. `bayes_baseline` knows the world's laws, its items and each user's
profile (country, age, language), but infers tastes from the log; `popular` and `random` need
nothing. All ids are raw; items are those published by the instant, seen ones (clicked before it)
left out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.arrays import Flags, Float64, Int64
from features.errors import InputError
from features.schema import DAY
from features.simulation import world as w
from features.simulation.bayes_baseline import beliefs
from features.simulation.simulated_log import SimulatedLog
from features.simulation.world import SITUATIONS, Instant, World

# Users whose [users, items] scores are in memory at once.
CHUNK = 1_000
PADDING = -1
POPULAR_WINDOW = DAY

Scores = Callable[[Int64], Float64]


@dataclass(frozen=True)
class Ask:
    """Lists of k items for distinct users (raw ids) at one instant."""

    users: Int64
    at: Instant
    k: int


@dataclass(frozen=True)
class UserItems:
    """Users and items (raw ids) that belong together row by row: what was seen."""

    user_id: Int64
    item_id: Int64


def seen_before(log: SimulatedLog, at: Instant) -> UserItems:
    """What each user clicked before the instant."""
    rows = log.clicked & (log.timestamp.astype(np.int64) < w.microseconds(at))
    return UserItems(log.user_id[rows], log.item_id[rows])


def oracle_lists(world: World, ask: Ask, seen: UserItems) -> tuple[Int64, Float64]:
    """The k unseen items of highest E[seconds] and that expectation, best first: [users, k] each.

    Where the catalogue runs out the item is -1 and its expectation 0.
    """
    return _best(world, ask, seen, _true_scores(world, ask.at))


def oracle_share(world: World, ask: Ask, lists: npt.ArrayLike, seen: UserItems) -> float:
    """Sum of E[seconds] at position 1 over the lists [users, k] of raw items, over that of the
    oracle's lists.

    Row order is that of `ask.users`; -1 is an empty place, and a seen item is worth nothing. NaN
    without users; refuses lists of another shape or with an item twice.
    """
    given = _checked(lists, (len(ask.users), ask.k))
    row, place = np.nonzero(given != PADDING)
    users, items = ask.users[row], given[row, place]
    seconds = w.expected_seconds(world, users, items, ask.at) * ~_among(world, users, items, seen)
    best = oracle_lists(world, ask, seen)[1].sum()
    return float(seconds.sum() / best) if best else float("nan")


def reference_lists(
    world: World, log: SimulatedLog, ask: Ask, rng: np.random.Generator
) -> dict[str, Int64]:
    """Lists [users, k] of unseen raw items by policy: random, popular, bayes_baseline, oracle.

    popular: most completed watches in the 24 hours before the instant (completed: clicked and
    watched for 10 seconds or half the duration). bayes_baseline: highest posterior mean of
    E[seconds], see `features.simulation.bayes_baseline`.
    """
    seen = seen_before(log, ask.at)
    scores: dict[str, Scores] = {
        "random": lambda users: rng.random((users.size, len(world.items.channel))),
        "popular": _popular_scores(world, log, ask.at),
        "bayes_baseline": _believed_scores(world, beliefs(world, log, ask.at), ask.at),
        "oracle": _true_scores(world, ask.at),
    }
    return {name: _best(world, ask, seen, score)[0] for name, score in scores.items()}


def _true_scores(world: World, at: Instant) -> Scores:
    value, day = _situation_values(world, at), world.day_of(w.microseconds(at))
    channel, item = world.items.channel, np.arange(len(world.items.channel))

    def score(users: Int64) -> Float64:
        situation = w.situations(world, users[:, None], np.arange(world.config.channels), day)
        return np.asarray(value[item, situation[:, channel]])

    return score


def _believed_scores(world: World, belief: Float64, at: Instant) -> Scores:
    value = _situation_values(world, at)
    by_channel = np.argsort(world.items.channel, kind="stable")
    ends = np.searchsorted(world.items.channel[by_channel], np.arange(1, world.config.channels))

    def score(users: Int64) -> Float64:
        odds = _situation_odds(world, users, belief[users])
        scores = np.empty((users.size, len(by_channel)))
        for channel, items in enumerate(np.split(by_channel, ends)):
            scores[:, items] = odds[:, channel] @ value[items].T
        return scores

    return score


def _situation_values(world: World, at: Instant) -> Float64:
    """E[seconds] of each item in each situation: [items, 16]."""
    behaviour, items = world.config.behaviour, np.arange(len(world.items.channel))
    click = w.sigmoid(
        w.click_scores(world, items, w.microseconds(at))[:, None] + w.click_effects(behaviour)
    )
    watched = w.sigmoid(
        w.watch_logits(w.watch_scores(world, items)[:, None], w.watch_effects(behaviour))
    )
    return click * watched * world.items.duration[:, None]


def _situation_odds(world: World, users: Int64, belief: Float64) -> Float64:
    """Believed chance of each situation by channel: [users, channels, 16]."""
    favourite = belief.swapaxes(2, 3)
    other = belief.sum(axis=3)[:, :, None, :] - favourite
    odds = np.stack([other, favourite], axis=-1).reshape(users.size, world.config.channels, 1, -1)
    foreign = world.users.language[users][:, None] != w.channel_language(world.config)
    known = np.stack([~foreign, foreign], axis=2)[..., None]
    return np.asarray((known * odds).reshape(users.size, world.config.channels, SITUATIONS))


def _popular_scores(world: World, log: SimulatedLog, at: Instant) -> Scores:
    age = w.microseconds(at) - log.timestamp.astype(np.int64)
    rows = log.clicked & (age > 0) & (age <= POPULAR_WINDOW)
    item = world.item_index(log.item_id[rows])
    enough = log.watch_seconds[rows] >= np.minimum(10, world.items.duration[item] / 2)
    watches = np.bincount(item[enough], minlength=len(world.items.channel)).astype(np.float64)
    return lambda users: np.tile(watches, (users.size, 1))


def _best(world: World, ask: Ask, seen: UserItems, score: Scores) -> tuple[Int64, Float64]:
    users = world.user_index(ask.users)
    unpublished = world.items.published > w.microseconds(ask.at)
    barred_row, barred_item = _barred(world, users, seen)
    items, scores = np.empty((users.size, ask.k), dtype=np.int64), np.empty((users.size, ask.k))
    for first in range(0, users.size, CHUNK):
        chunk = slice(first, first + CHUNK)
        table = score(users[chunk])
        barred = slice(*np.searchsorted(barred_row, [first, first + CHUNK]))
        table[:, unpublished] = -np.inf
        table[barred_row[barred] - first, barred_item[barred]] = -np.inf
        items[chunk], scores[chunk] = _top(table, ask.k)
    return np.where(items == PADDING, PADDING, world.item_ids[items]), scores


def _barred(world: World, users: Int64, seen: UserItems) -> tuple[Int64, Int64]:
    """Rows of the asked users and the items barred there, by row."""
    if np.unique(users).size < users.size:
        raise InputError(
            "lists for a user twice were asked of the simulated world; ask for each user once."
        )
    row_of = np.full(len(world.users.age), PADDING)
    row_of[users] = np.arange(users.size)
    row, item = row_of[world.user_index(seen.user_id)], world.item_index(seen.item_id)
    order = np.argsort(row, kind="stable")
    order = order[row[order] != PADDING]
    return row[order], item[order]


def _top(table: Float64, k: int) -> tuple[Int64, Float64]:
    """Columns and values of each row's k highest, best first; -1 and 0 where fewer are finite."""
    width = min(k, table.shape[1])
    column = np.sort(np.argpartition(-table, width - 1, axis=1)[:, :width], axis=1)
    order = np.argsort(-np.take_along_axis(table, column, axis=1), axis=1, kind="stable")
    column = np.take_along_axis(column, order, axis=1)
    value = np.take_along_axis(table, column, axis=1)
    empty = np.isneginf(value)
    padding = ((0, 0), (0, k - width))
    column = np.pad(np.where(empty, PADDING, column), padding, constant_values=PADDING)
    return column, np.pad(np.where(empty, 0.0, value), padding)


def _among(world: World, users: Int64, items: Int64, seen: UserItems) -> Flags:
    """Whether each pair was seen: [n] -> [n]."""
    size = len(world.items.channel)
    keys = world.user_index(users) * size + world.item_index(items)
    return np.isin(keys, world.user_index(seen.user_id) * size + world.item_index(seen.item_id))


def _checked(lists: npt.ArrayLike, shape: tuple[int, int]) -> Int64:
    given = np.asarray(lists, dtype=np.int64)
    if given.shape != shape:
        raise InputError(
            f"lists of shape {given.shape} were given; one row a user and k places are expected: "
            f"{shape}."
        )
    ordered = np.sort(given, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != PADDING)
    if twice.any():
        row, place = np.argwhere(twice)[0]
        raise InputError(
            f"lists, row {row}: item {ordered[row, place]} stands there twice; list an item once."
        )
    return given
