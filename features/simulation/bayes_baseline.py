"""What a careful reader who knows a simulated world's laws can tell of each user's tastes from the
log.

Tastes are a hidden Markov chain: the level of each (user, topic) is drawn anew on a few days, the
favourite channel never. The reader runs the forward filter over the days, jointly over level and
favourite channel, on two kinds of evidence:

- *reactions*: clicks, non-clicks and shares watched. Exact: each depends on one topic of one user.
- *exposures*: how often each channel was shown, for the feed knows the tastes and its choices
  betray them. An approximation: counts are taken as Poisson with the rates of the feed's policy,
  the sum of a user's pulls over the other topics as its expectation so far, the catalogue as at
  noon; that clicked items are not shown again, the searches and the choice of the pages that follow
  them are not read.

So a learner that passes this reader has found what those approximations miss; only the oracle is a
true bound.
"""

import numpy as np

from features.arrays import Float64, Int64
from features.schema import DAY, HOUR
from features.simulation import world as w
from features.simulation.simulated_log import SURFACES, SimulatedLog, shelves
from features.simulation.world import LEVELS, Instant, World


def beliefs(world: World, log: SimulatedLog, at: Instant) -> Float64:
    """Posterior of tastes by the log before the instant: [users, topics, levels, channels of the
    topic].

    By user index; each [levels, channels] is the joint distribution of the topic's level and of
    which of its channels is the favourite, and sums to 1. Rows at or after the instant are not
    read.
    """
    users, drift, until = world.users, world.config.drift, int(w.microseconds(at))
    prior = world.prior[users.band][..., None]
    belief = prior * w.channel_odds(world.config)[users.language][:, :, None, :]
    for day in range(int(world.day_of(np.asarray(until))) + 1):
        if day:
            belief = (1 - drift) * belief + drift * prior * belief.sum(axis=2, keepdims=True)
        rows = _rows_of(world, log, day, until)
        evidence = _reactions_say(world, log, rows) + _exposures_say(world, log, rows, day, belief)
        belief *= np.exp(evidence - evidence.max(axis=(2, 3), keepdims=True))
        belief /= belief.sum(axis=(2, 3), keepdims=True)
    return belief


def _rows_of(world: World, log: SimulatedLog, day: int, until: int) -> slice:
    start = world.config.origin + day * DAY
    timestamps_us = log.timestamp.astype(np.int64)
    return slice(*np.searchsorted(timestamps_us, [start, max(start, min(start + DAY, until))]))


def _reactions_say(world: World, log: SimulatedLog, rows: slice) -> Float64:
    """Log likelihood of what was clicked and watched: [users, topics, levels, channels of the
    topic].
    """
    user, item = world.user_index(log.user_id[rows]), world.item_index(log.item_id[rows])
    likelihood = _log_likelihood(world, log, rows, user, item)
    topic, place = np.divmod(world.items.channel[item], world.config.channels_a_topic)
    shape = (len(world.users.age), world.config.topics, LEVELS, world.config.channels_a_topic)
    cell = ((user * world.config.topics + topic) * LEVELS)[:, None] + np.arange(LEVELS)
    elsewhere = _summed(cell, likelihood[:, :, 0], shape[:3])
    more_if_favourite = likelihood[:, :, 1] - likelihood[:, :, 0]
    return elsewhere[..., None] + _summed(
        cell * shape[3] + place[:, None], more_if_favourite, shape
    )


