"""All generators over a log whose next watch is known: who is in force, what is named, what never
is.
"""

from dataclasses import replace

import numpy as np
import pytest

from features.asof_counts import Events
from features.asof_features import AsOfFeatures
from features.asof_log import AsOfLog
from features.histories import histories_of
from features.side_features import SideFeatures
from recall.config import GENERATORS, RecallConfig
from recall.generators.base import HOUR, Log, Popularity, Snapshot
from recall.generators.popular import choose_popularity
from recall.generators.retrieval import build_generators, in_force, switched_off
from recall.index import index_of

CONFIG = RecallConfig(k=15, generator_items=8)


def snapshot(world, log=None, tower=None):
    log, tower = log or world.log, tower or world.towers[-1]
    index = index_of(tower.item_vectors, tower.catalogue)
    return Snapshot(
        log, log.split.test_start, tower, index, world.users, Popularity(1.0, "country")
    )


def generators(world, config=CONFIG, log=None):
    return build_generators(config, snapshot(world, log))


@pytest.fixture(scope="module")
def found(chain_world):
    return generators(chain_world).find(chain_world.users)


def test_every_generator_names_and_none_names_what_was_seen_or_nobody(chain_world, found):
    clicks, end = chain_world.log.clicks, chain_world.log.split.test_start
    before = clicks.timestamps_us < end
    seen = set(zip(clicks.users[before].tolist(), clicks.items[before].tolist(), strict=True))
    assert list(found.union.named) == [name for name in GENERATORS if name != "expected_watch"]
    for named in found.union.named.values():
        row, column = np.nonzero(named.items)
        assert len(row)
        pairs = set(
            zip(chain_world.users[row].tolist(), named.items[row, column].tolist(), strict=True)
        )
        assert not pairs & seen
    assert found.union.items.min() > 0


def test_columns_are_finite_and_as_many_as_the_unions_pairs(found):
    assert {
        "tower",
        "popular_1h",
        "popular_ever",
        "segment",
        "co_visitation",
        "age",
        "followed_channels_rank",
    } <= set(found.columns)
    for name, values in found.columns.items():
        assert values.shape == found.union.items.shape, name
        assert np.isfinite(values).all(), name


def test_the_towers_scores_are_inner_products_and_its_column_is_standard_within_a_union(
    chain_world, found
):
    tower, log = chain_world.towers[-1], chain_world.log
    inputs = log.user_inputs.inputs_at(tower.shape, chain_world.users, log.split.test_start)
    expected = tower.user_vectors(inputs)[found.union.rows] * tower.item_vectors[found.union.items]
    np.testing.assert_allclose(found.tower_scores, expected.sum(axis=1), rtol=1e-4, atol=1e-5)
    mine = found.columns["tower"][found.union.rows == 5]
    assert mine.mean() == pytest.approx(0, abs=1e-5)
    assert mine.std() == pytest.approx(1, abs=1e-4)


def test_what_comes_after_the_instant_changes_nothing(chain_world, found):
    log, end = chain_world.log, chain_world.log.split.test_start
    watches = log.clicks
    moved = histories_of(
        watches.users,
        np.where(watches.timestamps_us < end, watches.items, 1),
        watches.timestamps_us,
        len(watches.offsets) - 1,
    )
    later = replace(log, clicks=moved, user_inputs=replace(log.user_inputs, histories=moved))
    again = generators(chain_world, log=later).find(chain_world.users)
    np.testing.assert_array_equal(again.union.items, found.union.items)
    for name, values in found.columns.items():
        np.testing.assert_array_equal(again.columns[name], values)


def test_the_rewatch_generator_names_what_was_seen_where_it_is_switched_on(chain_world):
    config = RecallConfig(k=15, generator_items=10, generators=("tower", "rewatch"))
    named = generators(chain_world, config).find(chain_world.users).union.named["rewatch"]
    watches, end = chain_world.log.clicks, chain_world.log.split.test_start
    for user in (1, 7, 400):
        mine = watches.items[(watches.users == user) & (watches.timestamps_us < end)]
        assert named.items[user - 1][:10].tolist() == mine[::-1][:10].tolist() + [0] * (
            10 - len(mine)
        )


def test_generators_that_the_log_cannot_give_are_switched_off_and_say_why(chain_world):
    log, config = chain_world.log, RecallConfig()
    assert switched_off(config, log) == {
        "expected_watch": "the log does not say what was shown and not clicked"
    }
    none = np.zeros(0)
    shown = Events.of(
        none.astype(np.int32), none.astype(np.int32), none.astype(np.int64), none.astype(bool), none
    )
    features = AsOfFeatures(AsOfLog(shown, log.user_inputs.users, log.items, timed=True))
    assert switched_off(config, replace(log, features=features)) == {}
    bare = replace(
        log, items=SideFeatures({}, {}, {}), split=log.split.model_copy(update={"clock": "order"})
    )
    assert set(switched_off(config, bare)) == {"followed_channels", "new_items", "expected_watch"}
    assert "channel_id" in switched_off(config, bare)["followed_channels"]
    assert in_force(config, bare) == ("tower", "item_to_item", "co_visitation", "popular")
    assert switched_off(RecallConfig(generators=("tower",)), bare) == {}


