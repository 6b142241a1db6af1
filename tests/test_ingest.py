"""The door as a whole: what is written, what is said about it, and that a refusal writes
nothing.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.config import CleaningConfig
from features.data.ingest import in_words, ingest, source_files
from features.data.sources import unread_files
from features.errors import InputError

DATA = Path(__file__).parents[2] / "shared" / "data"
NOW = datetime(2024, 6, 1, tzinfo=UTC)
LOG = """user_id,item_id,timestamp,clicked,watch_seconds,surface
2,b,2024-05-02T00:00:00Z,1,3,home
1,a,2024-05-03T00:00:00Z,1,,home
1,b,2024-05-01T00:00:00Z,0,2,search
2,b,2024-05-02T00:00:00Z,1,3,home
1,c,2024-05-01T00:00:00Z,1,12,home
1,,2024-05-01T00:00:00Z,1,12,home
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    (place / "interactions.csv").write_text(LOG)
    (place / "items.csv").write_text("item_id,duration_seconds\nb,6\na,60\na,61\n")
    (place / "searches.csv").write_text(
        "user_id,timestamp,query\n2,2024-05-01,b\n1,2024-05-02,c\n1,2024-05-01,a\n"
    )
    return place


@pytest.fixture
def out(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    return place


def written(out: Path, name: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in pq.read_table(out / f"{name}.parquet").to_pylist()]


def day(number: int) -> datetime:
    return datetime(2024, 5, number, tzinfo=UTC)


TOLERANT = CleaningConfig(max_rejected_share=0.5)


def test_the_tables_are_written_in_their_stated_order(data: Path, out: Path) -> None:
    ingest("canonical", data, out, TOLERANT, NOW)
    table = pq.read_table(out / "interactions.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "user_id": "int64",
        "item_id": "string",
        "timestamp": "timestamp[us, tz=UTC]",
        "clicked": "bool",
        "watch_seconds": "double",
        "surface": "string",
        "completed": "bool",
    }
    assert written(out, "interactions") == [
        (1, "b", day(1), False, 2.0, "search", False),
        (1, "c", day(1), True, 12.0, "home", True),
        (1, "a", day(3), True, None, "home", True),
        (2, "b", day(2), True, 3.0, "home", True),
    ]
    assert written(out, "items") == [("a", 60.0), ("b", 6.0)]
    assert written(out, "searches") == [(1, day(1), "a"), (1, day(2), "c"), (2, day(1), "b")]
    assert sorted(path.name for path in out.iterdir()) == [
        "interactions.parquet",
        "items.parquet",
        "rejected.parquet",
        "searches.parquet",
    ]


def test_the_rejected_rows_are_kept_with_file_row_and_reason(data: Path, out: Path) -> None:
    ingest("canonical", data, out, TOLERANT, NOW)
    assert pq.read_table(out / "rejected.parquet").column_names == [
        "table",
        "file",
        "row",
        "reason",
        "value",
        "user_id",
        "item_id",
        "timestamp",
    ]
    assert written(out, "rejected") == [
        (
            "interactions",
            "interactions.csv",
            4,
            "duplicate",
            None,
            "2",
            "b",
            "2024-05-02 00:00:00+00",
        ),
        (
            "interactions",
            "interactions.csv",
            6,
            "item_id is null",
            None,
            "1",
            None,
            "2024-05-01T00:00:00Z",
        ),
        ("items", "items.csv", 3, "duplicate", None, None, "a", None),
    ]


def test_the_summary_counts_what_was_done(data: Path, out: Path) -> None:
    config = CleaningConfig(max_rejected_share=0.5, last_days=1.5, known_items_only=True)
    assert ingest("canonical", data, out, config, NOW) == {
        "rows_read": 6,
        "rejected": {
            "interactions": {"item_id is null": 1, "duplicate": 1},
            "items": {"duplicate": 1},
        },
        "dropped": {"last_days": 2, "known_items_only": 0},
        "missing": {
            "interactions": ["device", "position", "propensity", "request_id"],
            "items": ["title", "published_at", "channel_id", "topics", "language"],
            "users": ["user_id", "country", "region", "device", "gender", "age", "language"],
        },
        "partial": {},
        "unused": [],
        "unread": [],
        "matched": {"items": 0.75, "searches": 1.0},
        "odd": ["items describes 75% of the rows (such as `c` are missing)"],
        "rows": 2,
        "users": 2,
        "items": 2,
        "clicked_share": 1.0,
        "completed_share": 1.0,
        "repeat_share": 0.0,
        "null_seconds_share": 0.5,
        "mean_seconds": 3.0,
        "first_timestamp": "2024-05-02T00:00:00+00:00",
        "last_timestamp": "2024-05-03T00:00:00+00:00",
        "catalogue": 2,
    }


def test_what_was_taken_for_something_else_is_told_in_one_line(data: Path, out: Path) -> None:
    """Columns misnamed, seconds that are not there, rows set aside, and a second file that nobody
    reads.
    """
    summary = ingest("canonical", data, out, TOLERANT, NOW)
    aside = "item_id is null: 1, duplicate: 1"
    odd = "items describes 75% of the rows (such as `c` are missing)"
    missing = "not in the log: device, position, propensity, request_id"
    assert in_words(summary) == (
        f"4 rows of 6 ({aside}), 2 users, 3 items, 75% clicked, 7.5 seconds a click; {odd}; {missing}"
    )
    for path in out.iterdir():
        path.unlink()
    (data / "items.csv").unlink()
    (data / "interactions.csv").write_text(
        "user_id,item_id,timestamp,click,watch_time\n1,a,2024-05-01,0,2\n"
    )
    (data / "interactions-2024-05-31.csv").write_text(LOG)
    summary = ingest("canonical", data, out, TOLERANT, NOW)
    assert (summary["unused"], summary["unread"]) == (
        ["click", "watch_time"],
        ["interactions-2024-05-31.csv"],
    )
    assert in_words(summary).startswith(
        "1 rows, 1 users, 1 items, 100% clicked, no watch seconds; not in the log: clicked"
    )
    assert in_words(summary).endswith(
        "not used: click, watch_time; not read: interactions-2024-05-31.csv"
    )


def test_the_same_input_gives_the_same_bytes_of_content(
    data: Path, out: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    again.mkdir()
    assert ingest("canonical", data, out, TOLERANT, NOW) == ingest(
        "canonical", data, again, TOLERANT, NOW
    )
    for path in out.iterdir():
        assert pq.read_table(path).equals(pq.read_table(again / path.name))


@pytest.mark.parametrize(
    ("source", "config", "sentence"),
    [
        ("canonical", CleaningConfig(), "2 of 6 rows are at fault"),
        ("kuairand", CleaningConfig(), "no interactions of source 'kuairand'"),
        ("netflix", CleaningConfig(), "source 'netflix' is unknown"),
        (
            "canonical",
            CleaningConfig(max_rejected_share=1, min_history=9),
            "no interaction is left after cleaning",
        ),
        (
            "canonical",
            CleaningConfig(max_rejected_share=1, no_exposure_before_publication=True),
            "published_at",
        ),
    ],
)
def test_a_refusal_writes_nothing(
    data: Path, out: Path, source: str, config: CleaningConfig, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        ingest(source, data, out, config, NOW)
    assert list(out.iterdir()) == []


def test_bytes_that_are_not_utf_8_deep_in_a_file_are_refused_and_nothing_is_written(
    data: Path, out: Path
) -> None:
    lines = "".join(f"1,i{n},2024-05-01T00:00:00Z,1,12,home\n" for n in range(60_000))
    head = LOG.splitlines()[0] + "\n"
    (data / "interactions.csv").write_bytes(
        (head + lines + "1,é,2024-05-01,1,2,home\n").encode("latin-1")
    )
    with pytest.raises(InputError, match=r"interactions\.csv, line 60002: the bytes are not UTF-8"):
        ingest("canonical", data, out, CleaningConfig(), NOW)
    assert list(out.iterdir()) == []


def test_every_file_that_is_read_can_be_hashed_beforehand(data: Path) -> None:
    (data / "notes.txt").write_text("not a table")
    assert source_files("canonical", data) == [
        data / name for name in ("interactions.csv", "items.csv", "searches.csv")
    ]


def test_rows_far_into_a_large_file_keep_their_numbers(data: Path, out: Path) -> None:
    lines = [f"{n % 997},i{n},2024-05-01T00:00:00Z,1,12,home" for n in range(200_000)]
    lines[150_000] = "5,x,2024-05-01T00:00:00Z,1,-1,home"
    (data / "items.csv").unlink()
    (data / "interactions.csv").write_text("\n".join([LOG.splitlines()[0], *lines]) + "\n")
    ingest("canonical", data, out, CleaningConfig(), NOW)
    assert written(out, "rejected")[0][1:5] == (
        "interactions.csv",
        150_001,
        "watch_seconds is negative",
        "-1",
    )


def real(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"the real log {name} is not on this machine")
    return DATA / name


def test_the_kuairand_slice_comes_out_as_it_is_described(out: Path) -> None:
    summary = ingest("kuairand", real("kuairand"), out, CleaningConfig(), NOW)
    assert summary["rejected"] == {"interactions": {"duplicate": 93}}
    assert (summary["rows"], summary["users"], summary["items"]) == (35_623, 663, 7_942)
    assert summary["clicked_share"] == pytest.approx(0.66, abs=0.01)


def test_globo_clicks_of_whole_sessions_have_gaps_of_at_most_half_an_hour(
    out: Path, tmp_path: Path
) -> None:
    clicks = pq.read_table(real("globo") / "clicks_oct_01_12.parquet")
    some = clicks.filter(pc.less(clicks["user_id"], 5_000))
    place = tmp_path / "slice"
    place.mkdir()
    pq.write_table(some, place / "clicks_slice.parquet")
    summary = ingest("globo", place, out, CleaningConfig(), NOW)
    sessions = some.group_by(["user_id", "session_id"]).aggregate([("click_timestamp", "count")])
    log = pq.read_table(out / "interactions.parquet")
    assert summary["rows"] == len(some) == len(log)
    least_unknown = 2 * len(sessions)
    assert log["watch_seconds"].null_count >= least_unknown
    assert 0 <= pc.min(log["watch_seconds"]).as_py() <= pc.max(log["watch_seconds"]).as_py() <= 1800
    assert summary["null_seconds_share"] == pytest.approx(
        log["watch_seconds"].null_count / len(log)
    )


def test_what_lies_beside_the_tables_or_in_their_folders_and_is_not_read_is_named(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "interactions.parquet"
    folder.mkdir()
    for name in ("first.parquet", "second.csv", "_READY"):
        (folder / name).write_text("")
    for name in ("interactions_day11.csv", "items.parquet", "notes.txt"):
        (tmp_path / name).write_text("")
    read = {folder / "first.parquet", tmp_path / "items.parquet"}
    assert unread_files(tmp_path, read) == [
        "interactions.parquet/second.csv",
        "interactions_day11.csv",
    ]
