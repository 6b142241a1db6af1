"""Lists as files: raw ids, ranks from 1, nobody never among them, and who named what."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.vocabulary import Vocabulary
from funnel.lists import ArrayFile, Ranked, RawIds, ranks_of, write_lists

IDS = RawIds(
    Vocabulary(pa.array(["ann", "bob", "cem"]), np.zeros(3, np.int64)),
    Vocabulary(pa.array([70, 80, 90]), np.zeros(3, np.int64)),
)
RANKED = Ranked(
    users=np.array([3, 1, 2], np.int32),
    items=np.array([[2, 1, 0], [3, 0, 0], [0, 0, 0]], np.int32),
    scores=np.array([[9.0, 4.0, -np.inf], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
    ranks={
        "t": np.array([[1, 0, 0], [7, 0, 0], [0, 0, 0]], np.uint16),
        "p": np.array([[2, 1, 0], [0, 0, 0], [0, 0, 0]], np.uint16),
    },
)
EXPECTED = [("cem", 80, 1, 9.0, "t,p"), ("cem", 70, 2, 4.0, "p"), ("ann", 90, 1, 2.0, "t")]
NONE = Ranked(
    np.zeros(0, np.int32),
    np.zeros((0, 3), np.int32),
    np.zeros((0, 3)),
    {"t": np.zeros((0, 3), np.uint16)},
)


def one_of(lists: Ranked, row: int) -> Ranked:
    rows = slice(row, row + 1)
    ranks = {name: values[rows] for name, values in lists.ranks.items()}
    return Ranked(lists.users[rows], lists.items[rows], lists.scores[rows], ranks)


def rows_of(path: Path) -> list[tuple[object, ...]]:
    return [tuple(row.values()) for row in pq.read_table(path).to_pylist()]


def test_lists_are_written_in_raw_ids_one_row_an_item_with_the_generators_that_named_it(
    tmp_path: Path,
) -> None:
    write_lists(tmp_path / "lists.parquet", IDS, [RANKED], {"unit": "watches"})
    assert rows_of(tmp_path / "lists.parquet") == [(*row, "watches") for row in EXPECTED]
    names = pq.read_table(tmp_path / "lists.parquet").column_names
    assert names == ["user_id", "item_id", "rank", "score", "generators", "unit"]


def test_each_generators_rank_is_a_column_and_null_where_it_did_not_name_the_item(
    tmp_path: Path,
) -> None:
    write_lists(tmp_path / "lists.parquet", IDS, [RANKED], {}, ranks=True)
    table = pq.read_table(tmp_path / "lists.parquet")
    assert table.column_names[5:] == ["t_rank", "p_rank"]
    assert table["t_rank"].to_pylist() == [1, None, 7]
    assert table["p_rank"].to_pylist() == [2, 1, None]


def test_further_numbers_are_columns_after_the_score(tmp_path: Path) -> None:
    chances = np.array([[0.5, 0.25, 0.0], [0.125, 0.0, 0.0], [0.0, 0.0, 0.0]])
    write_lists(tmp_path / "lists.parquet", IDS, [replace(RANKED, numbers={"chance": chances})], {})
    table = pq.read_table(tmp_path / "lists.parquet")
    assert table.column_names == ["user_id", "item_id", "rank", "score", "chance", "generators"]
    assert table["chance"].to_pylist() == [0.5, 0.25, 0.125]


def test_shards_of_users_are_one_file(tmp_path: Path) -> None:
    write_lists(tmp_path / "lists.parquet", IDS, (one_of(RANKED, at) for at in range(3)), {})
    assert rows_of(tmp_path / "lists.parquet") == EXPECTED


def test_no_user_is_a_file_with_the_same_columns(tmp_path: Path) -> None:
    write_lists(tmp_path / "none.parquet", IDS, [NONE], {"unit": "watches"})
    write_lists(tmp_path / "some.parquet", IDS, [RANKED], {"unit": "watches"})
    assert pq.read_schema(tmp_path / "none.parquet") == pq.read_schema(tmp_path / "some.parquet")
    assert rows_of(tmp_path / "none.parquet") == []


def test_an_index_that_stands_for_no_item_is_an_error_and_not_the_last_item(tmp_path: Path) -> None:
    broken = Ranked(RANKED.users[:1], np.array([[1, -1]], np.int32), np.zeros((1, 2)), {})
    with pytest.raises(IndexError):
        write_lists(tmp_path / "lists.parquet", IDS, [broken], {})


LISTS = st.permutations([1, 2, 3, 4, 5, 0]).map(lambda items: items[:4])


@given(lists=st.lists(st.tuples(LISTS, LISTS), max_size=4))
def test_chosen_items_keep_the_ranks_they_had_among_the_candidates(
    lists: list[tuple[list[int], list[int]]],
) -> None:
    items = np.array([of for of, _ in lists], np.int32).reshape(-1, 4)
    chosen = np.array([of for _, of in lists], np.int32).reshape(-1, 4)
    ranks = (np.arange(items.size, dtype=np.uint16) + 1).reshape(items.shape)
    found = ranks_of(chosen, items, {"t": ranks})["t"]
    for row, (candidates, wanted) in enumerate(lists):
        places = [
            candidates.index(item) if item and item in candidates else None for item in wanted
        ]
        assert found[row].tolist() == [
            0 if place is None else int(ranks[row, place]) for place in places
        ]


def test_an_array_written_row_by_row_is_the_array(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(4, 3)
    file = ArrayFile(tmp_path / "values.npy", 4, 3, "<f4")
    file.append(values[:3])
    file.append(values[3:].astype(np.float64))
    file.close()
    np.testing.assert_array_equal(np.load(tmp_path / "values.npy"), values)
    np.testing.assert_array_equal(np.load(tmp_path / "values.npy", mmap_mode="r")[2], values[2])
