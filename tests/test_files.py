"""Files of one table are cast to the contract one by one, and then united: whatever wrote them."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.config import CleaningConfig
from features.data.files import refusing_engine_errors
from features.data.formats import read
from features.data.ingest import in_words, ingest
from features.errors import InputError
from features.tables import engine

NOW = datetime(2024, 6, 1, tzinfo=UTC)
DAYS = [datetime(2024, 5, day, tzinfo=UTC) for day in (1, 2)]


def columns(day: int = 0, **others: Any) -> dict[str, Any]:
    sound = {
        "user_id": pa.array([1, 2]),
        "item_id": pa.array([7, 8]),
        "timestamp": pa.array([DAYS[day]] * 2, pa.timestamp("us", "UTC")),
        "watch_seconds": pa.array([15.0, None]),
    }
    return sound | others


def parts(place: Path, *tables: dict[str, Any]) -> Path:
    (place / "interactions.parquet").mkdir()
    for number, table in enumerate(tables):
        pq.write_table(pa.table(table), place / "interactions.parquet" / f"part{number}.parquet")
    return place


def rows_of(data: Path, source: str = "canonical") -> list[tuple[Any, ...]]:
    log = read(source, data, engine()).interactions.order_by(["timestamp", "item_id"])
    return [tuple(row.values()) for row in log.to_pyarrow().to_pylist()]


@pytest.mark.parametrize(
    "other",
    [
        {"watch_seconds": pa.array([1, 2])},
        {"user_id": pa.array([1, 2], pa.int32())},
        {"user_id": pa.array([1.0, 2.0])},
        {"user_id": pa.array(["1", "2"])},
        {"user_id": pa.array([1, 2], pa.uint64())},
        {"timestamp": pa.array([DAYS[1].replace(tzinfo=None)] * 2)},
        {"timestamp": pa.array([int(DAYS[1].timestamp())] * 2)},
        {"timestamp": pa.array(["2024-05-02", "2024-05-02"])},
    ],
)
def test_parts_of_other_types_are_one_table(tmp_path: Path, other: dict[str, Any]) -> None:
    rows = rows_of(parts(tmp_path, columns(0), columns(1, **other)))
    assert [row[:3] for row in rows] == [
        (1, 7, DAYS[0]),
        (2, 8, DAYS[0]),
        (1, 7, DAYS[1]),
        (2, 8, DAYS[1]),
    ]
    assert {type(row[3]) for row in rows} <= {float, type(None)}


def test_ids_of_which_a_part_cannot_be_integers_are_text_in_all_parts(tmp_path: Path) -> None:
    mixed = {"user_id": pa.array(["a", "007"])}
    users = [row[0] for row in rows_of(parts(tmp_path, columns(0), columns(1, **mixed)))]
    assert users == ["1", "2", "a", "007"]


def test_further_columns_of_several_types_are_what_holds_them_all(tmp_path: Path) -> None:
    log = parts(
        tmp_path,
        columns(0, price=[1, 2], mark=[1, 2], late=pa.nulls(2)),
        columns(1, price=[1.5, None], mark=["a", "b"], late=[True, False]),
    )
    kinds = read("canonical", log, engine()).interactions.schema()
    assert [str(kinds[name]) for name in ("price", "mark", "late")] == [
        "float64",
        "string",
        "boolean",
    ]


def test_hashes_of_64_unsigned_bits_are_kept(tmp_path: Path) -> None:
    large = {"user_id": pa.array([2**64 - 1, 3], pa.uint64())}
    pq.write_table(pa.table(columns(**large)), tmp_path / "interactions.parquet")
    assert [row[0] for row in rows_of(tmp_path)] == [str(2**64 - 1), "3"]


def test_a_column_of_one_part_is_unknown_in_the_others_and_said(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    data = parts(tmp_path, columns(0), columns(1, surface=["home", "search"]))
    said = in_words(ingest("canonical", data, out, CleaningConfig(), NOW))
    surfaces = pq.read_table(out / "interactions.parquet")["surface"].to_pylist()
    assert sorted(map(str, surfaces)) == ["None", "None", "home", "search"]
    assert "not in every file: surface" in said


def test_rows_of_a_part_without_clicks_are_neither_clicks_nor_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    data = parts(tmp_path, columns(0), columns(1, clicked=[True, False]))
    summary = ingest("canonical", data, out, CleaningConfig(), NOW)
    assert pq.read_table(out / "interactions.parquet")["clicked"].to_pylist() == [True, False]
    assert summary["rejected"] == {"interactions": {"clicked is not in its file": 2}}
    assert "2 rows of 4 (clicked is not in its file: 2)" in in_words(summary)


def test_a_column_that_is_null_throughout_is_a_column(tmp_path: Path) -> None:
    nothing = {name: pa.nulls(2) for name in ("watch_seconds", "surface", "note")}
    pq.write_table(pa.table(columns(**nothing)), tmp_path / "interactions.parquet")
    log = read("canonical", tmp_path, engine()).interactions
    kinds = {name: str(kind) for name, kind in log.schema().items()}
    assert (kinds["watch_seconds"], kinds["surface"]) == ("float64", "string")
    assert log["watch_seconds"].count().execute() == 0


def test_whole_ids_beside_nulls_come_as_doubles_and_others_are_no_ids(tmp_path: Path) -> None:
    users = {"user_id": pa.array(np.array([3.0, np.nan])), "item_id": pa.array([2.5, 2.0**60])}
    pq.write_table(pa.table(columns(**users)), tmp_path / "interactions.parquet")
    assert {row[:2] for row in rows_of(tmp_path)} == {(3, None), (None, None)}


def test_text_of_spaces_is_blank(tmp_path: Path) -> None:
    blank = {"user_id": pa.array(["", "u"]), "surface": pa.array(["  ", "home"])}
    pq.write_table(pa.table(columns(**blank)), tmp_path / "interactions.parquet")
    log = read("canonical", tmp_path, engine()).interactions.order_by("item_id")
    assert log.select("user_id", "surface").to_pyarrow().to_pylist() == [
        {"user_id": None, "surface": None},
        {"user_id": "u", "surface": "home"},
    ]


@pytest.mark.parametrize(
    ("text", "topics"),
    [
        ("['Action', 'Drama']", ["Action", "Drama"]),
        ('["Action","Sci-Fi, or so"]', ["Action", "Sci-Fi, or so"]),
        ("""["Children's", 'War']""", ["Children's", "War"]),
        ("['a' 'b']", ["a", "b"]),
        ("[27, 9]", ["27", "9"]),
        ("[]", []),
        ("Action| Drama", ["Action", "Drama"]),
    ],
)
def test_lists_that_were_written_as_text_are_lists(
    tmp_path: Path, text: str, topics: list[str]
) -> None:
    pq.write_table(pa.table(columns()), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"item_id": [7], "topics": [text]}), tmp_path / "items.parquet")
    items = read("canonical", tmp_path, engine()).items
    assert items is not None
    assert items.to_pyarrow()["topics"].to_pylist() == [topics]


@pytest.mark.parametrize(("start", "end"), [(",", ""), ("", ",")])
def test_a_column_without_a_name_is_no_column(tmp_path: Path, start: str, end: str) -> None:
    lines = ["user_id,item_id,timestamp", "1,7,2024-05-01", "2,8,2024-05-02"]
    values = [lines[0], *(f"{n if start else ''}{line}" for n, line in enumerate(lines[1:]))]
    text = "\n".join(f"{start}{line}{end}" for line in (values if not start else lines))
    (tmp_path / "interactions.csv").write_text(text + "\n")
    (tmp_path / "items.csv").write_text(",item_id,price\n0,7,1.5\n")
    tables = read("canonical", tmp_path, engine())
    assert [row[:3] for row in rows_of(tmp_path)] == [(1, 7, DAYS[0]), (2, 8, DAYS[1])]
    assert tables.items is not None
    assert tables.items.columns == ("item_id", "price")


def test_columns_that_nothing_is_made_of_are_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    data = parts(tmp_path, columns(0), columns(1, _hidden=[1, 2], click=[1, 0]))
    said = in_words(ingest("canonical", data, out, CleaningConfig(), NOW))
    assert said.endswith("not used: _hidden, click")


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("user_id,item_id,timestamp,Price,price", "column price differs from Price in case only"),
        ("user_id,item_id,timestamp,price,price", "column price is named twice"),
        ("user_id,item_id,timestamp,Clicked,a", "column Clicked differs from clicked in nothing"),
    ],
)
def test_names_that_the_engine_cannot_tell_apart_are_refused(
    tmp_path: Path, header: str, sentence: str
) -> None:
    (tmp_path / "interactions.csv").write_text(f"{header}\n1,7,2024-05-01,1,2\n")
    with pytest.raises(InputError, match=sentence):
        read("canonical", tmp_path, engine())


def test_two_spellings_in_two_parts_are_refused_by_the_later_part(tmp_path: Path) -> None:
    data = parts(tmp_path, columns(0, Price=[1, 2]), columns(1, price=[1, 2]))
    with pytest.raises(InputError, match=r"part1\.parquet: column price differs from Price"):
        read("canonical", data, engine())


def test_a_parquet_file_with_two_spellings_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table(columns(a=[1, 2], A=[1, 2])), tmp_path / "interactions.parquet")
    with pytest.raises(InputError, match=r"interactions\.parquet: column A differs from a"):
        read("canonical", tmp_path, engine())


def test_what_an_engine_says_of_a_file_is_one_sentence(tmp_path: Path) -> None:
    sentence = r"data: cannot be read \(.*nowhere.*\); repair"
    with (
        pytest.raises(InputError, match=sentence),
        refusing_engine_errors([tmp_path / "data"]),
    ):
        engine().raw_sql("SELECT * FROM nowhere")


def test_bytes_that_a_published_layout_does_not_have_are_refused_by_its_encoding(
    tmp_path: Path,
) -> None:
    (tmp_path / "ratings.dat").write_text("1::661::5::978300760\n")
    (tmp_path / "movies.dat").write_bytes("661::Amélie € (1995)::Drama\n".encode())
    with pytest.raises(InputError, match=r"movies\.dat.*the bytes are not Latin-1"):
        read("movielens", tmp_path, engine()).items.to_pyarrow()  # type: ignore[union-attr]
