"""The tables that come in: their names, columns and kinds."""

from dataclasses import dataclass
from typing import Literal

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
