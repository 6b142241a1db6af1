from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from features.arrays import Float64
from features.schema import DAY, HOUR
from features.simulation import world as w
from features.simulation.bayes_baseline import beliefs
from features.simulation.simulated_log import SURFACES, SimulatedLog, simulate
from features.simulation.world import World, WorldConfig

AT = WorldConfig().origin + 3 * DAY + 15 * HOUR


@pytest.fixture(scope="module")
def impartial(world: World) -> tuple[World, SimulatedLog]:
    """A world whose feed does not know tastes: then what was shown tells nothing, and beliefs must
    be exact.
    """
    return simulate(world.config.model_copy(update={"taste_share": 0.0, "popular_share": 0.3}))


def test_without_a_log_the_reader_believes_the_prior(world: World, log: SimulatedLog) -> None:
    belief = beliefs(world, log, world.config.origin)
    np.testing.assert_allclose(belief.sum(axis=(2, 3)), 1)
    np.testing.assert_allclose(belief.sum(axis=3), world.prior[world.users.band])
    odds = w.channel_odds(world.config)[world.users.language]
    np.testing.assert_allclose(belief.sum(axis=2), odds)


def test_beliefs_are_calibrated(impartial: tuple[World, SimulatedLog]) -> None:
    world, log = impartial
    belief = beliefs(world, log, AT)
    joined = world.users.joined_day <= 3
    level_odds = belief.sum(axis=3)[joined]
    levels = world.levels[3, joined]
    for level in range(w.LEVELS):
        believed, true = level_odds[..., level].ravel(), (levels == level).ravel()
        for bucket in np.array_split(np.argsort(believed), 10):
            error = np.sqrt(believed[bucket].mean() / bucket.size) + 1e-3
            assert abs(true[bucket].mean() - believed[bucket].mean()) < 4.5 * error


def test_beliefs_in_the_favourite_channel_are_calibrated_and_learnt(
    impartial: tuple[World, SimulatedLog],
) -> None:
    world, log = impartial
    belief = beliefs(world, log, AT).sum(axis=2)
    true = world.users.favourite[..., None] == np.arange(world.config.channels_a_topic)
    order = np.argsort(belief.ravel())
    for bucket in np.array_split(order, 10):
        error = np.sqrt(belief.ravel()[bucket].mean() / bucket.size) + 1e-3
        assert abs(true.ravel()[bucket].mean() - belief.ravel()[bucket].mean()) < 4.5 * error
    prior = beliefs(world, log, world.config.origin).sum(axis=2)
    assert np.log(belief[true]).mean() > np.log(prior[true]).mean()


def test_what_was_shown_is_evidence_of_taste_except_after_a_search(
    world: World, log: SimulatedLog
) -> None:
    searched = np.full_like(log.surface, SURFACES.index("search"))
    unread, read = (
        np.log(_believed_in_truth(world, beliefs(world, each, AT))).mean()
        for each in (replace(log, surface=searched), log)
    )
    assert read > 0.85 * unread


def test_later_rows_change_no_belief(world: World, log: SimulatedLog) -> None:
    late = log.timestamp.astype(np.int64) >= AT
    altered = replace(
        log, clicked=log.clicked ^ late, watch_seconds=np.where(late, 7.0, log.watch_seconds)
    )
    assert late.any()
    np.testing.assert_array_equal(beliefs(world, log, AT), beliefs(world, altered, AT))


def test_an_ignored_topic_is_believed_in_less_and_a_watched_one_more(
    impartial: tuple[World, SimulatedLog], clicks_at: Callable[..., SimulatedLog]
) -> None:
    world, log = impartial
    rows = clicks_at(world, log, AT, hours=[-3] * 8, items=list(range(8)))
    watched = replace(rows, watch_seconds=world.items.duration[:8] * 0.9)
    ignored = replace(rows, clicked=np.zeros(8, dtype=bool), watch_seconds=np.zeros(8))
    user, topic = world.user_index(rows.user_id), world.topic_of(world.item_index(rows.item_id))
    low, high = (
        1 - beliefs(world, each, AT).sum(axis=3)[user, topic, 0] for each in (ignored, watched)
    )
    before = 1 - world.prior[world.users.band[user], topic, 0]
    assert (low < before).all()
    assert (before < high).all()


def _believed_in_truth(world: World, belief: Float64) -> Float64:
    """The belief in each user's true level of day 3, by topic: [users, topics]."""
    joined = world.users.joined_day <= 3
    levels = world.levels[3, joined][..., None].astype(np.int64)
    return np.asarray(np.take_along_axis(belief.sum(axis=3)[joined], levels, axis=2))
