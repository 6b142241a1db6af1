"""Slices of impressions: by the video's length, by what was known of the viewer, by the video's age.

Each is a name and the impressions [n] it holds; every impression lies in one slice of a kind, or in none where the log
cannot say.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


def by_duration(seconds: Floats) -> dict[str, Flags]:
    """By the item's length in seconds, NaN unknown."""
    return {
        "duration_unknown": np.isnan(seconds),
        "duration_under_10": seconds < 10,
        "duration_10_to_20": (seconds >= 10) & (seconds < 20),
        "duration_20_to_60": (seconds >= 20) & (seconds < 60),
        "duration_over_60": seconds >= 60,
    }


def by_user_clicks(clicks: Floats) -> dict[str, Flags]:
    """By the user's clicks before the impression."""
    return {
        "users_with_0_clicks": clicks == 0,
        "users_with_1_to_9_clicks": (clicks > 0) & (clicks < 10),
        "users_with_10_to_49_clicks": (clicks >= 10) & (clicks < 50),
        "users_with_50_or_more_clicks": clicks >= 50,
    }


def by_item_age(hours: Floats) -> dict[str, Flags]:
    """By the hours since the item was published, NaN unknown."""
    return {
        "items_younger_than_1_day": hours < 24,
        "items_of_1_to_7_days": (hours >= 24) & (hours < 7 * 24),
        "items_of_7_days_or_more": hours >= 7 * 24,
    }
