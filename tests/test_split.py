"""How a log is cut: the instants on both clocks, what is derived, and what is refused."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.config import SplitConfig
from features.errors import InputError
from features.schema import DAY, MINUTE
from features.split import PART, Split, text_of, timestamp_us_from
from features.split_log import facts_of, split_of, timestamps_us

START = datetime(2024, 5, 1, tzinfo=UTC)
TIME = Split(mode="time", clock="time", start=0, label_start=1, test_start=2, test_end=3)


def log_of(
    users: list[int], as_of: list[datetime], completed: list[bool] | None = None
) -> ibis.Table:
    flags = completed or [True] * len(users)
    items = np.arange(len(users))
    as_of = pa.array(as_of, pa.timestamp("us", "UTC"))
    table = pa.table({"user_id": users, "item_id": items, "timestamp": as_of, "completed": flags})
    return ibis.memtable(table)


def timestamps_in_rows(log: ibis.Table, split: Split) -> list[int]:
    found: list[int] = (
        timestamps_us(log, split).to_pyarrow().sort_by("row")["timestamp_us"].to_pylist()
    )
    return found


def hours(count: int) -> ibis.Table:
    """One row an hour from the start on; the span is count - 1 hours."""
    return log_of([1] * count, [START + timedelta(hours=hour) for hour in range(count)])


def cut(log: ibis.Table, **config: Any) -> Split:
    return split_of(log, SplitConfig(**config))


def at(hour: float) -> int:
    return timestamp_us_from(START + timedelta(hours=hour))


@given(st.lists(st.integers(0, 4 * 10**15), min_size=1, max_size=8))
@settings(max_examples=20)
def test_an_instant_is_exactly_the_microseconds_since_1970(micros: list[int]) -> None:
    as_of = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value) for value in micros]
    found = timestamps_in_rows(log_of([1] * len(micros), as_of), TIME)
    assert found == micros == [timestamp_us_from(as_of) for as_of in as_of]


def test_instants_are_whole_numbers_in_the_table_and_in_its_file(tmp_path: Path) -> None:
    for clock in (TIME, TIME.model_copy(update={"clock": "order"})):
        log = timestamps_us(hours(2), clock)
        assert str(log.to_pyarrow().schema.field("timestamp_us").type) == "int64"
        log.to_parquet(tmp_path / "log.parquet")
        assert str(pq.read_schema(tmp_path / "log.parquet").field("timestamp_us").type) == "int64"


@pytest.mark.parametrize(
    ("rows", "label_start", "test_start"), [(106, 78, 90), (125, 96, 108), (241, 192, 216)]
)
def test_the_derived_holdout_is_the_last_tenth_on_the_calendar_and_the_labels_as_long(
    rows: int, label_start: int, test_start: int
) -> None:
    split = cut(hours(rows))
    assert (split.start, split.test_end) == (at(0), at(rows - 1) + 1)
    assert (split.test_start, split.label_start) == (at(test_start), at(label_start))


def test_one_more_day_of_log_moves_the_derived_holdout_by_a_day() -> None:
    for day in range(11, 16):
        earlier, later = cut(hours(24 * day)), cut(hours(24 * day + 24))
        assert later.test_start - earlier.test_start == DAY
        assert later.label_start - earlier.label_start == DAY


def test_a_log_of_minutes_has_a_derived_holdout_of_its_last_tenth() -> None:
    minutes = log_of([1] * 101, [START + timedelta(minutes=minute) for minute in range(101)])
    split = cut(minutes)
    assert split.test_end - split.test_start == 10 * MINUTE
    assert split.test_start - split.label_start == 10 * MINUTE


def test_given_instants_are_taken_and_a_moment_without_zone_is_utc() -> None:
    split = cut(
        hours(101), test_start="2024-05-03T00:00:00", label_start="2024-05-02T02:00:00+02:00"
    )
    assert (split.test_start, split.label_start) == (at(48), at(24))


def test_an_early_cut_still_leaves_half_of_what_came_before_as_history() -> None:
    split = cut(hours(101), test_start=START + timedelta(hours=10))
    assert split.label_start == at(5)


def test_with_nothing_held_out_every_row_lies_before_labels_end() -> None:
    split = cut(hours(101), mode="none")
    assert split.test_start == split.test_end == at(100) + 1
    assert split.label_start == at(88) + 1


@given(
    st.lists(st.integers(0, 10**12), min_size=3, max_size=30, unique=True),
    st.floats(0.01, 0.49),
    st.sampled_from(["time", "none"]),
)
@settings(max_examples=30)
def test_the_parts_of_a_derived_cut_partition_the_log(
    micros: list[int], share: float, mode: str
) -> None:
    as_of = [START + timedelta(microseconds=value) for value in micros]
    log = log_of([1] * len(micros), as_of)
    try:
        split = split_of(log, SplitConfig(mode=mode, test_share=share))
    except InputError:
        assert (max(micros) - min(micros)) * share < 2
        return
    edges = [split.label_start, split.test_start, split.test_end]
    timestamp_us = np.array([timestamp_us_from(as_of) for as_of in as_of])
    assert split.start < edges[0] < edges[1] <= edges[2]
    assert (np.searchsorted(edges, timestamp_us, side="right") < 3).all()
    if mode == "time":
        assert (timestamp_us >= split.test_start).any()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"test_start": "2024-06-01"},
            "split.test_start = 2024-06-01T00:00:00Z lies outside the log",
        ),
        (
            {"test_start": "2024-04-01"},
            "split.test_start = 2024-04-01T00:00:00Z lies outside the log",
        ),
        (
            {"test_start": "1970-01-01"},
            "split.test_start = 1970-01-01T00:00:00Z lies outside the log",
        ),
        ({"test_start": "2024-04-01", "mode": "none"}, "lies outside the log"),
        ({"test_start": "2024-05-03", "test_end": "2024-05-02"}, "split.test_end = 2024-05-02"),
        (
            {"test_start": "2024-05-02", "label_start": "2024-05-03"},
            "split.test_start = 2024-05-02T00:00:00Z does",
        ),
        (
            {"label_start": "2024-04-01"},
            "split.label_start = 2024-04-01T00:00:00Z does not lie after the log's",
        ),
    ],
)
def test_instants_that_cannot_cut_the_log_are_refused_by_name(
    config: dict[str, str], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        cut(hours(101), **config)


def test_a_log_of_one_instant_cannot_be_cut_by_time() -> None:
    log = log_of([1, 2], [START, START])
    for mode in ("time", "none"):
        with pytest.raises(InputError, match=r"Every row lies at 2024-05-01.*split\.mode = last"):
            cut(log, mode=mode)
    assert cut(log, mode="last").clock == "order"
    assert split_of(log, SplitConfig(mode="none"), "order").clock == "order"


def test_in_a_log_of_dates_the_labels_begin_with_the_last_date_before_the_test_window() -> None:
    days = log_of([1] * 5, [START + timedelta(days=day) for day in range(5)])
    split = cut(days)
    assert split.label_start == at(72) < split.test_start < at(96)


def test_a_cut_says_what_is_left_to_learn_from_and_what_is_to_be_found() -> None:
    """User 1 clicks item 7 again, user 2 is new, and item 8 had been shown to user 1 only."""
    clicked = [True, False, True, True, True, True]
    table = pa.table(
        {
            "user_id": [1, 1, 1, 1, 2, 1],
            "item_id": [7, 8, 9, 7, 7, 8],
            "timestamp": pa.array(
                [START + timedelta(hours=hour) for hour in (0, 1, 50, 98, 99, 100)],
                pa.timestamp("us", "UTC"),
            ),
            "clicked": clicked,
            "completed": clicked,
        }
    )
    log = ibis.memtable(table)
    facts = facts_of(log, split_of(log, SplitConfig(label_start=START + timedelta(hours=2))))
    assert facts == (1, 3, 1 / 3, 2, 0.5)


def test_leave_last_out_keeps_its_own_clock() -> None:
    split = cut(hours(3), mode="last")
    assert (split.clock, split.label_start, split.test_start, split.test_end) == (
        "order",
        PART,
        2 * PART,
        3 * PART,
    )
    with pytest.raises(InputError, match=r'features.clock = "time" with split.mode = "last"'):
        split_of(hours(3), SplitConfig(mode="last"), "time")
    with pytest.raises(InputError, match=r"split.test_start is an instant"):
        cut(hours(3), mode="last", test_start=START)
    with pytest.raises(InputError, match=r'split.mode = "time" needs features.clock'):
        split_of(hours(3), SplitConfig(mode="time"), "order")


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 5), st.booleans()), min_size=1, max_size=25
    )
)
@settings(max_examples=40)
def test_on_the_order_clock_the_last_completed_watch_opens_the_holdout(
    rows: list[tuple[int, int, bool]],
) -> None:
    """Against a loop: the k-th last watch of a user and what follows it lies in part 2 (last), 1,
    else 0.
    """
    users, seconds, completed = map(list, zip(*rows, strict=True))
    as_of = [START + timedelta(seconds=value) for value in seconds]
    for mode, parts in (("last", 2), ("none", 1)):
        split = split_of(log_of([1], [START]), SplitConfig(mode=mode), "order")
        found = timestamps_in_rows(log_of(users, as_of, completed), split)
        assert found == _order_instants(users, seconds, completed, parts)


def _order_instants(
    users: list[int], seconds: list[int], completed: list[bool], parts: int
) -> list[int]:
    expected = [0] * len(users)
    for user in set(users):
        own = sorted(
            (row for row in range(len(users)) if users[row] == user),
            key=lambda row: (seconds[row], row),
        )
        left = sum(completed[row] for row in own)
        part_if_any, any_watch = parts - left, left > 0
        for position, row in enumerate(own):
            part_if_any += completed[row]
            expected[row] = (max(part_if_any, 0) if any_watch else 0) * PART + position
    return expected


def test_windows_come_back_as_they_were_saved(tmp_path: Path) -> None:
    split = cut(hours(101))
    split.save(tmp_path)
    assert Split.load(tmp_path) == split
    assert split.described()["test_start"] == "2024-05-04T18:00:00Z" == text_of(split.test_start)


def test_the_order_clock_is_described_without_instants() -> None:
    assert cut(hours(3), mode="last").described() == {
        "mode": "last",
        "clock": "order",
        "label_start": "before the label watch",
        "test_start": "before the test watch",
    }
