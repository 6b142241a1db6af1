"""What towers read of users: strictly before the instant, newest first, in the tower's own
vocabulary.
"""

import numpy as np

from features.histories import histories_of
from features.side_features import SideFeatures
from recall.inputs import UserInputs
from recall.tower import TowerSpec

WATCHES = histories_of(
    np.array([1, 1, 1, 1, 2]), np.array([1, 2, 3, 4, 9]), np.array([10, 20, 20, 30, 15]), 4
)
SEARCHES = histories_of(np.array([1, 1, 1]), np.array([1, 2, 3]), np.array([5, 20, 25]), 4)
USERS = SideFeatures(
    {"country": np.array([0, 1, 2, 0], np.int32)},
    {"country": 3},
    {"age": np.array([np.nan, 30.0, 90.0, np.nan])},
)
READINGS = UserInputs(WATCHES, SEARCHES, USERS)


def shape(**fields):
    usual = {
        "as_of": 0,
        "items": 10,
        "dim": 2,
        "hidden": (),
        "recency_windows": (1, 3),
        "tokens": 4,
        "token_bag": 2,
    }
    usual |= {"categories": {"country": 3}, "numbers": {"age": (20.0, 60.0)}}
    return TowerSpec(**usual | fields)


def read(users, timestamps_us, **fields):
    return READINGS.inputs_at(shape(**fields), np.array(users, np.int32), np.array(timestamps_us))


def test_watches_are_those_strictly_before_the_instant_newest_first():
    assert read([1, 1, 1], [20, 21, 31]).watches.tolist() == [[1, 0, 0], [3, 2, 1], [4, 3, 2]]


def test_one_instant_serves_all_users():
    once = READINGS.inputs_at(shape(), np.array([1, 2], np.int32), 21)
    np.testing.assert_array_equal(once.watches, read([1, 2], [21, 21]).watches)
    np.testing.assert_array_equal(once.tokens, read([1, 2], [21, 21]).tokens)


def test_a_user_without_history_reads_as_nobody():
    inputs = read([3], [100])
    assert not inputs.watches.any()
    assert not inputs.tokens.any()


def test_what_the_tower_never_knew_reads_as_nobody():
    inputs = read([1, 2], [31, 31], items=4, tokens=3, categories={"country": 2})
    assert inputs.watches.tolist() == [[0, 3, 2], [0, 0, 0]]
    assert inputs.tokens.tolist() == [[0, 2], [0, 0]]
    assert inputs.categories["country"].tolist() == [1, 0]


def test_tokens_are_those_searched_strictly_before_the_instant():
    assert read([1, 1], [20, 26]).tokens.tolist() == [[1, 0], [3, 2]]


def test_without_searches_or_places_for_them_there_are_no_tokens():
    users, timestamps_us = np.array([1], np.int32), np.array([50])
    assert UserInputs(WATCHES, None, USERS).inputs_at(
        shape(), users, timestamps_us
    ).tokens.shape == (1, 0)
    assert READINGS.inputs_at(shape(token_bag=0), users, timestamps_us).tokens.shape == (1, 0)


def test_numbers_come_scaled_clipped_and_with_their_powers():
    numbers = read([1, 2, 3], [0, 0, 0]).numbers
    np.testing.assert_allclose(numbers, [[0.25, 0.0625, 0.5], [1, 1, 1], [0, 0, 0]])


def test_the_example_age_is_zero_when_serving():
    assert not read([1, 2], [5, 5]).example_age.any()


def test_training_and_serving_read_the_same_for_the_same_request():
    users, timestamps_us = np.array([1, 1, 2], np.int32), np.array([20, 30, 16])
    ends = WATCHES.ends(users, timestamps_us)
    trained, served = (
        READINGS.inputs(shape(), users, ends, timestamps_us),
        READINGS.inputs_at(shape(), users, timestamps_us),
    )
    for name in ("watches", "tokens", "numbers"):
        np.testing.assert_array_equal(getattr(trained, name), getattr(served, name))


def test_later_watches_and_searches_change_no_earlier_reading():
    grown = UserInputs(
        histories_of(
            np.append(WATCHES.users, 2),
            np.append(WATCHES.items, 5),
            np.append(WATCHES.timestamps_us, 40),
            4,
        ),
        histories_of(
            np.append(SEARCHES.users, 1),
            np.append(SEARCHES.items, 1),
            np.append(SEARCHES.timestamps_us, 40),
            4,
        ),
        USERS,
    )
    users = np.array([1, 2, 3], np.int32)
    before, after = READINGS.inputs_at(shape(), users, 40), grown.inputs_at(shape(), users, 40)
    np.testing.assert_array_equal(before.watches, after.watches)
    np.testing.assert_array_equal(before.tokens, after.tokens)
