"""Slices of impressions: each row in one of a kind, and none where the log cannot say."""

import numpy as np
import pytest

from ranking.slices import by_duration, by_item_age, by_user_clicks

NAN = float("nan")


def member(slices, row):
    return [name for name, rows in slices.items() if rows[row]]


@pytest.mark.parametrize(
    ("seconds", "name"),
    [
        (NAN, "unknown"),
        (0, "under_10"),
        (9.9, "under_10"),
        (10, "10_to_20"),
        (20, "20_to_60"),
        (60, "over_60"),
        (9e9, "over_60"),
    ],
)
def test_every_duration_lies_in_one_slice(seconds, name):
    assert member(by_duration(np.array([seconds])), 0) == [f"duration_{name}"]


@pytest.mark.parametrize(
    ("clicks", "name"), [(0, "0"), (1, "1_to_9"), (9, "1_to_9"), (10, "10_to_49"), (50, "50_or_more")]
)
def test_every_viewer_lies_in_one_slice(clicks, name):
    assert member(by_user_clicks(np.array([float(clicks)])), 0) == [f"users_with_{name}_clicks"]


@pytest.mark.parametrize(
    ("hours", "names"),
    [(0, ["items_younger_than_1_day"]), (24, ["items_of_1_to_7_days"]), (168, ["items_of_7_days_or_more"]), (NAN, [])],
)
def test_every_known_age_lies_in_one_slice(hours, names):
    assert member(by_item_age(np.array([float(hours)])), 0) == names
