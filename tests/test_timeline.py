"""What came before an instant, held against a loop over the events."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.timeline import Timeline, pair_keys, pairs_of, timeline_order

EVENTS = st.lists(st.tuples(st.integers(0, 6), st.integers(-5, 12)), max_size=40)
QUESTIONS = st.lists(st.tuples(st.integers(-1, 7), st.integers(-7, 14)), min_size=1, max_size=20)


def timeline_of(events: list[tuple[int, int]]) -> Timeline:
    keys, timestamps_us = np.array(sorted(events), np.int64).reshape(-1, 2).T
    return Timeline(keys, timestamps_us)


@given(EVENTS, QUESTIONS)
def test_before_counts_what_a_loop_counts(
    events: list[tuple[int, int]], questions: list[tuple[int, int]]
) -> None:
    timeline = timeline_of(events)
    keys, timestamps_us = np.array(questions).T
    counts = timeline.before(keys, timestamps_us) - timeline.starts(keys)
    assert counts.tolist() == [
        sum(k == key and i < timestamp_us for k, i in events) for key, timestamp_us in questions
    ]


@given(EVENTS, QUESTIONS)
def test_the_positions_counted_are_those_of_the_key(
    events: list[tuple[int, int]], questions: list[tuple[int, int]]
) -> None:
    timeline = timeline_of(events)
    keys, timestamps_us = np.array(questions).T
    for key, timestamp_us, start, end in zip(
        keys,
        timestamps_us,
        timeline.starts(keys),
        timeline.before(keys, timestamps_us),
        strict=True,
    ):
        assert (timeline.keys[start:end] == key).all()
        assert (timeline.timestamps_us[start:end] < timestamp_us).all()


def test_an_event_at_the_very_instant_is_not_before_it() -> None:
    timeline = timeline_of([(1, 10), (1, 10), (1, 11)])
    assert timeline.before(np.array([1, 1, 1]), np.array([10, 11, 12])).tolist() == [0, 2, 3]


def test_one_instant_serves_all_keys() -> None:
    timeline = timeline_of([(0, 1), (2, 1), (2, 5)])
    assert timeline.before(np.array([0, 1, 2]), 5).tolist() == [1, 1, 2]


@given(EVENTS, EVENTS, st.integers(-5, 12))
def test_later_events_change_no_count_before(
    earlier: list[tuple[int, int]], later: list[tuple[int, int]], cut: int
) -> None:
    kept = [event for event in earlier if event[1] < cut]
    grown = kept + [event for event in later if event[1] >= cut]
    keys = np.arange(7)
    for timestamp_us in (cut - 3, cut):
        counts = [
            t.before(keys, timestamp_us) - t.starts(keys)
            for t in (timeline_of(kept), timeline_of(grown))
        ]
        assert counts[0].tolist() == counts[1].tolist()


def test_keys_of_pairs_stay_inside_64_bits_in_a_log_of_many_instants() -> None:
    """Keys and instants count from numbers that together do not fit 64 bits."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(1, 2**31, 3_000), rng.integers(1, 2**31, 3_000)
    keys = np.sort(np.tile(pair_keys(users, items), 2))
    timestamps_us = np.tile([0, 1_000], 3_000) + np.repeat(np.arange(3_000) % 7, 2)
    timeline = Timeline(keys, timestamps_us)
    asked = np.unique(keys)
    assert (timeline.before(asked, 500) - timeline.starts(asked) == 1).all()
    assert (timeline.before(asked, 5_000) - timeline.starts(asked) == 2).all()


@given(EVENTS, QUESTIONS)
def test_a_clock_too_long_for_one_number_counts_the_same(
    events: list[tuple[int, int]], questions: list[tuple[int, int]]
) -> None:
    """Key and instant together do not fit 64 bits."""
    keys, timestamps_us = np.array(questions).T
    plain, long = (
        timeline_of(events),
        timeline_of([(key, timestamp_us << 57) for key, timestamp_us in events]),
    )
    here, there = plain.spans(keys, timestamps_us), long.spans(keys, timestamps_us << 57)
    for name in ("rows", "starts", "ends"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))


def test_events_are_sorted_by_key_then_instant_and_equal_ones_keep_their_order() -> None:
    keys, timestamps_us = np.array([2, 1, 2, 1, 2]), np.array([5, 9, 5, 3, 1])
    assert timeline_order(keys, timestamps_us).tolist() == [3, 1, 4, 0, 2]


@pytest.mark.parametrize("keys_an_event", [0, 4], ids=["searched", "by a table"])
def test_spans_are_the_starts_and_ends_of_the_keys_that_have_events(monkeypatch, keys_an_event):
    monkeypatch.setattr("features.timeline.KEYS_AN_EVENT", keys_an_event)
    rng = np.random.default_rng(1)
    keys, timestamps_us = np.sort(rng.integers(2, 12, 60)), rng.integers(0, 30, 60)
    order = timeline_order(keys, timestamps_us)
    timeline = Timeline(keys[order], timestamps_us[order])
    asked, as_of = rng.integers(-1, 15, 300), rng.integers(-1, 33, 300)
    spans = timeline.spans(asked, as_of)
    rows, starts, ends = spans.rows, spans.starts, spans.ends
    assert spans.size == 300
    assert rows.tolist() == [row for row in range(300) if asked[row] in keys]
    np.testing.assert_array_equal(starts, timeline.starts(asked[rows]))
    np.testing.assert_array_equal(ends, timeline.before(asked[rows], as_of[rows]))


def test_keys_of_pairs_are_different_for_different_pairs() -> None:
    first, second = np.meshgrid(np.arange(40), np.arange(40))
    assert len(np.unique(pair_keys(first.ravel(), second.ravel()))) == 1_600
    np.testing.assert_array_equal(pairs_of(pair_keys(first, second)), (first, second))
    assert pair_keys(np.array([3]), np.array([-1])) < 0
    assert pair_keys(np.array([2**31 - 1]), np.array([2**31 - 1])) > 0
