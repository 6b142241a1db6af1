from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from pydantic import ValidationError

from features.errors import InputError
from features.schema import HOUR
from features.simulation import world as w
from features.simulation.world import World, WorldConfig, build, expected_seconds

SMALL = WorldConfig(
    users=400, users_a_day=20, items=200, items_a_day=30, days=5, topics=8, favourite_topics=1.5
)


@pytest.fixture(scope="module")
def world() -> World:
    return build(SMALL)


def test_no_raw_id_is_a_valid_index_and_every_id_leads_back_to_its_index(world: World) -> None:
    for ids, index_of in ((world.user_ids, world.user_index), (world.item_ids, world.item_index)):
        assert ids.min() > len(ids)
        assert len(np.unique(ids)) == len(ids)
        assert not (np.diff(ids) > 0).all()
        np.testing.assert_array_equal(index_of(ids), np.arange(len(ids)))


@pytest.mark.parametrize("strange", [0, 5, -1, w.FIRST_ID - 3, w.FIRST_ID + 3 * w.ID_PRIME])
def test_an_id_of_another_world_is_refused(world: World, strange: int) -> None:
    with pytest.raises(InputError, match=rf"column item_id: 1 ids.*first: {strange}\)"):
        expected_seconds(world, world.user_ids[:1], [strange], SMALL.start)


def test_ids_of_users_who_join_after_the_last_day_are_refused(world: World) -> None:
    longer = build(SMALL.model_copy(update={"days": 6}))
    with pytest.raises(InputError, match="column user_id: 20 ids"):
        world.user_index(longer.user_ids)


def test_one_more_day_only_adds_to_the_world(world: World) -> None:
    longer = build(SMALL.model_copy(update={"days": 6}))
    users, items = len(world.users.age), len(world.items.channel)
    np.testing.assert_array_equal(longer.levels[:5, :users], world.levels)
    np.testing.assert_array_equal(longer.users.favourite[:users], world.users.favourite)
    np.testing.assert_array_equal(longer.items.published[:items], world.items.published)
    np.testing.assert_array_equal(longer.user_ids[:users], world.user_ids)
    assert len(longer.users.age) == users + 20
    assert len(longer.items.channel) == items + 30


def test_users_like_a_few_topics_as_many_as_configured() -> None:
    liked = (build(WorldConfig(days=1)).levels[0] > 0).sum(axis=1)
    assert liked.mean() == pytest.approx(3.0, abs=0.1)
    assert ((liked >= 1) & (liked <= 6)).mean() > 0.9


def test_tastes_drift_slowly_and_by_the_configured_chance(world: World) -> None:
    old = slice(0, SMALL.users)
    changed = (world.levels[1:, old] != world.levels[:-1, old]).mean()
    kept = (world.prior[world.users.band[old]] ** 2).sum(axis=2).mean()
    assert changed == pytest.approx(SMALL.drift * (1 - kept), rel=0.2)
    assert 0 < changed < 0.02


def test_without_drift_tastes_stand_still() -> None:
    levels = build(SMALL.model_copy(update={"drift": 0.0, "users_a_day": 0})).levels
    assert (levels == levels[0]).all()


def test_an_item_is_worth_nothing_before_it_is_published(world: World) -> None:
    item = int(np.argmax(world.items.published))
    timestamp_us = world.items.published[item] + np.array([-1, 0])
    seconds = expected_seconds(
        world, world.user_ids[[3, 3]], world.item_ids[[item, item]], timestamp_us
    )
    assert seconds[0] == 0 < seconds[1]


def test_the_share_watched_has_the_stated_mean() -> None:
    log_a = np.array([-3.5, -1.0, 0.0, 2.0, 4.0])
    share = np.random.default_rng(0).random((200_000, 5)) ** np.exp(-log_a)
    np.testing.assert_allclose(share.mean(axis=0), w.sigmoid(log_a), atol=0.004)


def test_a_higher_level_the_favourite_channel_and_the_own_language_never_lower_a_reaction() -> None:
    for effects in (w.click_effects(SMALL.behaviour), w.watch_effects(SMALL.behaviour)):
        foreign_level_favourite = effects.reshape(2, w.LEVELS, 2)
        assert (np.diff(foreign_level_favourite, axis=0) < 0).all()
        assert (np.diff(foreign_level_favourite, axis=1) > 0).all()
        assert (np.diff(foreign_level_favourite, axis=2) > 0).all()


def test_buzz_rises_within_hours_and_fades_within_days(world: World) -> None:
    item = np.zeros(4, dtype=np.int64)
    published = world.items.published[0]
    newborn, risen, faded, old = w.buzz(
        world, item, published + HOUR * np.array([0, 12, 96, 2_000])
    )
    assert newborn < risen
    assert risen > 2 * faded > 4 * old > 0


def test_the_same_instant_in_any_notation_is_the_same() -> None:
    noon = datetime(2025, 1, 2, 12, tzinfo=UTC)
    notations: list[w.Instant] = [
        noon,
        noon.astimezone(timezone(timedelta(hours=8))),
        noon.replace(tzinfo=None),
        np.datetime64("2025-01-02T12:00:00"),
        int(noon.timestamp()) * 1_000_000,
    ]
    assert {int(w.microseconds(notation)) for notation in notations} == {1_735_819_200_000_000}


def test_topics_have_distinct_names_however_many() -> None:
    names = w.topic_names(WorldConfig(topics=100, items=3_000))
    assert len(set(names)) == 100


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"users": 0}, "users"),
        ({"days": -1}, "days"),
        ({"seed": -1}, "seed"),
        ({"impressions": 5}, "Extra inputs"),
        ({"taste_share": 0.8}, "must leave some random slots"),
        ({"items": 100}, r"at least one a channel \(200\)"),
        ({"favourite_topics": 11}, "at most a quarter of 40 topics"),
        ({"start": datetime(2025, 1, 1, 6, tzinfo=UTC)}, "a midnight in UTC"),
        ({"start": datetime(2025, 1, 1)}, "a midnight in UTC"),
        ({"items": 5_000_000, "items_a_day": 100_000, "days": 1_000}, "must stay below"),
    ],
)
def test_a_world_that_cannot_be_is_refused_by_name(
    change: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        WorldConfig.model_validate(change)
