"""The tables that come in: their names, columns and kinds, and the engine that reads them."""

from dataclasses import dataclass
from typing import Literal

import ibis
from ibis.backends.duckdb import Backend

USER, ITEM, TIMESTAMP = "user_id", "item_id", "timestamp"
CLICKED, WATCH_SECONDS = "clicked", "watch_seconds"
DEVICE, SURFACE, POSITION, PROPENSITY = "device", "surface", "position", "propensity"
PUBLISHED_AT, DURATION_SECONDS, CHANNEL, TOPICS, LANGUAGE = (
    "published_at",
    "duration_seconds",
    "channel_id",
    "topics",
    "language",
)
COUNTRY, REGION, GENDER, AGE = "country", "region", "gender", "age"
QUERY = "query"
RANK, SCORE, CHANNELS = "rank", "score", "channels"
EXPECTED_SECONDS, UNIT = "expected_seconds", "unit"

Kind = Literal["id", "instant", "flag", "number", "category", "categories", "text"]


@dataclass(frozen=True)
class Contract:
    """Columns of one incoming table: those it must have and those the funnel knows what to do with."""

    required: tuple[str, ...]
    kinds: dict[str, Kind]


CONTRACTS: dict[str, Contract] = {
    "interactions": Contract(
        (USER, ITEM, TIMESTAMP),
        {
            USER: "id",
            ITEM: "id",
            TIMESTAMP: "instant",
            CLICKED: "flag",
            WATCH_SECONDS: "number",
            DEVICE: "category",
            SURFACE: "category",
            POSITION: "number",
            PROPENSITY: "number",
        },
    ),
    "items": Contract(
        (ITEM,),
        {
            ITEM: "id",
            PUBLISHED_AT: "instant",
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
    "searches": Contract((USER, TIMESTAMP, QUERY), {USER: "id", TIMESTAMP: "instant", QUERY: "text"}),
}


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
