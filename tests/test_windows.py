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

from features.errors import Refused
from features.windows import PART, Windows, WindowsConfig, instant_of, instants, text_of, windows_of

START = datetime(2024, 5, 1, tzinfo=UTC)
TIME = Windows(mode="time", clock="time", start=0, history_end=1, labels_end=2, holdout_end=3)


def log_of(users: list[int], moments: list[datetime], completed: list[bool] | None = None) -> ibis.Table:
    flags = completed or [True] * len(users)
    items = np.arange(len(users))
    moment = pa.array(moments, pa.timestamp("us", "UTC"))
    table = pa.table({"user_id": users, "item_id": items, "timestamp": moment, "completed": flags})
    return ibis.memtable(table)


def instants_in_rows(log: ibis.Table, windows: Windows) -> list[int]:
    found: list[int] = instants(log, windows).to_pyarrow().sort_by("row")["instant"].to_pylist()
    return found


def hours(count: int) -> ibis.Table:
    """One row an hour from the start on; the span is count - 1 hours."""
    return log_of([1] * count, [START + timedelta(hours=hour) for hour in range(count)])


def cut(log: ibis.Table, **config: Any) -> Windows:
    return windows_of(log, WindowsConfig(**config))


def at(hour: float) -> int:
    return instant_of(START + timedelta(hours=hour))


@given(st.lists(st.integers(0, 4 * 10**15), min_size=1, max_size=8))
@settings(max_examples=20)
def test_an_instant_is_exactly_the_microseconds_since_1970(micros: list[int]) -> None:
    moments = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=value) for value in micros]
    found = instants_in_rows(log_of([1] * len(micros), moments), TIME)
    assert found == micros == [instant_of(moment) for moment in moments]


def test_instants_are_whole_numbers_in_the_table_and_in_its_file(tmp_path: Path) -> None:
    for clock in (TIME, TIME.model_copy(update={"clock": "order"})):
        log = instants(hours(2), clock)
        assert str(log.to_pyarrow().schema.field("instant").type) == "int64"
        log.to_parquet(tmp_path / "log.parquet")
        assert str(pq.read_schema(tmp_path / "log.parquet").field("instant").type) == "int64"


def test_the_derived_holdout_is_the_last_tenth_and_the_labels_as_long_before_it() -> None:
    windows = cut(hours(101))
    assert (windows.start, windows.holdout_end) == (at(0), at(100) + 1)
    assert (windows.labels_end, windows.history_end) == (at(90) + 1, at(80) + 1)


def test_given_instants_are_taken_and_a_moment_without_zone_is_utc() -> None:
    windows = cut(hours(101), labels_end="2024-05-03T00:00:00", history_end="2024-05-02T02:00:00+02:00")
    assert (windows.labels_end, windows.history_end) == (at(48), at(24))


def test_an_early_cut_still_leaves_half_of_what_came_before_as_history() -> None:
    windows = cut(hours(101), labels_end=START + timedelta(hours=10))
    assert windows.history_end == at(5)


def test_with_nothing_held_out_every_row_lies_before_labels_end() -> None:
    windows = cut(hours(101), mode="none")
    assert windows.labels_end == windows.holdout_end == at(100) + 1
    assert windows.history_end == at(90) + 1


