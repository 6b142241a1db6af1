"""What a tower of an instant may know: nothing of later users and items, and layers that growing
keeps.
"""

import numpy as np
import pyarrow as pa
import pytest

from features.histories import histories_of
from features.schema import PUBLISHED_AT
from features.side_features import SideFeatures
from features.vocabulary import NEVER_SHOWN, Vocabulary
from recall.config import RecallConfig
from recall.inputs import (
    AGE_HOURS,
    HOUR,
    TEMPERATURE,
    ModelInputs,
    UserInputs,
    facts_of,
    grown_spec,
    spec_of,
)

USERS, ITEMS = 100, 12
CONFIG = RecallConfig(dim=4, depth=1, width=8)
# Item i is shown first at 10 i; the last two are published at 100 and 110 and never shown.
SEEN = np.arange(10, 10 * ITEMS, 10)
SHOWN = np.where(np.arange(1, ITEMS) < ITEMS - 2, SEEN, NEVER_SHOWN)


def users_side(**columns):
    codes = {"country": np.arange(USERS, dtype=np.int32) % 3 + 1}
    ages = np.where(np.arange(USERS) % 4 == 0, np.nan, 20.0 + np.arange(USERS))
    return SideFeatures(codes | columns, {}, {"age": ages})


def items_side(**numbers):
    channels = np.array([0, 1, 2, 1, 2, 3, 1, 4, 2, 3, 5, 1], np.int32)
    return SideFeatures(
        {"channel_id": channels},
        {},
        {"duration_seconds": np.arange(ITEMS, dtype=float) * 100} | numbers,
    )


def model_inputs(users=None, items=None, timed=True):
    """User u's only watch is of item 1 at instant 10 + u."""
    n = np.arange(1, USERS)
    user_inputs = UserInputs(
        histories_of(n, np.ones(USERS - 1), 10 + n, USERS), None, users or users_side()
    )
    return ModelInputs(
        user_inputs,
        Vocabulary(pa.array(n[: ITEMS - 1]), SEEN, SHOWN),
        None,
        items or items_side(),
        timed,
    )


def test_sizes_and_ranges_are_those_of_the_ids_that_had_come_by_then():
    shape = spec_of(model_inputs(), CONFIG, 95)
    assert (shape.as_of, shape.items) == (95, 10)
    assert shape.categories == {"country": 4}
    assert shape.numbers == {"age": (21.0, 103.0)}
    assert shape.item_categories == {"channel_id": 5}
    assert shape.item_numbers == {"duration_seconds": (0.0, pytest.approx(np.log(901)))}


def test_what_later_users_and_items_are_like_changes_nothing_before():
    later_users, later_items = users_side(), items_side()
    later_users.codes["country"][85:], later_users.numbers["age"][85:] = 50, 1000
    later_items.codes["channel_id"][10:], later_items.numbers["duration_seconds"][10:] = 99, 10**6
    before, after = model_inputs(), model_inputs(later_users, later_items)
    shape = spec_of(before, CONFIG, 95)
    assert spec_of(after, CONFIG, 95) == shape
    assert spec_of(after, CONFIG, 1000) != spec_of(before, CONFIG, 1000)
    facts, later = facts_of(before, shape), facts_of(after, shape)
    np.testing.assert_array_equal(facts.codes["channel_id"], later.codes["channel_id"])
    np.testing.assert_array_equal(facts.values, later.values)
    assert len(facts.values) == len(facts.listed) == 10


def test_a_category_that_names_its_users_is_left_out():
    """With fewer than 20 users a category on average it would be learnt by heart; one value says
    nothing.
    """
    columns = {"device": np.arange(USERS, dtype=np.int32), "planet": np.ones(USERS, np.int32)}
    assert set(spec_of(model_inputs(users_side(**columns)), CONFIG, 1000).categories) == {"country"}
    assert spec_of(model_inputs(), CONFIG, 80).categories == {}
    assert spec_of(model_inputs(), CONFIG, 95).categories == {"country": 4}


