"""Digests are of content: rows, their order and their types, not of bytes."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.schema import CONTRACTS
from features.tables import engine, parquet_digest, parquet_schema, sql_text, table_at
from funnel.store import content_digest, file_digest

ROWS = pa.table(
    {"a": pa.array([1, None, 3], pa.int64()), "b": ["x", "y", None], "c": [[1.5], [], None]}
)


def saved(path: Path, table: pa.Table, **how: object) -> Path:
    pq.write_table(table, path, **how)
    return path


def test_equal_rows_have_equal_digests_however_they_are_encoded(tmp_path: Path) -> None:
    plain = saved(tmp_path / "a.parquet", ROWS)
    packed = saved(
        tmp_path / "b.parquet", ROWS, compression="zstd", row_group_size=1, use_dictionary=False
    )
    assert file_digest(plain) != file_digest(packed)
    assert content_digest(plain) == content_digest(packed) == parquet_digest(plain)


@pytest.mark.parametrize(
    "other",
    [
        ROWS.take(pa.array([1, 0, 2])),
        ROWS.slice(0, 2),
        ROWS.rename_columns(["a", "b", "d"]),
        ROWS.set_column(0, "a", pa.array([1, None, 4], pa.int64())),
        ROWS.set_column(0, "a", pa.array([1, None, 3], pa.int32())),
        ROWS.set_column(0, "a", pa.array([1, 0, 3], pa.int64())),
    ],
    ids=["order", "a row less", "a column's name", "a value", "a type", "null is not 0"],
)
def test_another_content_has_another_digest(tmp_path: Path, other: pa.Table) -> None:
    assert parquet_digest(saved(tmp_path / "a.parquet", ROWS)) != parquet_digest(
        saved(tmp_path / "b.parquet", other)
    )


def test_a_table_without_rows_has_a_digest_of_its_columns(tmp_path: Path) -> None:
    empty = parquet_digest(saved(tmp_path / "a.parquet", ROWS.slice(0, 0)))
    assert empty == parquet_digest(
        saved(tmp_path / "b.parquet", ROWS.slice(0, 0), compression="zstd")
    )
    assert empty != parquet_digest(
        saved(tmp_path / "c.parquet", ROWS.slice(0, 0).drop_columns("c"))
    )


def test_the_order_of_many_rows_is_in_the_digest(tmp_path: Path) -> None:
    """More rows than one batch and one row group hold, so that threads could mix them up."""
    numbers = np.arange(300_000)
    swapped = numbers.copy()
    swapped[[7, 250_000]] = swapped[[250_000, 7]]
    first, again, other = (
        parquet_digest(
            saved(tmp_path / f"{name}.parquet", pa.table({"n": values}), row_group_size=size)
        )
        for name, values, size in (
            ("a", numbers, 20_000),
            ("b", numbers, 300_000),
            ("c", swapped, 20_000),
        )
    )
    assert first == again != other


def test_a_path_with_a_quote_is_read(tmp_path: Path) -> None:
    assert parquet_digest(saved(tmp_path / "it's.parquet", ROWS))
    assert sql_text("it's") == "it''s"


def test_other_files_are_digested_by_their_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{}")
    assert content_digest(tmp_path / "a.json") == file_digest(tmp_path / "a.json")


def test_the_schema_says_rows_and_types(tmp_path: Path) -> None:
    assert parquet_schema(saved(tmp_path / "a.parquet", ROWS)) == {
        "rows": 3,
        "columns": {"a": "int64", "b": "string", "c": "list<element: double>"},
    }


def test_the_engines_clock_is_utc() -> None:
    backend = engine()
    assert backend.con.sql("SELECT current_setting('TimeZone')").fetchall() == [("UTC",)]
    backend.disconnect()


def test_tables_of_one_engine_can_be_joined(tmp_path: Path) -> None:
    path, backend = saved(tmp_path / "a.parquet", ROWS), engine()
    first, second = table_at(path, backend), table_at(path, backend)
    assert first.join(second, "a").count().execute() == 2
    assert table_at(path).count().execute() == 3


def test_every_required_column_has_a_kind() -> None:
    for contract in CONTRACTS.values():
        assert set(contract.required) <= set(contract.kinds)
