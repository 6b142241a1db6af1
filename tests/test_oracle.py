from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from features.arrays import Flags, Int64
from features.errors import InputError
from features.schema import DAY, HOUR
from features.simulation import world as w
from features.simulation.oracle import (
    Ask,
    UserItems,
    oracle_lists,
    oracle_share,
    reference_lists,
    seen_before,
)
from features.simulation.simulated_log import SimulatedLog, simulate
from features.simulation.world import World, WorldConfig, expected_seconds
from features.vocabulary import Vocabulary
from funnel.evaluation.simulation_report import policy_seconds
from funnel.lists import RawIds
from ranking.policies import Logged, Policy, softmax_of_places

pytestmark = pytest.mark.slow

AT = WorldConfig().origin + 3 * DAY + 15 * HOUR
NOTHING = UserItems(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


@pytest.fixture(scope="module")
def default() -> tuple[World, SimulatedLog]:
    return simulate(WorldConfig())


def _ask(world: World, users: int = 200, k: int = 10) -> Ask:
    return Ask(world.user_ids[:users], AT, k)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_oracle_lists_the_best_unseen_items_as_brute_force_finds_them(
    world: World, log: SimulatedLog
) -> None:
    ask, seen = _ask(world, users=30), seen_before(log, AT)
    lists, seconds = oracle_lists(world, ask, seen)
    clicked = set(zip(seen.user_id.tolist(), seen.item_id.tolist(), strict=True))
    for user, listed, worth in zip(ask.users, lists, seconds, strict=True):
        value = expected_seconds(world, np.full(len(world.item_ids), user), world.item_ids, AT)
        ranked = world.item_ids[np.argsort(-value)]
        unseen = [item for item in ranked.tolist() if (int(user), item) not in clicked]
        assert listed.tolist() == unseen[:10]
        np.testing.assert_allclose(worth, expected_seconds(world, np.full(10, user), listed, AT))


def test_shares_fall_from_the_oracle_over_the_reader_and_the_popular_to_chance(
    world: World, log: SimulatedLog
) -> None:
    ask, seen = _ask(world, users=1_000), seen_before(log, AT)
    lists = reference_lists(world, log, ask, _rng())
    shares = {name: oracle_share(world, ask, items, seen) for name, items in lists.items()}
    assert shares["oracle"] == pytest.approx(1)
    assert 1 > shares["bayes_baseline"] > 2 * shares["popular"]
    assert shares["popular"] > 1.2 * shares["random"] > 0


def test_no_reference_list_holds_what_is_seen_or_unpublished_or_twice(
    world: World, log: SimulatedLog
) -> None:
    ask, seen = _ask(world), seen_before(log, AT)
    clicked = seen.user_id * 10**9 + seen.item_id
    for lists in reference_lists(world, log, ask, _rng()).values():
        assert (np.diff(np.sort(lists, axis=1), axis=1) > 0).all()
        assert not np.isin(ask.users[:, None] * 10**9 + lists, clicked).any()
        assert (world.items.published[world.item_index(lists)] <= AT).all()


def test_a_list_longer_than_the_catalogue_ends_in_minus_one(world: World) -> None:
    published = int((world.items.published <= AT).sum())
    lists, seconds = oracle_lists(world, _ask(world, users=5, k=2_000), NOTHING)
    assert (lists != -1).sum(axis=1).tolist() == [published] * 5
    assert (lists[:, published:] == -1).all()
    assert (seconds[:, published:] == 0).all()
    assert oracle_share(world, _ask(world, users=5, k=2_000), lists, NOTHING) == pytest.approx(1)


def test_lists_do_not_depend_on_who_else_is_asked_for(world: World, log: SimulatedLog) -> None:
    seen = seen_before(log, AT)
    everyone, _ = oracle_lists(world, _ask(world, users=1_200), seen)
    last, _ = oracle_lists(world, Ask(world.user_ids[1_199:1_189:-1], AT, 10), seen)
    np.testing.assert_array_equal(everyone[1_199:1_189:-1], last)


def test_half_a_list_has_less_share_and_an_empty_one_none(world: World, log: SimulatedLog) -> None:
    ask, seen = _ask(world), seen_before(log, AT)
    lists, seconds = oracle_lists(world, ask, seen)
    half = lists.copy()
    half[:, 5:] = -1
    assert oracle_share(world, ask, half, seen) == pytest.approx(
        seconds[:, :5].sum() / seconds.sum()
    )
    assert oracle_share(world, ask, np.full_like(lists, -1), seen) == 0


def test_a_seen_item_on_a_list_is_worth_nothing(world: World) -> None:
    ask = _ask(world, users=1, k=2)
    lists, _ = oracle_lists(world, ask, NOTHING)
    seen = UserItems(ask.users, lists[:, 0])
    (_, second), (best, next_best) = (
        expected_seconds(world, ask.users[[0, 0]], lists[0], AT),
        (oracle_lists(world, ask, seen)[1][0]),
    )
    assert oracle_share(world, ask, lists, seen) == pytest.approx(second / (best + next_best))


def test_lists_of_another_shape_or_with_an_item_twice_are_refused(world: World) -> None:
    ask = _ask(world, users=2, k=2)
    with pytest.raises(InputError, match=r"shape \(2, 1\).*\(2, 2\)"):
        oracle_share(world, ask, world.item_ids[:2].reshape(2, 1), NOTHING)
    with pytest.raises(InputError, match=rf"row 1: item {world.item_ids[3]} stands there twice"):
        oracle_share(world, ask, world.item_ids[[[0, 1], [3, 3]]], NOTHING)
    with pytest.raises(InputError, match="ask for each user once"):
        oracle_lists(world, Ask(world.user_ids[[0, 0]], AT, 2), NOTHING)


def test_popular_lists_count_completed_watches_of_the_last_day(
    world: World, log: SimulatedLog, clicks_at: Callable[..., SimulatedLog]
) -> None:
    one = clicks_at(
        world, log, AT, hours=[-30, -30, -30, -2, -2, -1, -1, -1], items=[9, 9, 9, 4, 4, 5, 5, 5]
    )
    short = np.where(np.arange(8) >= 6, 0.5, 1e4)
    ask = Ask(world.user_ids[20:21], AT, 2)
    lists = reference_lists(world, replace(one, watch_seconds=short), ask, _rng())["popular"]
    assert lists.tolist() == [world.item_ids[[4, 5]].tolist()]


def test_a_policys_draws_are_worth_what_the_world_says_of_each_in_its_slot(world: World) -> None:
    ids = RawIds(
        *(
            Vocabulary(pa.array(raw), np.zeros(len(raw), np.int64))
            for raw in (world.user_ids, world.item_ids)
        )
    )
    lists = np.array([[3, 8, 0], [5, 3, 9], [0, 0, 0]], np.int32)
    policy = Policy(
        np.array([1, 2, 7], np.int32), lists, softmax_of_places(lists, 1.0), np.zeros(lists.shape)
    )
    users, items = np.array([1, 1, 1, 2, 7], np.int32), np.array([3, 8, 4, 9, 1], np.int32)
    positions, none = np.array([1, 2, 3, 0, 1], np.int32), np.zeros(5)
    log, timestamps_us = (
        Logged(users, items, none > 0, none, none + 1, positions),
        AT + HOUR * np.arange(5),
    )
    # The third slot of user 1 has nothing left, user 7 has no list; an unknown position is looked
    # at like the first.
    chances = {
        (0, 3): 2 / 3,
        (0, 8): 1 / 3,
        (1, 8): 1.0,
        (3, 5): 6 / 11,
        (3, 3): 3 / 11,
        (3, 9): 2 / 11,
    }
    worth = 0.0
    for (slot, item), chance in chances.items():
        user, raw = world.user_ids[[users[slot] - 1]], world.item_ids[[item - 1]]
        seconds = w.expected_seconds(world, user, raw, timestamps_us[slot])[0]
        worth += (
            chance * seconds * max(positions[slot], 1) ** -world.config.behaviour.examination / 3
        )
    assert policy_seconds(world, ids, policy, log, timestamps_us) == pytest.approx(worth)
    assert np.isnan(policy_seconds(world, ids, policy, log.take(np.arange(0)), timestamps_us[:0]))


def test_the_default_world_is_large_enough_and_can_be_learnt(
    default: tuple[World, SimulatedLog],
) -> None:
    world, log = default
    assert len(log.user_id) >= 500_000
    assert len(np.unique(log.user_id)) >= 5_000
    assert len(np.unique(log.item_id)) >= 5_000
    assert 0.15 < log.clicked.mean() < 0.35
    assert str(log.timestamp[0]).startswith("2025-01-01")
    assert str(log.timestamp[-1]).startswith("2025-01-14")
    seconds = _holdout_shares(world, log)
    assert seconds["bayes_baseline"] > 3 * seconds["popular"]
    assert seconds["popular"] > 5 * seconds["random"]
    assert seconds["oracle"] > seconds["bayes_baseline"]


def _holdout_shares(world: World, log: SimulatedLog) -> dict[str, float]:
    """Share of the last tenth's watch seconds that falls on lists of ten made at its start."""
    timestamps_us = log.timestamp.astype(np.int64)
    at = int(timestamps_us[0] + 0.9 * (timestamps_us[-1] - timestamps_us[0]))
    rows = log.clicked & (timestamps_us >= at)
    users = np.unique(log.user_id[rows])
    lists = reference_lists(world, log, Ask(users, at, 10), _rng())
    return {name: _share(users, items, log, rows) for name, items in lists.items()}


def _share(users: Int64, lists: Int64, log: SimulatedLog, rows: Flags) -> float:
    listed = lists[np.searchsorted(users, log.user_id[rows])] == log.item_id[rows][:, None]
    seconds = log.watch_seconds[rows]
    return float(seconds[listed.any(axis=1)].sum() / seconds.sum())
