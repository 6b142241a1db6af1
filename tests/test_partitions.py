"""A table in partition folders, `day=2024-05-01/`, as Hive, Spark and pandas write it: one table of
one schema, whatever each part holds.
"""

import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.config import CleaningConfig
from features.data.formats import read, source_files
from features.data.ingest import in_words, ingest
from features.errors import InputError
from features.tables import engine

NOW = datetime(2024, 6, 1, tzinfo=UTC)
DAYS = [datetime(2024, 5, day, tzinfo=UTC) for day in (1, 2)]
HEADER = "user_id,item_id,timestamp,watch_seconds\n"


def columns(day: int = 0, **others: Any) -> dict[str, Any]:
    sound = {
        "user_id": pa.array([1, 2]),
        "item_id": pa.array([7, 8]),
        "timestamp": pa.array([DAYS[day]] * 2, pa.timestamp("us", "UTC")),
        "watch_seconds": pa.array([15.0, None]),
    }
    return sound | others


def put(place: Path, where: str, rows: dict[str, Any] | str) -> Path:
    """A part of a table: columns as Parquet, text as it is; returns the folder of the data."""
    path = place / where
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(rows, str):
        path.write_text(rows)
    else:
        pq.write_table(pa.table(rows), path)
    return place


def log(data: Path) -> list[dict[str, Any]]:
    table = read("canonical", data, engine()).interactions.order_by(["timestamp", "item_id"])
    found: list[dict[str, Any]] = table.to_pyarrow().to_pylist()
    return found


def keys(data: Path) -> list[tuple[Any, ...]]:
    return [(row["user_id"], row["item_id"], row["timestamp"]) for row in log(data)]


BOTH = [(1, 7, DAYS[0]), (2, 8, DAYS[0]), (1, 7, DAYS[1]), (2, 8, DAYS[1])]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    return place


@pytest.mark.parametrize(
    "folders",
    [
        ("interactions/day=2024-05-01", "interactions/day=2024-05-02"),
        ("interactions.parquet/day=2024-05-01", "interactions.parquet/day=2024-05-02"),
        ("interactions/year=2024/month=4", "interactions/year=2024/month=5"),
        ("interactions/day=2024-05-01/hour=1", "interactions/day=2024-05-01/hour=2"),
        ("interactions", "interactions/day=2024-05-02"),
    ],
)
def test_partitions_are_one_table(tmp_path: Path, folders: tuple[str, str]) -> None:
    for day, folder in enumerate(folders):
        put(tmp_path, f"{folder}/part.parquet", columns(day))
    assert keys(tmp_path) == BOTH
    assert set(log(tmp_path)[0]) == {*columns(), "clicked"}