@given(
    st.lists(st.integers(0, 10**12), min_size=3, max_size=30, unique=True),
    st.floats(0.01, 0.49),
    st.sampled_from(["time", "none"]),
)
@settings(max_examples=30)
def test_the_parts_of_a_derived_cut_partition_the_log(micros: list[int], share: float, mode: str) -> None:
    moments = [START + timedelta(microseconds=value) for value in micros]
    log = log_of([1] * len(micros), moments)
    try:
        windows = windows_of(log, WindowsConfig(mode=mode, holdout_share=share))
    except Refused:
        assert (max(micros) - min(micros)) * share < 2
        return
    edges = [windows.history_end, windows.labels_end, windows.holdout_end]
    instant = np.array([instant_of(moment) for moment in moments])
    assert windows.start < edges[0] < edges[1] <= edges[2]
    assert (np.searchsorted(edges, instant, side="right") < 3).all()
    if mode == "time":
        assert (instant >= windows.labels_end).any()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"labels_end": "2024-06-01"}, "windows.labels_end = 2024-06-01T00:00:00Z lies outside the log"),
        ({"labels_end": "2024-04-01"}, "windows.labels_end = 2024-04-01T00:00:00Z lies outside the log"),
        ({"labels_end": "1970-01-01"}, "windows.labels_end = 1970-01-01T00:00:00Z lies outside the log"),
        ({"labels_end": "2024-04-01", "mode": "none"}, "lies outside the log"),
        ({"labels_end": "2024-05-03", "holdout_end": "2024-05-02"}, "windows.holdout_end = 2024-05-02"),
        ({"labels_end": "2024-05-02", "history_end": "2024-05-03"}, "windows.labels_end = 2024-05-02T00:00:00Z does"),
        ({"history_end": "2024-04-01"}, "windows.history_end = 2024-04-01T00:00:00Z does not lie after the log's"),
    ],
)
def test_instants_that_cannot_cut_the_log_are_refused_by_name(config: dict[str, str], words: str) -> None:
    with pytest.raises(Refused, match=words):
        cut(hours(101), **config)


def test_a_log_of_one_instant_cannot_be_cut_by_time() -> None:
    with pytest.raises(Refused, match="labels_end"):
        cut(log_of([1, 2], [START, START]))


def test_leave_last_out_keeps_its_own_clock() -> None:
    windows = cut(hours(3), mode="last")
    assert (windows.clock, windows.history_end, windows.labels_end, windows.holdout_end) == (
        "order",
        PART,
        2 * PART,
        3 * PART,
    )
    with pytest.raises(Refused, match=r'features.clock = "time" with windows.mode = "last"'):
        windows_of(hours(3), WindowsConfig(mode="last"), "time")
    with pytest.raises(Refused, match=r"windows.labels_end is an instant"):
        cut(hours(3), mode="last", labels_end=START)
    with pytest.raises(Refused, match=r'windows.mode = "time" needs features.clock'):
        windows_of(hours(3), WindowsConfig(mode="time"), "order")


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5), st.booleans()), min_size=1, max_size=25))
@settings(max_examples=40)
def test_on_the_order_clock_the_last_completed_watch_opens_the_holdout(rows: list[tuple[int, int, bool]]) -> None:
    """Against a loop: the k-th last watch of a user and what follows it lies in part 2 (last), 1, else 0."""
    users, seconds, completed = map(list, zip(*rows, strict=True))
    moments = [START + timedelta(seconds=value) for value in seconds]
    for mode, parts in (("last", 2), ("none", 1)):
        windows = windows_of(log_of([1], [START]), WindowsConfig(mode=mode), "order")
        found = instants_in_rows(log_of(users, moments, completed), windows)
        assert found == _order_instants(users, seconds, completed, parts)


def _order_instants(users: list[int], seconds: list[int], completed: list[bool], parts: int) -> list[int]:
    expected = [0] * len(users)
    for user in set(users):
        own = sorted((row for row in range(len(users)) if users[row] == user), key=lambda row: (seconds[row], row))
        left = sum(completed[row] for row in own)
        part_if_any, any_watch = parts - left, left > 0
        for position, row in enumerate(own):
            part_if_any += completed[row]
            expected[row] = (max(part_if_any, 0) if any_watch else 0) * PART + position
    return expected


def test_windows_come_back_as_they_were_saved(tmp_path: Path) -> None:
    windows = cut(hours(101))
    windows.save(tmp_path)
    assert Windows.load(tmp_path) == windows
    assert windows.described()["labels_end"] == "2024-05-04T18:00:00Z" == text_of(windows.labels_end)


def test_the_order_clock_is_described_without_instants() -> None:
    assert cut(hours(3), mode="last").described() == {
        "mode": "last",
        "clock": "order",
        "history_end": "before the label watch",
        "labels_end": "before the holdout watch",
    }
