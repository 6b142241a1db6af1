"""Tallies as of an instant and the side columns of users and items, held against a loop over the log."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features.sides import Side, side_of
from features.tallies import NEVER, Events, Tally, tally_of
from features.vocabulary import Vocabulary

Event = tuple[int, int, bool, float | None]
EVENTS = st.lists(
    st.tuples(
        st.integers(-1, 4), st.integers(0, 9), st.booleans(), st.one_of(st.none(), st.integers(0, 50).map(float))
    ),
    max_size=30,
)


def tally_of_events(events: list[Event]) -> Tally:
    keys, instants, clicked, seconds = zip(*events, strict=True) if events else ((), (), (), ())
    known = np.array([math.nan if s is None else s for s in seconds], np.float64)
    flags, who = np.array(clicked, bool), np.array(keys, np.int32)
    log = Events(who, who, np.array(instants, np.int64), flags, np.where(flags, known, 0.0))
    return tally_of(who, log)


def counted(events: list[Event], key: int, instant: int) -> dict[str, float]:
    """Brute force: the tally of a key strictly before an instant."""
    own = [event for event in events if event[0] == key and event[1] < instant]
    clicks = [event for event in own if event[2]]
    seconds = [event[3] for event in clicks if event[3] is not None]
    return {
        "shown": len(own),
        "clicks": len(clicks),
        "known": len(seconds),
        "seconds": sum(seconds),
        "last_shown": max((event[1] for event in own), default=NEVER),
        "last_click": max((event[1] for event in clicks), default=NEVER),
    }


@given(EVENTS, st.lists(st.tuples(st.integers(0, 5), st.integers(-1, 11)), min_size=1, max_size=8))
def test_a_tally_counts_what_a_loop_counts(events: list[Event], asked: list[tuple[int, int]]) -> None:
    keys, instants = np.array(asked).T
    found = tally_of_events(events).as_of(keys, instants)
    for row, (key, instant) in enumerate(asked):
        assert {name: values[row] for name, values in found.items()} == counted(events, key, instant)


@given(EVENTS, EVENTS, st.integers(0, 9))
def test_later_events_change_no_tally_from_before(earlier: list[Event], later: list[Event], cut: int) -> None:
    kept = [event for event in earlier if event[1] < cut]
    grown = kept + [event for event in later if event[1] >= cut]
    found = [tally_of_events(events).as_of(np.arange(6), cut) for events in (kept, grown)]
    for name in found[0]:
        assert found[0][name].tolist() == found[1][name].tolist()


def test_the_event_itself_is_not_in_its_own_tally() -> None:
    """Watch time must never be a feature of the row it labels, nor of another row of the same instant."""
    tally = tally_of_events([(1, 10, True, 30.0), (1, 10, True, 5.0)])
    assert tally.as_of(np.array([1]), 10)["shown"].tolist() == [0]
    assert tally.as_of(np.array([1]), 11)["seconds"].tolist() == [35]


def vocabulary_of_ids(*ids: Any) -> Vocabulary:
    return Vocabulary(pa.array(ids), np.arange(len(ids), dtype=np.int64))


def users_table(rows: Sequence[Mapping[str, object]]) -> ibis.Table:
    return ibis.memtable(pa.Table.from_pylist(rows))


PEOPLE: list[dict[str, object]] = [
    {"user_id": 30, "country": "FR", "age": 40.0, "premium": True},
    {"user_id": 10, "country": "BR", "age": None, "premium": False},
    {"user_id": 99, "country": "US", "age": 1.0, "premium": True},
    {"user_id": 20, "country": None, "age": 25.0, "premium": None},
]


def test_side_columns_stand_at_the_index_of_their_id() -> None:
    side = side_of(users_table(PEOPLE), "user_id", vocabulary_of_ids(10, 20, 30, 40))
    assert side.codes["country"].tolist() == [0, 1, 0, 2, 0]
    assert side.codes["premium"].tolist() == [0, 1, 0, 2, 0]
    np.testing.assert_equal(side.numbers["age"], [math.nan, math.nan, 25, 40, math.nan])
    assert side.sizes == {"country": 3, "premium": 3}


def test_a_later_user_with_a_new_category_changes_no_older_code() -> None:
    """Encoders fitted on rows of the test period are how the future leaks in."""
    later = [*PEOPLE, {"user_id": 50, "country": "AA", "age": 3.0, "premium": True}]
    then = side_of(users_table(PEOPLE), "user_id", vocabulary_of_ids(10, 20, 30))
    now = side_of(users_table(later), "user_id", vocabulary_of_ids(10, 20, 30, 50))
    assert now.codes["country"][:4].tolist() == then.codes["country"].tolist()
    assert now.codes["country"][4] == 3


def test_a_column_with_one_category_says_nothing_and_is_left_out_but_a_channel_stays() -> None:
    rows = [
        {"item_id": "a", "channel_id": "c", "language": "en"},
        {"item_id": "b", "channel_id": "c", "language": "en"},
    ]
    side = side_of(users_table(rows), "item_id", vocabulary_of_ids("a", "b"))
    assert list(side.codes) == ["channel_id"]


def test_topics_stand_as_their_first_one() -> None:
    rows = [{"item_id": i, "topics": topics} for i, topics in (("a", ["x", "y"]), ("b", []), ("c", ["y"]), ("d", None))]
    side = side_of(users_table(rows), "item_id", vocabulary_of_ids("a", "b", "c", "d"))
    assert side.codes["topics"].tolist() == [0, 1, 0, 2, 0]


def test_publication_is_a_number_in_microseconds() -> None:
    rows = [{"item_id": "a", "published_at": datetime(2024, 5, 1, 0, 0, 1, tzinfo=UTC)}]
    side = side_of(users_table(rows), "item_id", vocabulary_of_ids("a"))
    assert side.numbers["published_at"][1] == datetime(2024, 5, 1, 0, 0, 1, tzinfo=UTC).timestamp() * 1_000_000


def test_no_table_has_no_columns() -> None:
    assert side_of(None, "user_id", vocabulary_of_ids(1)) == Side({}, {}, {})


def test_side_columns_come_back_from_their_file(tmp_path: Path) -> None:
    side = side_of(users_table(PEOPLE), "user_id", vocabulary_of_ids(10, 20, 30))
    side.save(tmp_path / "users.parquet")
    loaded = Side.load(tmp_path / "users.parquet")
    assert loaded.sizes == side.sizes
    assert {name: codes.tolist() for name, codes in loaded.codes.items()} == {
        name: codes.tolist() for name, codes in side.codes.items()
    }
    np.testing.assert_equal(loaded.numbers["age"], side.numbers["age"])


def test_no_side_columns_come_back_as_none(tmp_path: Path) -> None:
    Side({}, {}, {}).save(tmp_path / "users.parquet")
    assert Side.load(tmp_path / "users.parquet") == Side({}, {}, {})