def _log_likelihood(
    world: World, log: SimulatedLog, rows: slice, users: Int64, items: Int64
) -> Float64:
    """Log likelihood of each row at every level, not in and in the favourite channel: [n, levels,
    2].
    """
    behaviour = world.config.behaviour
    language = w.channel_language(world.config)[world.items.channel[items]]
    foreign = (world.users.language[users] != language).astype(np.int64)
    click_effects = w.click_effects(behaviour).reshape(2, LEVELS, 2)[foreign]
    watch_effects = w.watch_effects(behaviour).reshape(2, LEVELS, 2)[foreign]
    click_score = w.click_scores(world, items, log.timestamp[rows].astype(np.int64))[:, None, None]
    looked = w.examination(behaviour, log.position[rows])[:, None, None]
    click = looked * w.sigmoid(click_score + click_effects)
    log_a = w.watch_logits(w.watch_scores(world, items)[:, None, None], watch_effects)
    share = np.maximum(log.watch_seconds[rows] / world.items.duration[items], np.finfo(float).tiny)
    watched = log_a + (np.exp(log_a) - 1) * np.log(share)[:, None, None]
    return np.where(log.clicked[rows, None, None], np.log(click) + watched, np.log1p(-click))


def _exposures_say(
    world: World, log: SimulatedLog, rows: slice, day: int, belief: Float64
) -> Float64:
    """Log likelihood of how often each channel was shown, shaped like the belief it starts from."""
    users, shown = _shown(world, log, rows)
    evidence = np.zeros(belief.shape)
    if users.size:
        rate = _feed_rates(world, day, users, belief[users])
        total = shown.sum(axis=(1, 2))[:, None, None, None, None]
        likelihood = shown[..., None, None] * np.log(rate) - total * rate
        nowhere = likelihood[..., 0].sum(axis=2)[..., None]
        evidence[users] = nowhere + (likelihood[..., 1] - likelihood[..., 0]).swapaxes(2, 3)
    return evidence


def _shown(world: World, log: SimulatedLog, rows: slice) -> tuple[Int64, Int64]:
    """Users with pages that no search steered, and what these showed: [users], [users, topics,
    channels].
    """
    config = world.config
    unsteered = log.surface[rows] != SURFACES.index("search")
    user = world.user_index(log.user_id[rows][unsteered])
    channel = world.items.channel[world.item_index(log.item_id[rows][unsteered])]
    users, row = np.unique(user, return_inverse=True)
    counts = np.bincount(row * config.channels + channel, minlength=users.size * config.channels)
    return users, counts.reshape(users.size, config.topics, config.channels_a_topic)


def _feed_rates(world: World, day: int, users: Int64, belief: Float64) -> Float64:
    """Chance that a slot shows a channel, by level and by favourite or not: [users, topics,
    channels, levels, 2].
    """
    behaviour = world.config.behaviour
    pull = np.array(behaviour.level_pull)
    believed_pull = belief.sum(axis=3) @ pull
    others = believed_pull.sum(axis=1, keepdims=True) - believed_pull
    topic_chance = (pull / (others[..., None] + pull))[:, :, None, :, None]
    odds = (1 - behaviour.favourite_pull) * w.channel_odds(world.config)[
        world.users.language[users]
    ]
    channel_chance = np.stack([odds, odds + behaviour.favourite_pull], axis=-1)[:, :, :, None, :]
    return np.asarray(
        world.config.taste_share * topic_chance * channel_chance + _rates_without_taste(world, day)
    )


def _rates_without_taste(world: World, day: int) -> Float64:
    """Chance that a slot shows each channel by popularity or at random, at noon: [topics, channels,
    1, 1].
    """
    config = world.config
    catalogue = shelves(world, day, config.origin + day * DAY + 12 * HOUR)
    popular = np.bincount(
        world.items.channel[: catalogue.popular.size], catalogue.popular, config.channels
    )
    at_random = (
        np.bincount(world.items.channel[catalogue.published], minlength=config.channels)
        / catalogue.published.size
    )
    random_share = 1 - config.taste_share - config.popular_share
    rates = config.popular_share * popular + random_share * at_random
    return np.asarray(rates.reshape(config.topics, config.channels_a_topic, 1, 1))


def _summed(cells: Int64, values: Float64, shape: tuple[int, ...]) -> Float64:
    sums = np.bincount(cells.ravel(), values.ravel(), int(np.prod(shape)))
    return sums.astype(np.float64).reshape(shape)
