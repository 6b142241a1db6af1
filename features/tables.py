"""Tables of the contract, and the engine that reads them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

Table: TypeAlias = ir.Table


@dataclass(frozen=True)
class Tables:
    """One data set in the contract: Ibis tables; what a log does not have is None."""

    interactions: ibis.Table
    items: ibis.Table | None = None
    users: ibis.Table | None = None
    searches: ibis.Table | None = None


def engine() -> Backend:
    """A fresh in-process DuckDB, its clock set to UTC."""
    backend = ibis.duckdb.connect()
    backend.raw_sql("SET TimeZone = 'UTC'")
    # In a session of a person it draws bars on standard output. A notebook without widgets has
    # none, and refuses the setting.
    drawn = backend.raw_sql("SELECT current_setting('enable_progress_bar')").fetchall()
    if drawn == [(True,)]:
        backend.raw_sql("SET enable_progress_bar = false")
    return backend


def table_at(path: Path, backend: Backend | None = None) -> Table:
    """A Parquet file as a lazy table, in an engine of its own unless one is given."""
    return cast(Table, (backend or engine()).read_parquet(path))


def parquet_digest(path: Path) -> str:
    """SHA-256 over the row hashes of a Parquet file, in row order: of content, not of encoding."""
    digest = hashlib.sha256()
    backend = engine()
    rows = backend.con.sql(
        f"SELECT hash(*COLUMNS(*)) AS row_hash FROM read_parquet('{sql_text(path)}')"
    )
    for batch in rows.to_arrow_reader(1_000_000):
        digest.update(np.ascontiguousarray(batch.column(0).to_numpy()).data)
    digest.update(str(parquet_schema(path)["columns"]).encode())
    backend.disconnect()
    return digest.hexdigest()


def parquet_schema(path: Path) -> dict[str, Any]:
    """Row count and column types of a Parquet file."""
    file = pq.ParquetFile(path)
    columns = {field.name: str(field.type) for field in file.schema_arrow}
    return {"rows": file.metadata.num_rows, "columns": columns}


def sql_text(value: object) -> str:
    """A value as the inside of a single-quoted SQL text."""
    return str(value).replace("'", "''")