def test_partitions_may_be_csv_and_packed(tmp_path: Path) -> None:
    put(
        tmp_path,
        "interactions/day=2024-05-01/a.csv",
        HEADER + "1,7,2024-05-01,15\n2,8,2024-05-01,\n",
    )
    put(
        tmp_path,
        "interactions/day=2024-05-02/a.csv",
        "item_id,user_id,timestamp\n7,1,2024-05-02\n8,2,2024-05-02\n",
    )
    assert keys(tmp_path) == BOTH
    for path in sorted(tmp_path.rglob("*.csv")):
        path.with_suffix(".csv.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert keys(tmp_path) == BOTH


def test_parts_of_other_widths_orders_and_older_columns_are_cast_to_the_contract(
    tmp_path: Path,
) -> None:
    narrow = {
        "timestamp": pa.array([DAYS[0].replace(tzinfo=None)] * 2, pa.timestamp("ns")),
        "watch_seconds": pa.array([15, 3], pa.int16()),
        "item_id": pa.array([7, 8], pa.int32()),
        "user_id": pa.array(["1", "2"]),
    }
    put(tmp_path, "interactions/day=2024-05-01/part.parquet", narrow)
    put(tmp_path, "interactions/day=2024-05-02/part.parquet", columns(1, surface=["home", "tv"]))
    assert keys(tmp_path) == BOTH
    assert [row["surface"] for row in log(tmp_path)] == [None, None, "home", "tv"]
    assert [row["watch_seconds"] for row in log(tmp_path)] == [15.0, 3.0, 15.0, None]


def test_a_partition_column_that_the_contract_knows_is_a_column_and_others_are_told(
    tmp_path: Path, out: Path
) -> None:
    put(tmp_path, "interactions/device=phone/day=2024-05-01/part.parquet", columns(0))
    put(tmp_path, "interactions/device=a%2Fb/day=2024-05-01/part.parquet", columns(1))
    unknown = "interactions/device=__HIVE_DEFAULT_PARTITION__/day=2024-05-02/part.parquet"
    put(tmp_path, unknown, columns(1, user_id=[3, 4]))
    devices = {row["device"]: (row["user_id"], row["timestamp"]) for row in log(tmp_path)}
    assert devices == {"phone": (2, DAYS[0]), "a/b": (2, DAYS[1]), None: (4, DAYS[1])}
    assert in_words(ingest("canonical", tmp_path, out, CleaningConfig(), NOW)).endswith(
        "not used: day"
    )


def test_ids_and_flags_may_be_partition_columns(tmp_path: Path) -> None:
    without = {name: values for name, values in columns().items() if name != "user_id"}
    for user, clicked in ((7, 1), (12, 0)):
        put(tmp_path, f"interactions/user_id={user}/clicked={clicked}/part.parquet", without)
    put(tmp_path, "users.csv", "user_id,country\n7,CH\n12,DE\n")
    assert sorted({(row["user_id"], row["clicked"]) for row in log(tmp_path)}) == [
        (7, True),
        (12, False),
    ]


def test_the_folder_of_the_data_is_no_partition(tmp_path: Path, out: Path) -> None:
    data = tmp_path / "device=tv"
    put(data, "interactions.parquet", columns())
    put(data, "items.csv", "item_id\n7\n8\n")
    assert "device" not in log(data)[0]
    assert ingest("canonical", data, out, CleaningConfig(), NOW)["unused"] == []


def test_a_column_of_the_file_counts_before_that_of_its_folder(tmp_path: Path) -> None:
    put(tmp_path, "interactions/device=phone/part.parquet", columns(device=["tv", "tv"]))
    assert [row["device"] for row in log(tmp_path)] == ["tv", "tv"]


@pytest.mark.parametrize(
    "left",
    [
        "_SUCCESS",
        "_temporary/0/part.parquet",
        "day=1/.part.parquet",
        "day=1/_part.parquet",
        "old/part.parquet",
    ],
)
def test_what_writers_leave_beside_their_parts_is_not_read(tmp_path: Path, left: str) -> None:
    put(tmp_path, "interactions/day=2024-05-01/part.parquet", columns())
    put(tmp_path, f"interactions/{left}", columns(1))
    assert len(source_files("canonical", tmp_path)) == 1


def test_a_folder_that_is_no_partition_is_told_as_not_read(tmp_path: Path, out: Path) -> None:
    put(tmp_path, "interactions/day=2024-05-01/part.parquet", columns())
    put(tmp_path, "interactions/old/part.parquet", columns(1))
    put(tmp_path, "interactions/_temporary/0/part.parquet", columns(1))
    summary = ingest("canonical", tmp_path, out, CleaningConfig(), NOW)
    assert summary["unread"] == ["interactions/old/part.parquet"]


def test_a_fault_is_named_by_its_partition(tmp_path: Path, out: Path) -> None:
    put(tmp_path, "interactions/day=1/part.parquet", columns())
    put(tmp_path, "interactions/day=2/part.parquet", columns(1, watch_seconds=[-1.0, 2.0]))
    sentence = r"day=2/part\.parquet, column watch_seconds: row 1 holds '-1.0'"
    with pytest.raises(InputError, match=sentence):
        ingest("canonical", tmp_path, out, CleaningConfig(), NOW)
    ingest("canonical", tmp_path, out, CleaningConfig(max_rejected_share=0.5), NOW)
    assert pq.read_table(out / "rejected.parquet")["file"].to_pylist() == ["day=2/part.parquet"]
    put(tmp_path, "interactions/day=3/part.parquet", {"user_id": [1]})
    with pytest.raises(InputError, match=r"^day=3/part\.parquet: column item_id is missing"):
        log(tmp_path)


def test_one_table_in_two_places_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "interactions/day=1/part.parquet", columns())
    put(tmp_path, "interactions/day=2/part.csv", HEADER)
    with pytest.raises(
        InputError, match=r"day=1/part\.parquet and interactions/day=2/part\.csv both hold"
    ):
        log(tmp_path)


@pytest.mark.parametrize("days", [3, 12])
def test_rows_of_text_are_numbered_in_their_own_file_however_many_there_are(
    tmp_path: Path, out: Path, days: int
) -> None:
    for day in range(1, days + 1):
        rows = "".join(f"{user},7,2024-05-{day:02},{day}0\n" for user in range(day))
        put(tmp_path, f"interactions/day={day:02}/part.csv", HEADER + rows)
    put(
        tmp_path,
        f"interactions/day={days:02}/part.csv",
        f"{HEADER}1,7,2024-05-01,1\n,7,2024-05-01,2\n",
    )
    summary = ingest("canonical", tmp_path, out, CleaningConfig(max_rejected_share=0.5), NOW)
    assert summary["rows_read"] == sum(range(days)) + 2
    rejected = pq.read_table(out / "rejected.parquet").to_pylist()
    assert [(row["file"], row["row"], row["reason"]) for row in rejected] == [
        (f"day={days:02}/part.csv", 2, "user_id is null")
    ]


def test_many_text_parts_of_two_headers_are_one_table(tmp_path: Path) -> None:
    for day in range(1, 11):
        put(
            tmp_path,
            f"interactions/day={day:02}/part.csv",
            f"{HEADER}1,{day},2024-05-{day:02},{day}\n",
        )
    late = "surface,item_id,user_id,timestamp\nhome,11,2,2024-05-11\n"
    put(tmp_path, "interactions/day=11/part.csv", late)
    assert [(row["item_id"], row["surface"]) for row in log(tmp_path)] == [
        *((day, None) for day in range(1, 11)),
        (11, "home"),
    ]