@pytest.mark.parametrize("named", [("co_visitation", "new_items"), ("tower", "tower"), ()])
def test_generators_that_cannot_fill_a_list_or_stand_twice_are_refused(named):
    with pytest.raises(ValueError, match=r"generators"):
        RecallConfig(generators=named)


def test_on_the_order_clock_all_that_is_left_still_works(chain_world):
    log = chain_world.log
    ordered = replace(log, split=log.split.model_copy(update={"clock": "order"}))
    found = generators(chain_world, log=ordered).find(chain_world.users)
    assert "age" not in found.columns
    assert "popular_ever" in found.columns


def test_items_not_yet_shown_may_be_named_only_where_the_tower_lists_them(chain_world):
    log, tower = chain_world.log, chain_world.towers[-1]
    vocabulary = replace(
        log.vocabulary,
        first_shown=np.where(np.arange(120) < 100, log.vocabulary.first_seen, 1 << 62),
    )
    hidden = replace(log, vocabulary=vocabulary)
    facts = replace(tower.facts, listed=~np.isin(np.arange(121), (0, 3)))
    catalogue = snapshot(chain_world, hidden, replace(tower, facts=facts)).catalogue
    assert np.flatnonzero(~catalogue).tolist() == [0, 3]
    shape = tower.shape.model_copy(update={"items": 80})
    young = replace(tower, shape=shape, facts=replace(facts, listed=facts.listed[:80]))
    assert np.flatnonzero(~snapshot(chain_world, hidden, young).catalogue).tolist() == [
        0,
        3,
        *range(101, 121),
    ]


def test_popularity_goes_by_the_half_life_and_the_segment_that_serve_best():
    """Item 1 was watched by all long ago; lately country 1 watches 2 to 51 and country 2 watches 52
    to 101.
    """
    rng = np.random.default_rng(0)
    events = []
    for user in range(1, 401):
        lately = rng.choice(50, 6, replace=False) + (2 if user % 2 else 52)
        events += [(user, hour, 102 + int(rng.integers(0, 99))) for hour in range(20)]
        events += [(user, 90 + hour, int(item)) for hour, item in enumerate(lately)]
    users, hours, items = np.array(events, np.int64).T
    log = _log(histories_of(users, items, hours * HOUR, 401), 201)
    chosen = choose_popularity(log, [(np.arange(1, 401, dtype=np.int32), 93 * HOUR, 100 * HOUR)])
    assert chosen.segment == "country"
    assert chosen.half_life is not None
    assert chosen.half_life < 72


def _log(watches, items):
    import pyarrow as pa

    from features.split import Split
    from features.vocabulary import Vocabulary
    from recall.inputs import UserInputs

    country = (np.arange(len(watches.offsets) - 1) % 2).astype(np.int32)
    noise = np.random.default_rng(1).integers(0, 40, len(country)).astype(np.int32)
    people = SideFeatures({"noise": noise, "country": country}, {"noise": 40, "country": 2}, {})
    marks = {"start": 0, "label_start": 80 * HOUR, "test_start": 100 * HOUR, "test_end": 110 * HOUR}
    split = Split(mode="time", clock="time", **marks)
    vocabulary = Vocabulary(pa.array(range(items - 1)), np.zeros(items - 1, np.int64))
    return Log(
        UserInputs(watches, None, people), watches, vocabulary, SideFeatures({}, {}, {}), split
    )


@pytest.mark.parametrize(
    ("watches", "days", "half_lives"),
    [
        (1_000, 0.5, (0.25, 0.5, 1, 3, 12, None)),
        (24_000, 30, (0.25, 0.5, 1, 3, 12, 24, 72, 336, None)),
        (300, 30, (12, 24, 72, 336, None)),
        (3_000, 3_000, (336, 1_440, 8_760, None)),
    ],
)
def test_half_lives_fit_the_length_and_the_pace_of_the_log(watches, days, half_lives):
    ones = np.ones(watches, np.int64)
    log = _log(histories_of(ones, ones, ones, 2), 3)
    end = round(days * 24 * HOUR)
    marks = {"start": 0, "label_start": end // 2, "test_start": end, "test_end": end + 1}
    split = log.split.model_copy(update=marks)
    assert replace(log, split=split).half_lives == half_lives
    order = split.model_copy(update={"clock": "order"})
    assert replace(log, split=order).half_lives == (None,)
