"""The log in indexes, as models read it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.impressions import Impressions, unit_of

NAN = np.nan


def loaded(folder, timestamps_us, devices):
    n = len(timestamps_us)
    table = {
        "user": pa.array(np.arange(n, 0, -1), pa.int32()),
        "item": pa.array(np.ones(n), pa.int32()),
        "timestamp_us": pa.array(timestamps_us, pa.int64()),
        "request_us": pa.array(timestamps_us, pa.int64()),
        "clicked": pa.array([True] * n),
        "completed": pa.array([True] * n),
        "device": pa.array(devices, pa.string()),
    }
    pq.write_table(pa.table(table), folder / "impressions.parquet")
    return Impressions.load(folder)


def test_a_later_value_of_a_context_changes_no_older_code(tmp_path):
    """An `android` after the cut must not make of `ios` another code than it had before it."""
    before = loaded(tmp_path, [20, 10, 30], ["web", "ios", None])
    assert before.device.tolist() == [2, 1, 0]
    after = loaded(tmp_path, [40, 20, 10, 30], ["android", "web", "ios", None])
    assert after.device.tolist() == [3, 2, 1, 0]
    assert not after.surface.any()
    assert list(after.contexts) == ["device"]


@pytest.mark.parametrize(
    ("seconds", "unit"),
    [([1, NAN, NAN], "watches"), ([1, 2, NAN], "seconds"), ([1, NAN, 5], "seconds")],
)
def test_watches_are_counted_where_most_clicks_lack_their_seconds(seconds, unit):
    assert unit_of(np.ones(3, bool), np.array(seconds, float), np.ones(3, bool)) == unit


def test_the_unit_is_decided_before_the_cut_and_by_clicks():
    clicked, seconds = np.array([True, False, False, True]), np.array([5.0, NAN, NAN, NAN])
    assert unit_of(clicked, seconds, np.array([True, True, True, False])) == "seconds"
    assert unit_of(clicked, seconds, np.zeros(4, bool)) == "seconds"


def log_of(timestamps_us, clicked):
    n = len(timestamps_us)
    columns = {
        "user": pa.array(np.ones(n), pa.int32()),
        "item": pa.array(np.arange(1, n + 1), pa.int32()),
        "timestamp_us": pa.array(timestamps_us, pa.int64()),
        "request_us": pa.array(timestamps_us, pa.int64()),
        "clicked": clicked,
        "completed": clicked,
    }
    return Impressions.of_table(pa.table(columns))


def test_parts_of_the_log_are_half_open_and_histories_keep_what_is_asked_for():
    log = log_of([10, 20, 30, 40], [True, False, True, True])
    assert log.before(30).items.tolist() == [1, 2]
    assert log.ended_by(30, np.array([10, 31, 30, 40])).items.tolist() == [1]
    assert log.between(20, 40).items.tolist() == [2, 3]
    kept = log.histories(log.clicked, 3)
    assert (kept.offsets.tolist(), kept.items.tolist()) == ([0, 0, 3, 3], [1, 3, 4])


def test_a_log_tells_what_was_shown_where_rows_before_the_cut_were_not_clicked():
    log = log_of([10, 20, 30, 40], [True, True, False, True])
    assert [log.tell_what_was_shown(before) for before in (10, 30, 31)] == [False, False, True]
