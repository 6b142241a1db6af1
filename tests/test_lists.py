"""Lists as files: raw ids, ranks from 1, nobody never among them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.vocabulary import Vocabulary
from funnel import lists as lists_module
from funnel.lists import Ranked, RawIds, write_lists

IDS = RawIds(
    Vocabulary(pa.array(["ann", "bob", "cem"]), np.zeros(3, np.int64)),
    Vocabulary(pa.array([70, 80, 90]), np.zeros(3, np.int64)),
)
RANKED = Ranked(
    users=np.array([3, 1, 2], np.int32),
    items=np.array([[2, 1, 0], [3, 0, 0], [0, 0, 0]], np.int32),
    scores=np.array([[9.0, 4.0, -np.inf], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
)
EXPECTED = [("cem", 80, 1, 9.0, "t"), ("cem", 70, 2, 4.0, "t"), ("ann", 90, 1, 2.0, "t")]


def rows_of(path: Path) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def test_lists_are_written_in_raw_ids_one_row_an_item(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists.parquet", IDS, RANKED, {"channels": "t"})
    assert rows_of(tmp_path / "lists.parquet") == EXPECTED
    names = pq.read_table(tmp_path / "lists.parquet").column_names
    assert names == ["user_id", "item_id", "rank", "score", "channels"]


def test_shards_of_users_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists_module, "USERS_A_SHARD", 1)
    write_lists(tmp_path / "lists.parquet", IDS, RANKED, {"channels": "t"})
    assert rows_of(tmp_path / "lists.parquet") == EXPECTED


def test_no_user_is_a_file_with_the_same_columns(tmp_path: Path) -> None:
    none = Ranked(np.zeros(0, np.int32), np.zeros((0, 3), np.int32), np.zeros((0, 3)))
    write_lists(tmp_path / "none.parquet", IDS, none, {"channels": "t"})
    write_lists(tmp_path / "some.parquet", IDS, RANKED, {"channels": "t"})
    assert pq.read_schema(tmp_path / "none.parquet") == pq.read_schema(tmp_path / "some.parquet")
    assert rows_of(tmp_path / "none.parquet") == []


def test_an_index_that_stands_for_no_item_is_an_error_and_not_the_last_item(tmp_path: Path) -> None:
    broken = Ranked(RANKED.users[:1], np.array([[1, -1]], np.int32), np.zeros((1, 2)))
    with pytest.raises(IndexError):
        write_lists(tmp_path / "lists.parquet", IDS, broken, {})
