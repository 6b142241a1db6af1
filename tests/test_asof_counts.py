"""Counts as of an instant, held against a loop over the log."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.asof_counts import NEVER, AsOfCounts, Events, count_events
from features.schema import SECOND

Event = tuple[int, int, bool, float | None]
EVENTS = st.lists(
    st.tuples(
        st.integers(-1, 4),
        st.integers(0, 9),
        st.booleans(),
        st.one_of(st.none(), st.integers(0, 6).map(float)),
    ),
    max_size=30,
)


def counts_of_events(events: list[Event]) -> AsOfCounts:
    keys, timestamps_us, clicked, seconds = (
        zip(*events, strict=True) if events else ((), (), (), ())
    )
    known = np.array([math.nan if s is None else s for s in seconds], np.float64)
    flags, who = np.array(clicked, bool), np.array(keys, np.int32)
    at = np.array(timestamps_us, np.int64) * SECOND
    log = Events.of(who, who, at, flags, np.where(flags, known, 0.0))
    return count_events(who, log)


def counted(events: list[Event], key: int, second: int) -> dict[str, float]:
    """Brute force: the counts of a key strictly before a second, of seconds those of watches that
    had ended by then.
    """
    own = [event for event in events if event[0] == key and event[1] < second]
    clicks = [event for event in own if event[2]]
    seconds = [e[3] for e in clicks if e[3] is not None and e[1] + e[3] < second]
    return {
        "shown": len(own),
        "clicks": len(clicks),
        "known": len(seconds),
        "seconds": sum(seconds),
        "last_shown": max((event[1] * SECOND for event in own), default=NEVER),
        "last_click": max((event[1] * SECOND for event in clicks), default=NEVER),
    }


@given(EVENTS, st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 17)), min_size=1, max_size=8))
def test_counts_are_what_a_loop_counts(events: list[Event], asked: list[tuple[int, int]]) -> None:
    keys, seconds = np.array(asked).T
    found = counts_of_events(events).as_of(keys, seconds * SECOND)
    for row, (key, second) in enumerate(asked):
        assert {name: values[row] for name, values in found.items()} == counted(events, key, second)


@given(EVENTS, EVENTS, st.integers(0, 9))
def test_later_events_change_no_count_from_before(
    earlier: list[Event], later: list[Event], cut: int
) -> None:
    kept = [event for event in earlier if event[1] < cut]
    grown = kept + [event for event in later if event[1] >= cut]
    found = [counts_of_events(events).as_of(np.arange(6), cut * SECOND) for events in (kept, grown)]
    for name in found[0]:
        assert found[0][name].tolist() == found[1][name].tolist()


def test_the_event_itself_is_not_in_its_own_counts() -> None:
    """Watch time must never be a feature of the row it labels, nor of another row of the same
    instant.
    """
    counts = counts_of_events([(1, 10, True, 30.0), (1, 10, True, 5.0)])
    assert counts.as_of(np.array([1]), 10 * SECOND)["shown"].tolist() == [0]
    assert counts.as_of(np.array([1]), 11 * SECOND)["clicks"].tolist() == [2]


def test_seconds_are_known_once_the_watch_has_ended_and_the_click_at_once() -> None:
    counts = counts_of_events([(1, 10, True, 30.0), (1, 12, True, 5.0)])
    asked = np.array([11, 13, 17, 18, 40, 41]) * SECOND
    found = counts.as_of(np.ones(6, np.int64), asked)
    assert found["clicks"].tolist() == [1, 2, 2, 2, 2, 2]
    assert found["known"].tolist() == [0, 0, 0, 1, 1, 2]
    assert found["seconds"].tolist() == [0, 0, 0, 5, 5, 35]
