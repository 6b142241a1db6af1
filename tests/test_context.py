"""The log in indexes, as the steps read it."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from funnel.context import REQUESTS, Impressions


def loaded(folder, timestamps_us, devices):
    n = len(timestamps_us)
    table = {
        "user": pa.array(np.arange(n, 0, -1), pa.int32()),
        "item": pa.array(np.ones(n), pa.int32()),
        "timestamp_us": pa.array(timestamps_us, pa.int64()),
        "clicked": pa.array([True] * n),
        "completed": pa.array([True] * n),
        "device": pa.array(devices, pa.string()),
    }
    pq.write_table(pa.table(table), folder / "impressions.parquet")
    np.save(folder / REQUESTS, np.array(timestamps_us, np.int64))
    return Impressions.load(folder)


def test_a_later_value_of_a_context_changes_no_older_code(tmp_path):
    """An `android` after the cut must not make of `ios` another code than it had before it."""
    before = loaded(tmp_path, [20, 10, 30], ["web", "ios", None])
    assert before.device.tolist() == [2, 1, 0]
    after = loaded(tmp_path, [40, 20, 10, 30], ["android", "web", "ios", None])
    assert after.device.tolist() == [3, 2, 1, 0]
    assert not after.surface.any()
    assert list(after.contexts) == ["device"]
