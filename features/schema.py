"""The tables that come in: their names, columns and kinds, and the engine that reads them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

USER, ITEM, TIMESTAMP = "user_id", "item_id", "timestamp"
CLICKED, WATCH_SECONDS = "clicked", "watch_seconds"
DEVICE, SURFACE, POSITION, PROPENSITY = "device", "surface", "position", "propensity"
REQUEST = "request_id"
TITLE, PUBLISHED_AT, DURATION_SECONDS, CHANNEL, TOPICS, LANGUAGE = (
    "title",
    "published_at",
    "duration_seconds",
    "channel_id",
    "topics",
    "language",
)
COUNTRY, REGION, GENDER, AGE = "country", "region", "gender", "age"
# A second, a minute, an hour and a day in microseconds, the unit of every timestamp_us.
SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
QUERY = "query"
RANK, SCORE = "rank", "score"
EXPECTED_SECONDS, CHANCE, UNIT = "expected_seconds", "chance", "unit"

Kind = Literal["id", "timestamp", "flag", "number", "category", "categories", "text"]


@dataclass(frozen=True)
class Contract:
    """Columns of one incoming table: those it must have and those the funnel knows what to do
    with.
    """

    required: tuple[str, ...]
    kinds: dict[str, Kind]


CONTRACTS: dict[str, Contract] = {
    "interactions": Contract(
        (USER, ITEM, TIMESTAMP),
        {
            USER: "id",
            ITEM: "id",
            TIMESTAMP: "timestamp",
            CLICKED: "flag",
            WATCH_SECONDS: "number",
            DEVICE: "category",
            SURFACE: "category",
            POSITION: "number",
            PROPENSITY: "number",
            REQUEST: "id",
        },
    ),
    "items": Contract(
        (ITEM,),
        {
            ITEM: "id",
            TITLE: "text",
            PUBLISHED_AT: "timestamp",
            DURATION_SECONDS: "number",
            CHANNEL: "category",
            TOPICS: "categories",
            LANGUAGE: "category",
        },
    ),
    "users": Contract(
        (USER,),
        {
            USER: "id",
            COUNTRY: "category",
            REGION: "category",
            DEVICE: "category",
            GENDER: "category",
            AGE: "number",
            LANGUAGE: "category",
        },
    ),
    "searches": Contract(
        (USER, TIMESTAMP, QUERY), {USER: "id", TIMESTAMP: "timestamp", QUERY: "text"}
    ),
}


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
    return backend


def table_at(path: Path, backend: Backend | None = None) -> Table:
    """A Parquet file as a lazy table, in an engine of its own unless one is given."""
    return cast(Table, (backend or engine()).read_parquet(path))


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of a file's content: of the rows in order for Parquet, of the bytes otherwise."""
    return parquet_digest(path) if path.suffix == ".parquet" else file_digest(path)


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
