"""Side columns of users and items, and the groups of items that they make."""

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pyarrow as pa

from features.side_features import SideFeatures, duration_buckets, group_codes, side_features_of
from features.vocabulary import Vocabulary


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
    side = side_features_of(users_table(PEOPLE), "user_id", vocabulary_of_ids(10, 20, 30, 40))
    assert side.codes["country"].tolist() == [0, 1, 0, 2, 0]
    assert side.codes["premium"].tolist() == [0, 1, 0, 2, 0]
    np.testing.assert_equal(side.numbers["age"], [math.nan, math.nan, 25, 40, math.nan])
    assert side.sizes == {"country": 3, "premium": 3}


def test_a_later_user_with_a_new_category_changes_no_older_code() -> None:
    """Encoders fitted on rows of the test period are how the future leaks in."""
    later = [*PEOPLE, {"user_id": 50, "country": "AA", "age": 3.0, "premium": True}]
    then = side_features_of(users_table(PEOPLE), "user_id", vocabulary_of_ids(10, 20, 30))
    now = side_features_of(users_table(later), "user_id", vocabulary_of_ids(10, 20, 30, 50))
    assert now.codes["country"][:4].tolist() == then.codes["country"].tolist()
    assert now.codes["country"][4] == 3


def test_a_column_with_one_category_says_nothing_and_is_left_out_but_a_channel_stays() -> None:
    rows = [
        {"item_id": "a", "channel_id": "c", "language": "en"},
        {"item_id": "b", "channel_id": "c", "language": "en"},
    ]
    side = side_features_of(users_table(rows), "item_id", vocabulary_of_ids("a", "b"))
    assert list(side.codes) == ["channel_id"]


def test_a_title_is_no_side_feature_of_an_item_but_may_be_one_of_a_user() -> None:
    items = [{"item_id": i, "title": i.upper(), "language": i} for i in "abc"]
    side = side_features_of(users_table(items), "item_id", vocabulary_of_ids("a", "b", "c"))
    assert list(side.codes) == ["language"]
    people = [{"user_id": n, "title": title} for n, title in enumerate(("Dr", "Ms", "Dr"))]
    side = side_features_of(users_table(people), "user_id", vocabulary_of_ids(0, 1, 2))
    assert side.codes["title"].tolist() == [0, 1, 2, 1]


def test_topics_stand_as_their_first_one() -> None:
    rows = [
        {"item_id": i, "topics": topics}
        for i, topics in (("a", ["x", "y"]), ("b", []), ("c", ["y"]), ("d", None))
    ]
    side = side_features_of(users_table(rows), "item_id", vocabulary_of_ids("a", "b", "c", "d"))
    assert side.codes["topics"].tolist() == [0, 1, 0, 2, 0]


def test_publication_is_a_number_in_microseconds() -> None:
    rows = [{"item_id": "a", "published_at": datetime(2024, 5, 1, 0, 0, 1, tzinfo=UTC)}]
    side = side_features_of(users_table(rows), "item_id", vocabulary_of_ids("a"))
    assert (
        side.numbers["published_at"][1]
        == datetime(2024, 5, 1, 0, 0, 1, tzinfo=UTC).timestamp() * 1_000_000
    )


def test_an_infinite_number_is_an_unknown_one() -> None:
    rows = [{"item_id": "a", "price": float("inf")}, {"item_id": "b", "price": 1.5}]
    side = side_features_of(users_table(rows), "item_id", vocabulary_of_ids("a", "b"))
    assert np.isnan(side.numbers["price"][1])
    assert side.numbers["price"][2] == 1.5


def test_no_table_has_no_columns() -> None:
    assert side_features_of(None, "user_id", vocabulary_of_ids(1)) == SideFeatures({}, {}, {})


def test_side_columns_come_back_from_their_file(tmp_path: Path) -> None:
    side = side_features_of(users_table(PEOPLE), "user_id", vocabulary_of_ids(10, 20, 30))
    side.save(tmp_path / "users.parquet", 4)
    loaded = SideFeatures.load(tmp_path / "users.parquet")
    assert loaded.sizes == side.sizes
    assert {name: codes.tolist() for name, codes in loaded.codes.items()} == {
        name: codes.tolist() for name, codes in side.codes.items()
    }
    np.testing.assert_equal(loaded.numbers["age"], side.numbers["age"])


def test_no_side_columns_come_back_as_none(tmp_path: Path) -> None:
    SideFeatures({}, {}, {}).save(tmp_path / "users.parquet", 3)
    assert len(ibis.read_parquet(tmp_path / "users.parquet").execute()) == 3
    assert SideFeatures.load(tmp_path / "users.parquet") == SideFeatures({}, {}, {})


def test_durations_fall_in_the_bucket_that_holds_them():
    assert duration_buckets(np.array([np.nan, 0, 4.9, 5, 59, 60, 1e6])).tolist() == [
        1,
        2,
        2,
        3,
        9,
        10,
        18,
    ]


def test_items_are_grouped_by_what_their_columns_tell_and_the_unknown_share_no_channel() -> None:
    codes = {"channel_id": np.array([0, 1, 0], np.int32), "language": np.array([0, 1, 1], np.int32)}
    groups = group_codes(
        SideFeatures(codes, {}, {"duration_seconds": np.array([np.nan, 4.0, 60.0])})
    )
    assert {name: found.tolist() for name, found in groups.items()} == {
        "channel": [-1, 1, -1],
        "duration_bucket": [1, 2, 10],
    }
