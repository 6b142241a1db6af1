"""Bad input never half-works: each fault is refused, or set aside with its reason."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.data.files import FILE, ROW
from features.data.formats import sheets, with_id_types
from features.data.validate import Checked, Limits, check, duplicates, evaluation
from features.errors import InputError
from features.schema import ITEM
from features.tables import engine

NOW = datetime(2024, 6, 1, tzinfo=UTC)
HEADER = "user_id,item_id,timestamp,clicked,watch_seconds\n"
SOUND = "1,7,2024-05-01T10:00:00Z,1,3.5\n"


def door(
    data: Path, source: str = "canonical", table: str = "interactions"
) -> Callable[[float], Checked]:
    """Everything before the share is looked at."""
    backend = engine()
    sheet = sheets(source, data, backend)[table]
    staged = data / "staged.arrow"
    backend.to_parquet(evaluation(sheet, Limits(1.0, NOW)), staged)
    rows = with_id_types({table: backend.read_parquet(staged)}, {table: sheet.open_ids})[table]
    return lambda share: check(table, sheet, rows, Limits(share, NOW))


def checked(
    data: Path, share: float = 1.0, source: str = "canonical", table: str = "interactions"
) -> Checked:
    return door(data, source, table)(share)


def refusal(data: Path, source: str = "canonical") -> str:
    with pytest.raises(InputError) as caught:
        checked(data, share=0.01, source=source)
    return str(caught.value)


def log(place: Path, text: str) -> Path:
    (place / "interactions.csv").write_text(text, encoding="utf-8")
    return place


def rejected(part: Checked) -> list[tuple[Any, ...]]:
    columns = ["row", "reason", "value"]
    return [
        tuple(row.values())
        for row in part.rejected.select(columns).order_by("row").to_pyarrow().to_pylist()
    ]


@pytest.mark.parametrize(
    ("line", "reason", "value", "column", "expected"),
    [
        ("1,,2024-05-01,1,3", "item_id is null", None, "item_id", "an id in every row"),
        (
            "1,7,,1,3",
            "timestamp is null",
            None,
            "timestamp",
            "ISO text or whole seconds since 1970",
        ),
        ("1,7,yesterday,1,3", "timestamp cannot be read", "yesterday", "timestamp", "ISO text"),
        (
            "1,7,2024-06-01T00:00:01Z,1,3",
            "timestamp lies in the future",
            "2024-06-01T00:00:01Z",
            "timestamp",
            "1990",
        ),
        (
            "1,7,1989-12-31T23:59:59Z,1,3",
            "timestamp lies before 1990",
            "1989-12-31T23:59:59Z",
            "timestamp",
            "1990",
        ),
        (
            "1,7,1714550400000,1,3",
            "timestamp looks like milliseconds",
            "1714550400000",
            "timestamp",
            "whole seconds",
        ),
        (
            "1,7,9999999999999999,1,3",
            "timestamp cannot be read",
            "9999999999999999",
            "timestamp",
            "1990",
        ),
        ("1,7,2024-05-01,,3", "clicked is null", None, "clicked", "0 or 1, true or false"),
        (
            "1,7,2024-05-01,maybe,3",
            "clicked cannot be read",
            "maybe",
            "clicked",
            "0 or 1, true or false",
        ),
        (
            "1,7,2024-05-01,1,-3.0",
            "watch_seconds is negative",
            "-3.0",
            "watch_seconds",
            "seconds worth 0 to 86400",
        ),
        (
            "1,7,2024-05-01,1,86400.5",
            "watch_seconds is above 86400",
            "86400.5",
            "watch_seconds",
            "86400",
        ),
        (
            "1,7,2024-05-01,1,long",
            "watch_seconds cannot be read",
            "long",
            "watch_seconds",
            "or blank",
        ),
    ],
)
def test_a_row_fault_is_set_aside_or_refused_with_its_place(
    tmp_path: Path, line: str, reason: str, value: str | None, column: str, expected: str
) -> None:
    checked_at = door(log(tmp_path, HEADER + SOUND + line + "\n"))
    part = checked_at(1.0)
    assert rejected(part) == [(2, reason, value)]
    assert part.counts == {reason: 1}
    assert part.kept.count().execute() == 1
    with pytest.raises(InputError) as caught:
        checked_at(0.01)
    sentence = str(caught.value)
    found = f"{value!r}" if value else "a blank"
    assert sentence.startswith(
        f"interactions.csv, column {column}: row 2 holds {found} ({reason}), expected "
    )
    assert expected in sentence
    assert "1 of 2 rows are at fault, tolerated are 1.00%" in sentence


def test_boundary_values_are_sound(tmp_path: Path) -> None:
    lines = [
        "1,7,2024-06-01T00:00:00Z,1,86400",
        "1,8,1990-01-01T00:00:00Z,0,0",
        "1,9,2024-05-01,1,",
    ]
    part = checked(log(tmp_path, HEADER + "\n".join(lines) + "\n"), share=0.0)
    assert (part.rows, part.counts) == (3, {})


def test_an_instant_that_is_no_number_is_set_aside(tmp_path: Path) -> None:
    columns = {
        "user_id": [1, 1],
        "item_id": [7, 8],
        "timestamp": [1.7e9, float("nan")],
        "clicked": [1.0, 1.0],
    }
    pq.write_table(pa.table(columns), tmp_path / "interactions.parquet")
    part = checked(tmp_path)
    assert part.counts == {"timestamp is null": 1}
    assert part.kept.count().execute() == 1


def test_no_item_lasts_for_ever_and_one_without_length_has_an_unknown_one(tmp_path: Path) -> None:
    log(tmp_path, HEADER + SOUND)
    (tmp_path / "items.csv").write_text("item_id,duration_seconds\n7,0\n8,inf\n9,60\n10,\n")
    part = checked(tmp_path, table="items")
    assert rejected(part) == [(2, "duration_seconds is infinite", "inf")]
    kept = (
        part.kept.order_by("item_id").select("item_id", "duration_seconds").to_pyarrow().to_pylist()
    )
    assert [tuple(row.values()) for row in kept] == [(7, None), (9, 60.0), (10, None)]


def test_milliseconds_are_told_to_be_divided(tmp_path: Path) -> None:
    log(tmp_path, HEADER + "1,7,1714550400000,1,3\n2,7,1714550401000,1,3\n")
    assert refusal(tmp_path).endswith("divide the column by 1000")


def test_seconds_in_a_column_of_milliseconds_lie_before_1990(tmp_path: Path) -> None:
    names = "user_id,video_id,time_ms,is_click,play_time_ms\n"
    (tmp_path / "log_standard_slice.csv").write_text(names + "1,7,1649346288,1,100\n")
    sentence = refusal(tmp_path, "kuairand")
    assert sentence.startswith(
        "log_standard_slice.csv, column time_ms: row 1 holds '1649346288' (timestamp lies "
    )
    assert "expected milliseconds since 1970" in sentence


def test_an_id_that_is_no_whole_number_is_a_fault_where_the_published_ids_are(
    tmp_path: Path,
) -> None:
    names = "user_id,video_id,time_ms,is_click,play_time_ms\n"
    good, bad = "1,7,1649346288441,1,100\n", "1.5,x,1649346288441,1,-100\n"
    (tmp_path / "log_standard_slice.csv").write_text(names + good + bad)
    part = checked(tmp_path, source="kuairand")
    columns = ["row", "reason", "user_id", "item_id", "timestamp"]
    assert part.rejected.select(columns).to_pyarrow().to_pylist() == [
        dict(zip(columns, [2, "user_id cannot be read", "1.5", "x", "1649346288441"], strict=True))
    ]


def test_a_second_row_of_the_same_user_item_and_instant_is_set_aside(tmp_path: Path) -> None:
    lines = [
        "1,7,2024-05-01T10:00:00Z,1,3",
        "1,7,2024-05-01T10:00:01Z,1,4",
        "1,7,2024-05-01T12:00:00+02:00,1,5",
        "2,7,2024-05-01T10:00:00Z,1,6",
    ]
    log(tmp_path, HEADER + "\n".join(lines) + "\n")
    part = checked(tmp_path)
    assert rejected(part) == [(3, "duplicate", None)]
    assert sorted(part.kept.execute()["watch_seconds"]) == [3, 4, 6]
    sentence = refusal(tmp_path)
    assert sentence.startswith(
        "interactions.csv, column user_id, item_id, timestamp: row 3 holds 1, 7, 2024-05-01"
    )
    assert "a second time, expected one row for each user, item and instant" in sentence


def test_repeated_ids_of_a_side_table_are_counted_and_never_refused(tmp_path: Path) -> None:
    log(tmp_path, HEADER + SOUND)
    (tmp_path / "items.csv").write_text("item_id,language\n7,fr\n7,de\n8,fr\n7,it\n")
    part = checked(tmp_path, share=0.0, table="items")
    assert part.counts == {"duplicate": 2}
    kept = part.kept.select("item_id", "language").order_by("item_id").to_pyarrow().to_pylist()
    assert kept == [{"item_id": 7, "language": "fr"}, {"item_id": 8, "language": "fr"}]


def test_searches_at_different_instants_are_no_duplicates(tmp_path: Path) -> None:
    log(tmp_path, HEADER + SOUND)
    (tmp_path / "searches.csv").write_text(
        "user_id,timestamp,query\n1,2024-05-01,a\n1,2024-05-02,a\n1,2024-05-02,b\n"
    )
    assert checked(tmp_path, share=0.0, table="searches").counts == {}


def test_faults_up_to_the_tolerated_share_are_set_aside(tmp_path: Path) -> None:
    sound = "".join(f"1,{item},2024-05-01,1,3\n" for item in range(99))
    log(tmp_path, HEADER + sound + "1,99,2024-05-01,1,-1\n")
    assert checked(tmp_path, share=0.01).counts == {"watch_seconds is negative": 1}
    with pytest.raises(InputError, match="row 100 holds '-1'"):
        checked(tmp_path, share=0.009)


def test_the_row_is_counted_in_its_own_file(tmp_path: Path) -> None:
    names = "user_id,video_id,time_ms,is_click,play_time_ms\n"
    (tmp_path / "log_standard_1.csv").write_text(
        names + "1,7,1649346288441,1,100\n1,8,1649346288441,1,100\n"
    )
    (tmp_path / "log_standard_2.csv").write_text(names + "1,9,1649346288441,1,-5\n")
    sentence = refusal(tmp_path, "kuairand")
    assert sentence.startswith("log_standard_2.csv, column play_time_ms: row 1 holds '-5'")


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nowhere").endswith("--data names the folder that holds the log")


def test_a_missing_log_is_refused_by_naming_the_expected_files(tmp_path: Path) -> None:
    assert "expected log_[sr]*.csv" in refusal(tmp_path, "kuairand")


def test_two_forms_of_one_table_are_refused(tmp_path: Path) -> None:
    log(tmp_path, HEADER + SOUND)
    pq.write_table(pa.table({"user_id": [1]}), tmp_path / "interactions.parquet")
    assert "interactions.parquet and interactions.csv both hold the table interactions" in refusal(
        tmp_path
    )


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "interactions.parquet"
    pq.write_table(
        pa.table({"user_id": list(range(1000)), "item_id": [1] * 1000, "timestamp": [1] * 1000}),
        path,
    )
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(tmp_path).startswith("interactions.parquet: the file ends in the middle")


@pytest.mark.parametrize("name", ["interactions.csv", "interactions.parquet"])
def test_an_empty_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert refusal(tmp_path).startswith(name)


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    assert refusal(log(tmp_path, HEADER)).startswith(
        "interactions.csv: the table interactions is empty"
    )
    pq.write_table(pa.table({"item_id": pa.array([], pa.int64())}), tmp_path / "items.parquet")
    assert "items.parquet: the table items is empty" in refusal(log(tmp_path, HEADER + SOUND))


def test_bytes_that_are_not_utf_8_are_refused_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_bytes(
        (HEADER + SOUND + "é,8,2024-05-01,1,3\n").encode("latin-1")
    )
    sentence = "interactions.csv, line 3: the bytes are not UTF-8; save the file as UTF-8"
    with pytest.raises(InputError, match=sentence):
        sheets("canonical", tmp_path, engine())
    (tmp_path / "interactions.csv").write_bytes((HEADER + SOUND).encode("utf-16"))
    assert refusal(tmp_path).startswith("interactions.csv, line 1: the bytes are not UTF-8")


def test_a_line_with_a_column_too_few_is_refused_with_its_number(tmp_path: Path) -> None:
    assert "line 3: 4 columns found, expected 5" in refusal(
        log(tmp_path, HEADER + SOUND + "1,7,2024-05-01,1\n")
    )


def test_a_missing_column_is_refused_by_naming_those_found(tmp_path: Path) -> None:
    sentence = refusal(log(tmp_path, "user_id,item,timestamp\n1,7,2024-05-01\n"))
    assert sentence.startswith(
        "interactions.csv: column item_id is missing (found: user_id, item, timestamp)"
    )


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    assert "column item_id is named twice" in refusal(
        log(tmp_path, "user_id,item_id,item_id,timestamp\n1,7,7,2024-05-01\n")
    )


@pytest.mark.parametrize(
    ("column", "values", "kind", "expected"),
    [
        ("user_id", pa.array([b"1"]), "binary", "integers or strings"),
        (
            "timestamp",
            pa.array([True]),
            "boolean",
            "timestamps (UTC), ISO text or seconds since 1970",
        ),
        ("clicked", pa.array(["yes"]), "string", "booleans or 0 and 1"),
        ("watch_seconds", pa.array(["3"]), "string", "numbers"),
    ],
)
def test_a_wrong_type_is_refused(
    tmp_path: Path, column: str, values: pa.Array, kind: str, expected: str
) -> None:
    sound = {
        "user_id": pa.array([1]),
        "item_id": pa.array([7]),
        "timestamp": pa.array([1714550400]),
    }
    pq.write_table(pa.table(sound | {column: values}), tmp_path / "interactions.parquet")
    sentence = f"interactions.parquet, column {column}: the type is {kind}, expected {expected}; "
    assert refusal(tmp_path).startswith(sentence)


def test_ids_of_two_kinds_are_refused() -> None:
    tables = {"interactions": ibis.memtable({ITEM: [1]}), "items": ibis.memtable({ITEM: ["a"]})}
    with pytest.raises(
        InputError, match="column item_id: strings in the table items, integers in interactions"
    ):
        with_id_types(tables, {"items": {ITEM}})


Key = tuple[int, int, int]


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40
    )
)
def test_the_rows_that_stay_are_the_first_of_each_key(keys: Sequence[Key]) -> None:
    names = ["user_id", "item_id", "timestamp"]
    columns: dict[str, list[int]] = {
        name: [key[place] for key in keys] for place, name in enumerate(names)
    }
    order = {FILE: [0] * len(keys), ROW: list(range(1, len(keys) + 1))}
    later = duplicates(ibis.memtable(pa.table(columns | order)), names)
    first = {key: row for row, key in reversed(list(enumerate(keys, 1)))}
    assert sorted(later.to_pyarrow()[ROW].to_pylist()) == sorted(
        row for row, key in enumerate(keys, 1) if first[key] != row
    )


@pytest.mark.parametrize(
    ("propensity", "reason"),
    [
        ("0", "propensity is not above 0"),
        ("-0.1", "propensity is not above 0"),
        ("1.01", "propensity is above 1"),
        ("often", "propensity cannot be read"),
    ],
)
def test_a_propensity_that_is_no_chance_is_set_aside(
    tmp_path: Path, propensity: str, reason: str
) -> None:
    header = "user_id,item_id,timestamp,propensity\n"
    sound = "1,7,2024-05-01,1\n1,8,2024-05-01,\n1,9,2024-05-01,0.0001\n"
    checked_at = door(log(tmp_path, f"{header}{sound}2,7,2024-05-01,{propensity}\n"))
    assert rejected(checked_at(1.0)) == [(4, reason, propensity)]
    with pytest.raises(
        InputError,
        match=rf"column propensity: row 4 holds '{propensity}'.*a chance above 0 and at most 1",
    ):
        checked_at(0.01)
