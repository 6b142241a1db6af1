"""Whole hours and days: which length suits a span, which instants lie on its grid."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.calendar import LENGTHS, floored, grid_before, nearest_length, shortest_at_least
from features.schema import DAY, HOUR, MINUTE


def test_each_length_is_a_multiple_of_those_before_it():
    assert all(later % earlier == 0 for earlier, later in itertools.pairwise(LENGTHS))


@pytest.mark.parametrize(
    ("span", "shortest", "nearest"),
    [
        (20 * MINUTE, HOUR, None),
        (HOUR, HOUR, HOUR),
        (100 * MINUTE, 3 * HOUR, HOUR),
        (110 * MINUTE, 3 * HOUR, 3 * HOUR),
        (16 * HOUR, DAY, 12 * HOUR),
        (17 * HOUR, DAY, DAY),
        (3 * DAY, 4 * DAY, 4 * DAY),
        (5000 * DAY, 512 * DAY, 512 * DAY),
    ],
)
def test_the_length_that_suits_a_span(span, shortest, nearest):
    assert (shortest_at_least(span), nearest_length(span)) == (shortest, nearest)


@given(st.integers(0, 10**16), st.integers(1, 10**14))
def test_an_instant_goes_back_to_the_calendar_by_less_than_the_span(as_of, span):
    earlier = floored(as_of, span)
    assert 0 <= as_of - earlier < max(span, 1)
    assert span < HOUR or earlier % HOUR == 0
    if span < HOUR:
        assert earlier == as_of


@given(st.integers(0, 10**15), st.integers(1, 10**14), st.sampled_from(LENGTHS))
def test_a_grid_is_of_equal_steps_and_leaves_half_a_step_before_its_end(since, span, length):
    as_of = since + span
    grid = grid_before(as_of, since, length)
    phase = as_of % length if as_of % HOUR == 0 else 0
    assert grid == [
        at
        for at in range(since - since % length + phase - length, as_of + 1, length)
        if since <= at and as_of - at > length // 2
    ]
