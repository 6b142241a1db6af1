"""Data that is still being written is waited for; what is wrong, and stays wrong, is refused at once."""

import gzip
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.config import CleaningConfig
from features.data import ingest as door
from features.data.ingest import ingest
from features.data.sources import opened
from features.data.steady import look_at, steady
from features.errors import InputError, NotReady
from funnel.airflow_tasks import TaskRefused, stage_dag
from funnel.pipeline import data_digest

NOW = datetime(2024, 6, 1, tzinfo=UTC)
DAY = datetime(2024, 5, 1, tzinfo=UTC)
ROWS = "user_id,item_id,timestamp,title\n" + "".join(f"{n},7,2024-05-01,a\n" for n in range(2_000))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    return place


@pytest.fixture
def out(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    return place


def parquet(path: Path) -> bytes:
    """A whole Parquet file of a log, which is written too."""
    users = list(range(2_000))
    columns = {"user_id": users, "item_id": users, "timestamp": [DAY] * len(users)}
    pq.write_table(pa.table(columns), path)
    return path.read_bytes()


def refusal(data: Path, out: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        ingest("canonical", data, out, CleaningConfig(), NOW)
    assert list(out.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("share", [0, 0.0001, 0.5, 0.999])
def test_a_parquet_file_without_its_footer_is_waited_for(
    data: Path, out: Path, share: float
) -> None:
    path = data / "interactions.parquet"
    whole = parquet(path)
    path.write_bytes(whole[: round(len(whole) * share)])
    said = refusal(data, out)
    assert isinstance(said, NotReady)
    assert str(said).startswith(
        "interactions.parquet: the file ends in the middle, so it is still being written"
    )


def test_a_partition_without_its_footer_is_waited_for_by_its_name(data: Path, out: Path) -> None:
    for day in (1, 2):
        (data / f"interactions/day={day}").mkdir(parents=True)
        whole = parquet(data / f"interactions/day={day}/part.parquet")
    (data / "interactions/day=2/part.parquet").write_bytes(whole[:-8])
    assert str(refusal(data, out)).startswith("day=2/part.parquet: the file ends in the middle")


@pytest.mark.parametrize(
    "content",
    [
        b"user_id,item_id\n1,2\n",
        b"PAR1" + bytes(4_000) + b"PAR1",
        b"PAR1" + bytes(8) + b"\xff\xff\xff\x7fPAR1",
    ],
)
def test_what_is_no_parquet_file_is_refused_at_once(data: Path, out: Path, content: bytes) -> None:
    (data / "interactions.parquet").write_bytes(content)
    said = refusal(data, out)
    assert not isinstance(said, NotReady)
    assert "not a Parquet file that can be read" in str(said)


@pytest.mark.parametrize(
    "end",
    [
        "5,7",
        '5,7,2024-05-01,"a',
        '5,7,2024-05-01,"a\n',
        '5,7,2024-05-01,"a\nb',
        b"5,7,2024-05-01,\xc3",
    ],
)
def test_a_text_file_that_ends_within_a_row_is_waited_for(
    data: Path, out: Path, end: str | bytes
) -> None:
    cut = end if isinstance(end, bytes) else end.encode()
    (data / "interactions.csv").write_bytes(ROWS.encode() + cut)
    said = refusal(data, out)
    assert isinstance(said, NotReady) == (not cut.endswith(b"\n")), said


@pytest.mark.parametrize("content", ["", "user_id", "user_id,item_id,timestamp"])
def test_a_text_file_that_ends_within_its_header_is_waited_for(
    data: Path, out: Path, content: str
) -> None:
    (data / "interactions.csv").write_text(content)
    assert isinstance(refusal(data, out), NotReady)


@pytest.mark.parametrize(
    "rows",
    [
        "5,7\n6,7,2024-05-01,a",
        "5,7\n6,7,2024-05-01,a\n",
        '5,7,2024-05-01,"a"b"\n6,7,2024-05-01,a\n',
    ],
)
def test_a_broken_row_in_the_middle_is_refused_at_once(data: Path, out: Path, rows: str) -> None:
    (data / "interactions.csv").write_text(ROWS + rows)
    assert not isinstance(refusal(data, out), NotReady)


def test_a_last_line_that_is_whole_needs_no_end_of_line(data: Path, out: Path) -> None:
    (data / "interactions.csv").write_text(ROWS + "5,8,2024-05-01,a")
    assert ingest("canonical", data, out, CleaningConfig(), NOW)["rows"] == 2_001


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.99])
def test_a_packed_file_that_ends_in_the_middle_is_waited_for(
    data: Path, out: Path, share: float
) -> None:
    packed = gzip.compress(ROWS.encode())
    (data / "interactions.csv.gz").write_bytes(packed[: round(len(packed) * share)])
    assert isinstance(refusal(data, out), NotReady)


def test_what_is_no_packed_file_is_refused_at_once(data: Path, out: Path) -> None:
    (data / "interactions.csv.gz").write_text(ROWS)
    said = refusal(data, out)
    assert not isinstance(said, NotReady)
    assert "interactions.csv.gz: not a gzip file" in str(said)


@pytest.mark.parametrize(
    ("names", "waited"),
    [
        ((), True),
        (("_READY", ".part.parquet.tmp"), True),
        (("interactions/",), True),
        (("interactions/day=1/",), True),
        (("items.csv",), True),
        (("notes.txt",), False),
        (("ratings.dat", "movies.dat"), False),
    ],
)
def test_a_log_that_is_announced_is_waited_for_and_a_folder_of_something_else_is_not(
    data: Path, out: Path, names: tuple[str, ...], waited: bool
) -> None:
    for name in names:
        (data / name).mkdir(parents=True) if name.endswith("/") else (data / name).write_text(
            "item_id\n7\n"
        )
    said = refusal(data, out)
    assert isinstance(said, NotReady) == waited
    assert "no interactions of source 'canonical' in this folder" in str(said)


def test_a_missing_folder_is_waited_for_and_a_file_in_its_place_is_not(
    tmp_path: Path, out: Path
) -> None:
    assert isinstance(refusal(tmp_path / "nowhere", out), NotReady)
    (tmp_path / "log.csv").write_text(ROWS)
    assert not isinstance(refusal(tmp_path / "log.csv", out), NotReady)


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("5,8,2024-05-01,a\n")


def replace(path: Path) -> None:
    beside = path.with_name(".new")
    beside.write_text(path.read_text())
    os.utime(beside, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    beside.rename(path)


CHANGES: list[Callable[[Path], None]] = [append, replace, Path.unlink, Path.touch]


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read_is_waited_for(
    data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    path = data / "interactions.csv"
    path.write_text(ROWS)
    check = door.check

    def change_and_check(*given: Any) -> Any:
        change(path)
        return check(*given)

    monkeypatch.setattr(door, "check", change_and_check)
    said = refusal(data, out)
    assert isinstance(said, NotReady)
    assert str(said).startswith("interactions.csv: the file changed while it was read")


def test_what_is_wrong_with_a_file_that_changes_is_not_told(data: Path) -> None:
    path = data / "interactions.csv"
    path.write_text(ROWS)

    def read_and_refuse() -> None:
        with steady(look_at([path])):
            append(path)
            raise InputError("half a row")

    with pytest.raises(NotReady, match="changed"):
        read_and_refuse()


@pytest.mark.parametrize("name", ["interactions.csv", "items.csv"])
def test_what_is_read_is_what_the_digest_is_of(data: Path, out: Path, name: str) -> None:
    (data / "interactions.csv").write_text(ROWS)

    def digest_and_read() -> None:
        with opened("canonical", data):
            data_digest("canonical", data)
            (data / name).write_text(ROWS + "5,8,2024-05-01,a\n")
            ingest("canonical", data, out, CleaningConfig(), NOW)

    with pytest.raises(NotReady, match=r"changed|came"):
        digest_and_read()
    assert list(out.iterdir()) == []


def test_airflow_waits_for_data_and_refuses_the_rest_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WATCHFUNNEL_RETRY_SECONDS", "60")
    policy = stage_dag("ingest", "# ingest\n\nReads.", "@daily").default_args["retry_policy"]
    late, wrong, other = (
        policy.evaluate(error, 1, 2) for error in (NotReady("no"), TaskRefused("no"), OSError("no"))
    )
    assert (late.action.value, late.retry_delay.total_seconds()) == ("retry", 600)
    assert "waits for it" in late.reason
    assert (wrong.action.value, other.action.value) == ("fail", "default")
