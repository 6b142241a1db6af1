"""KuaiRand (Pure, 1K, 27K): short-video impressions with watch time; the file names tell the sizes
apart.

What a viewer did after the exposure (long_view, is_like, is_follow, is_comment, is_forward,
is_hate, comment_stay_time, is_profile_enter) and counters without a date of their own (fans,
friends) are never taken.
"""

import ibis
import ibis.expr.types as ir

from features.data.fields import MILLISECONDS, Field, whole_id
from features.data.files import Part, Source
from features.schema import (
    CHANNEL,
    CLICKED,
    DURATION_SECONDS,
    ITEM,
    PROPENSITY,
    PUBLISHED_AT,
    SURFACE,
    TIMESTAMP,
    TOPICS,
    USER,
    WATCH_SECONDS,
)
from features.tables import Tables

IS_RANDOM = "is_rand"
ANONYMOUS = tuple(Field(f"onehot_feat{n}", f"onehot_feat{n}", "category") for n in range(18))

LOG = Part(
    "interactions",
    ("log_[sr]*.csv",),
    (
        whole_id(USER, "user_id"),
        whole_id(ITEM, "video_id"),
        Field(TIMESTAMP, "time_ms", "timestamp", required=True, unit=MILLISECONDS),
        Field(CLICKED, "is_click", "flag", required=True),
        Field(WATCH_SECONDS, "play_time_ms", "number", required=True, unit=MILLISECONDS),
        Field(DURATION_SECONDS, "duration_ms", "number", unit=MILLISECONDS),
        Field(SURFACE, "tab", "category"),
        Field(IS_RANDOM, "is_rand", "category"),
    ),
)

VIDEOS = Part(
    "items",
    ("video_features_basic_*.csv",),
    (
        whole_id(ITEM, "video_id"),
        Field(PUBLISHED_AT, "upload_dt", "timestamp"),
        Field(DURATION_SECONDS, "video_duration", "number", unit=MILLISECONDS),
        Field(CHANNEL, "author_id", "category"),
        Field(TOPICS, "tag", "categories", separator=","),
        Field("video_type", "video_type", "category"),
        Field("upload_type", "upload_type", "category"),
    ),
)

USERS = Part("users", ("user_features_*.csv",), (whole_id(USER, "user_id"), *ANONYMOUS))


def derive(parts: dict[str, ir.Table]) -> Tables:
    """Videos know their length from the log where the side table does not, and their day as
    Beijing's.
    """
    log, videos = parts["interactions"], parts.get("items")
    if videos is not None and PUBLISHED_AT in videos.columns:
        videos = videos.mutate(**{PUBLISHED_AT: beijing_midnight(videos[PUBLISHED_AT])})
    items = with_logged_durations(videos, log)
    interactions = log.drop(DURATION_SECONDS) if DURATION_SECONDS in log.columns else log
    return Tables(with_random_propensities(interactions), items=items, users=parts.get("users"))


def with_random_propensities(log: ir.Table) -> ir.Table:
    """The log, its random rows with a propensity: one in all the videos that were shown at random;
    others have none.
    """
    if IS_RANDOM not in log.columns:
        return log
    at_random = log[IS_RANDOM] == "1"
    pool = log.filter(at_random)[ITEM].nunique().as_scalar()
    return log.mutate(
        **{PROPENSITY: ibis.ifelse(at_random, 1 / pool.nullif(0), ibis.null("float64"))}
    )


def beijing_midnight(day: ir.Value) -> ir.Value:
    """The instant at which a published day, read as UTC, began in China: eight hours sooner."""
    return day - ibis.interval(hours=8)


def with_logged_durations(items: ir.Table | None, log: ir.Table) -> ir.Table | None:
    """The items, and those that only the log names, with the duration the log gives."""
    if DURATION_SECONDS not in log.columns:
        return items
    logged = (
        log.filter(log[DURATION_SECONDS].notnull())
        .group_by(ITEM)
        .agg(logged_seconds=ibis._[DURATION_SECONDS].max())
    )
    if items is None:
        return logged.rename({DURATION_SECONDS: "logged_seconds"})
    joined = with_all_items(items, logged)
    own = joined[DURATION_SECONDS] if DURATION_SECONDS in items.columns else ibis.null("float64")
    longest = ibis.coalesce(own, joined["logged_seconds"])
    return joined.mutate(**{DURATION_SECONDS: longest}).drop("logged_seconds")


def with_all_items(left: ir.Table, right: ir.Table) -> ir.Table:
    """Both tables' columns for the items of either."""
    joined = left.outer_join(right, ITEM)
    item = ibis.coalesce(joined[ITEM], joined[f"{ITEM}_right"])
    return joined.mutate(**{ITEM: item}).drop(f"{ITEM}_right")


SOURCE = Source(layouts=((LOG, VIDEOS, USERS),), derive=derive)
