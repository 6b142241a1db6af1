"""Ids and indexes: there and back, learnt before an instant, and nobody's 0."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.vocabulary import NEVER_SHOWN, Vocabulary, catalogue_of, impressions_of, vocabulary_of

Row = tuple[int, str, int]
ROWS = st.lists(
    st.tuples(st.integers(1, 5), st.sampled_from("abcdef"), st.integers(0, 20)),
    min_size=1,
    max_size=30,
)


def log_of(rows: list[Row]) -> ibis.Table:
    users, items, timestamps_us = map(list, zip(*rows, strict=True))
    start = datetime(2024, 5, 1, tzinfo=UTC)
    columns = {
        "user_id": users,
        "item_id": items,
        "timestamp": pa.array(
            [start + timedelta(seconds=i) for i in timestamps_us], pa.timestamp("us", "UTC")
        ),
        "clicked": [timestamp_us % 2 == 0 for timestamp_us in timestamps_us],
        "completed": [timestamp_us % 4 == 0 for timestamp_us in timestamps_us],
        "device": ["phone"] * len(rows),
        "timestamp_us": pa.array(timestamps_us, pa.int64()),
        "row": list(range(len(rows))),
    }
    return ibis.memtable(pa.table(columns))


def words(*ids: str) -> Vocabulary:
    return Vocabulary(pa.array(ids), np.arange(len(ids), dtype=np.int64))


@given(ROWS)
@settings(max_examples=20)
def test_ids_are_numbered_by_first_appearance_then_by_id(rows: list[Row]) -> None:
    vocabulary = vocabulary_of(log_of(rows), "item_id")
    first = {item: min(i for _, other, i in rows if other == item) for _, item, _ in rows}
    expected = sorted(first, key=lambda item: (first[item], item))
    assert vocabulary.ids.to_pylist() == expected
    assert vocabulary.first_seen.tolist() == [first[item] for item in expected]


@given(ROWS, ROWS, st.integers(0, 20))
@settings(max_examples=20)
def test_later_rows_only_add_indexes_behind_those_known_before(
    earlier: list[Row], later: list[Row], cut: int
) -> None:
    """Nothing is learnt from after an instant: the vocabulary of then is the first part of every
    later one.
    """
    kept = [row for row in earlier if row[2] < cut] or [(1, "a", cut - 1)]
    grown = kept + [row for row in later if row[2] >= cut]
    for side in ("user_id", "item_id"):
        then, now = vocabulary_of(log_of(kept), side), vocabulary_of(log_of(grown), side)
        assert now.size_as_of(cut) == len(then)
        assert now.ids.to_pylist()[: len(then.ids)] == then.ids.to_pylist()


def test_what_was_first_seen_at_the_very_instant_was_not_known_before_it() -> None:
    assert [words("a", "b", "c").size_as_of(timestamp_us) for timestamp_us in (0, 1, 2, 3)] == [
        1,
        2,
        3,
        4,
    ]


def test_an_id_becomes_an_index_and_the_same_id_again() -> None:
    vocabulary = words("x", "y", "z")
    indexes = vocabulary.index_of(pa.array(["z", "x", "y"]))
    assert indexes.tolist() == [3, 1, 2]
    assert indexes.dtype == np.int32
    assert vocabulary.id_of(indexes).to_pylist() == ["z", "x", "y"]


def test_the_unseen_and_the_missing_are_nobody() -> None:
    assert words("x").index_of(pa.array(["q", None, "x"])).tolist() == [0, 0, 1]
    numbers = Vocabulary(pa.array([7, 9]), np.zeros(2, np.int64))
    assert numbers.index_of(pa.array([9, 8], pa.int32())).tolist() == [2, 0]


@pytest.mark.parametrize("index", [0, -1, 4])
def test_nobody_has_no_id_and_neither_has_what_does_not_exist(index: int) -> None:
    """Id 0 never comes back, and a faiss -1 never becomes the last item."""
    with pytest.raises(IndexError, match=r"1\.\.3"):
        words("x", "y", "z").id_of(np.array([1, index]))


def test_no_indexes_have_no_ids() -> None:
    assert words("x").id_of(np.zeros(0, np.int32)).to_pylist() == []


@pytest.mark.parametrize("ids", [["b", "a"], [12, 3]])
def test_a_vocabulary_comes_back_as_it_was_saved(tmp_path: Path, ids: list[str | int]) -> None:
    vocabulary = Vocabulary(pa.array(ids), np.array([5, 6]))
    vocabulary.save(tmp_path / "items.parquet")
    loaded = Vocabulary.load(tmp_path / "items.parquet")
    assert loaded.ids.equals(vocabulary.ids)
    assert loaded.first_seen.tolist() == [5, 6]
    assert len(loaded) == 3


def test_impressions_are_in_indexes_by_user_and_time_and_keep_their_context(tmp_path: Path) -> None:
    log = log_of([(7, "b", 4), (3, "a", 9), (7, "a", 3), (3, "b", 9)])
    sides = {}
    for side in ("user_id", "item_id"):
        vocabulary_of(log, side).save(tmp_path / f"{side}.parquet")
        sides[side] = ibis.read_parquet(tmp_path / f"{side}.parquet")
    table = impressions_of(log, sides["user_id"], sides["item_id"]).to_pyarrow()
    columns = ["user", "item", "timestamp_us", "clicked", "completed", "timestamp", "device"]
    assert table.column_names == columns
    # Items: a was seen at 3, b at 4; users: 7 at 3, 3 at 9. Equal instants stay in file order.
    assert list(zip(*(table[name].to_pylist() for name in columns[:5]), strict=True)) == [
        (1, 1, 3, False, False),
        (1, 2, 4, True, True),
        (2, 1, 9, False, False),
        (2, 2, 9, False, False),
    ]


def published(**timestamps_us: int) -> ibis.Table:
    columns = {
        "item_id": pa.array(list(timestamps_us), pa.string()),
        "timestamp_us": pa.array(timestamps_us.values(), pa.int64()),
    }
    return ibis.memtable(pa.table(columns))


def test_an_item_is_known_from_its_publication_during_the_log_and_others_from_their_first_appearance() -> (
    None
):
    """Log from 3 to 20. a, b: published before; c, d: during; e: after its showing; f: of unknown
    publication.
    """
    log = log_of([(1, "a", 5), (1, "c", 9), (2, "e", 6), (2, "f", 4), (2, "c", 12)])
    catalogue = catalogue_of(log, published(a=1, b=2, c=7, d=8, e=11, late=20), 3, 20)
    shown = [NEVER_SHOWN if i is None else i for i in (4, 5, 6, 9, None)]
    assert catalogue.ids.to_pylist() == ["f", "a", "e", "c", "d"]
    assert catalogue.first_seen.tolist() == [4, 5, 6, 7, 8]
    assert catalogue.first_shown is not None
    assert catalogue.first_shown.tolist() == shown
    assert [catalogue.size_as_of(timestamp_us) for timestamp_us in (4, 8, 9)] == [1, 5, 6]
    assert catalogue.shown_as_of(9).tolist() == [False, True, True, True, False, False]
    assert catalogue.shown_as_of(10).tolist() == [False, True, True, True, True, False]


PUBLICATIONS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 20))


@given(ROWS, ROWS, PUBLICATIONS, st.integers(1, 20), st.integers(0, 20))
@settings(max_examples=20)
def test_what_is_shown_or_published_later_changes_no_catalogue_of_before(
    earlier: list[Row], later: list[Row], timestamps_us: dict[str, int], cut: int, since: int
) -> None:
    kept = [row for row in earlier if row[2] < cut] or [(1, "a", cut - 1)]
    grown = kept + [row for row in later if row[2] >= cut]
    then = catalogue_of(
        log_of(kept), published(**{k: v for k, v in timestamps_us.items() if v < cut}), since, cut
    )
    now = catalogue_of(log_of(grown), published(**timestamps_us), since, 21)
    assert now.size_as_of(cut) == len(then)
    assert now.ids.to_pylist()[: len(then.ids)] == then.ids.to_pylist()
    assert now.first_seen.tolist()[: len(then.ids)] == then.first_seen.tolist()
    assert now.shown_as_of(cut)[: len(then)].tolist() == then.shown_as_of(cut).tolist()


@given(ROWS)
@settings(max_examples=10)
def test_without_publications_the_catalogue_is_the_vocabulary(rows: list[Row]) -> None:
    plain, catalogue = (
        vocabulary_of(log_of(rows), "item_id"),
        catalogue_of(log_of(rows), published(), 0, 21),
    )
    assert catalogue.ids.to_pylist() == plain.ids.to_pylist()
    assert catalogue.first_seen.tolist() == plain.first_seen.tolist()
    for timestamp_us in range(22):
        np.testing.assert_array_equal(
            catalogue.shown_as_of(timestamp_us), plain.shown_as_of(timestamp_us)
        )


def test_a_catalogue_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    catalogue = catalogue_of(log_of([(1, "a", 5)]), published(b=7), 0, 20)
    catalogue.save(tmp_path / "items.parquet")
    loaded = Vocabulary.load(tmp_path / "items.parquet")
    assert loaded.ids.equals(catalogue.ids)
    assert loaded.shown_as_of(9).tolist() == [False, True, False]
