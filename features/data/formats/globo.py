"""Globo.com (G1) news clicks: every row a click, its seconds the gap to the session's next
click.
"""

import ibis
import ibis.expr.types as ir

from features.data.fields import MILLISECONDS, Field, whole_id
from features.data.files import FILE, ROW, Part, Source
from features.schema import (
    CHANNEL,
    COUNTRY,
    DEVICE,
    ITEM,
    PUBLISHED_AT,
    TIMESTAMP,
    TOPICS,
    USER,
    WATCH_SECONDS,
)
from features.tables import Tables

SESSION = "session_id"
LONGEST_GAP_SECONDS = 1800.0

CLICKS = Part(
    "interactions",
    ("clicks_*.parquet", "clicks_*.csv", "clicks/clicks_*.csv"),
    (
        whole_id(USER, "user_id"),
        whole_id(ITEM, "click_article_id"),
        Field(TIMESTAMP, "click_timestamp", "timestamp", required=True, unit=MILLISECONDS),
        Field(SESSION, "session_id", "category", required=True),
        Field(DEVICE, "click_deviceGroup", "category"),
        Field("environment", "click_environment", "category"),
        Field("os", "click_os", "category"),
        Field(COUNTRY, "click_country", "category"),
        Field("region", "click_region", "category"),
        Field("referrer", "click_referrer_type", "category"),
    ),
)

ARTICLES = Part(
    "items",
    ("articles_metadata.csv",),
    (
        whole_id(ITEM, "article_id"),
        Field(PUBLISHED_AT, "created_at_ts", "timestamp", unit=MILLISECONDS),
        Field(CHANNEL, "publisher_id", "category"),
        Field(TOPICS, "category_id", "categories"),
    ),
)


def derive(parts: dict[str, ir.Table]) -> Tables:
    """Clicks with their seconds; the session, whose size is known only afterwards, is left out."""
    return Tables(with_gaps(parts["interactions"]), items=parts.get("items"))


def with_gaps(clicks: ir.Table) -> ir.Table:
    """Seconds = gap to the next click of the session; null for its last two clicks and above 30
    minutes.

    The log stamps the last click of every session exactly 30 s after the one before it, so neither
    of the two says how long anything was read.
    """
    session = ibis.window(group_by=[USER, SESSION], order_by=[TIMESTAMP, FILE, ROW])
    following = clicks[TIMESTAMP].lead().over(session)
    has_second_next = clicks[TIMESTAMP].lead(2).over(session).notnull()
    gap = following.delta(clicks[TIMESTAMP], unit="millisecond").cast("float64") / 1000
    known = has_second_next & (gap <= LONGEST_GAP_SECONDS)
    return clicks.mutate(**{WATCH_SECONDS: ibis.ifelse(known, gap, ibis.null("float64"))}).drop(
        SESSION
    )


SOURCE = Source(layouts=((CLICKS, ARTICLES),), derive=derive)