def test_a_temperature_is_the_cosine_s_alone():
    dot = spec_of(model_inputs(), CONFIG.model_copy(update={"metric": "dot"}), 1000)
    assert (dot.metric, dot.temperature) == ("dot", 1.0)
    cosine = spec_of(model_inputs(), CONFIG, 1000)
    assert (cosine.metric, cosine.temperature) == ("cosine", TEMPERATURE)
    assert facts_of(model_inputs(), cosine).values.shape == (ITEMS, 3)


@pytest.mark.parametrize(
    ("split", "history", "expected"),
    [
        ((1, 5), 5, (1, 5)),
        ((5, 1), 5, (1, 5)),
        ((1, 5), 3, (1, 3)),
        ((1, 5), 9, (1, 5, 9)),
        ((), 7, (7,)),
    ],
)
def test_windows_ascend_and_the_widest_is_the_history(split, history, expected):
    config = CONFIG.model_copy(update={"recency_windows": split, "history": history})
    assert spec_of(model_inputs(), config, 1000).recency_windows == expected


def test_depth_and_width_are_a_tower_of_halving_layers():
    config = CONFIG.model_copy(update={"depth": 3, "width": 8})
    assert spec_of(model_inputs(), config, 1000).hidden == (32, 16, 8)
    assert spec_of(model_inputs(), CONFIG.model_copy(update={"depth": 0}), 1000).hidden == ()


def test_the_example_age_needs_a_clock_of_time():
    ages = [spec_of(model_inputs(timed=timed), CONFIG, 1000).example_age for timed in (True, False)]
    assert ages == [True, False]
    assert not spec_of(
        model_inputs(), CONFIG.model_copy(update={"example_age": "none"}), 1000
    ).example_age


def test_items_that_nobody_was_shown_are_listed_where_side_features_speak_for_them():
    shape = spec_of(model_inputs(), CONFIG, 1000)
    assert np.flatnonzero(facts_of(model_inputs(), shape).listed).tolist() == list(range(1, ITEMS))
    silent = model_inputs(items=SideFeatures({}, {}, {}))
    plain = spec_of(silent, CONFIG, 1000)
    assert plain.items == ITEMS
    assert np.flatnonzero(facts_of(silent, plain).listed).tolist() == list(range(1, ITEMS - 2))


def test_the_age_of_an_item_is_its_hours_since_publication_by_their_logarithm():
    as_of = 1000 * HOUR
    published = np.concatenate(
        [[np.nan], as_of - np.array([0, 1, 3, 7, 15, 31, 63, 127, 255, -5, 2]) * HOUR]
    )
    told = model_inputs(items=items_side(**{PUBLISHED_AT: published}))
    shape = spec_of(told, CONFIG, as_of)
    assert set(shape.item_numbers) == {"duration_seconds", AGE_HOURS}
    ages = facts_of(told, shape).values[:, 3]
    np.testing.assert_allclose(ages[:10], np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8]) / 8, atol=1e-6)
    assert ages[10] == 0
    untimed = spec_of(
        model_inputs(items=items_side(**{PUBLISHED_AT: published}), timed=False), CONFIG, as_of
    )
    assert set(untimed.item_numbers) == {"duration_seconds"}


def test_a_grown_shape_has_more_rows_and_the_same_layers():
    new_channel = items_side()
    new_channel.codes["channel_id"][10] = 9
    users = users_side(
        region=np.where(np.arange(USERS) < 70, 1, np.where(np.arange(USERS) < 95, 2, 3)).astype(
            np.int32
        )
    )
    told = model_inputs(users, new_channel)
    old = spec_of(told, CONFIG, 95)
    grown = grown_spec(old, told, CONFIG, 1000)
    assert old.categories == grown.categories | {"region": 3} == {"country": 4, "region": 3}
    assert grown.categories["region"] == 4
    assert (old.item_categories, grown.item_categories) == ({"channel_id": 5}, {"channel_id": 10})
    assert (old.items, grown.items) == (10, 12)
    for name in ("category_dims", "numbers", "item_numbers", "hidden", "recency_windows"):
        assert getattr(grown, name) == getattr(old, name)
