"""KuaiRec: autoplayed short videos, every row a watch.

The big matrix is the log; the small, almost fully observed one is read only where the big one is
absent, since its exposures were forced. Daily counters of a video (shows, plays, likes) are never
taken.
"""

import ibis
import ibis.expr.types as ir

from features.data.fields import MILLISECONDS, Field, whole_id
from features.data.files import Dialect, Part, Source
from features.data.formats.kuairand import (
    ANONYMOUS,
    beijing_midnight,
    with_all_items,
    with_logged_durations,
)
from features.schema import (
    CHANNEL,
    DURATION_SECONDS,
    ITEM,
    PUBLISHED_AT,
    TIMESTAMP,
    TITLE,
    TOPICS,
    USER,
    WATCH_SECONDS,
)
from features.tables import Tables

UNKNOWN = "UNKNOWN"

LOG_FIELDS = (
    whole_id(USER, "user_id"),
    whole_id(ITEM, "video_id"),
    Field(TIMESTAMP, "timestamp", "timestamp", required=True),
    Field(WATCH_SECONDS, "play_duration", "number", required=True, unit=MILLISECONDS),
    Field(DURATION_SECONDS, "video_duration", "number", unit=MILLISECONDS),
)

VIDEOS = Part(
    "items",
    ("item_daily_features.csv",),
    (
        whole_id(ITEM, "video_id"),
        Field(PUBLISHED_AT, "upload_dt", "timestamp"),
        Field(DURATION_SECONDS, "video_duration", "number", unit=MILLISECONDS),
        Field(CHANNEL, "author_id", "category"),
        Field("video_type", "video_type", "category"),
    ),
)

TAGS = Part(
    "tags",
    ("item_categories.csv",),
    (whole_id(ITEM, "video_id"), Field(TOPICS, "feat", "text", required=True)),
)

# Some captions of the published file hold bare line ends, so that their lines do not parse.
CAPTIONS = Part(
    "captions",
    ("kuairec_caption_category.csv",),
    (
        whole_id(ITEM, "video_id"),
        Field(TITLE, "caption", "text"),
        Field("first", "first_level_category_name", "category", required=True),
        Field("second", "second_level_category_name", "category"),
        Field("third", "third_level_category_name", "category"),
    ),
    Dialect(tolerant=True),
)

USERS = Part("users", ("user_features.csv",), (whole_id(USER, "user_id"), *ANONYMOUS))
SIDES = (VIDEOS, TAGS, CAPTIONS, USERS)


def derive(parts: dict[str, ir.Table]) -> Tables:
    """Videos with the length the log gives, their captions as titles and their tags, or else the
    categories of their captions.
    """
    log, videos = parts["interactions"], parts.get("items")
    if videos is not None and PUBLISHED_AT in videos.columns:
        videos = videos.mutate(**{PUBLISHED_AT: beijing_midnight(videos[PUBLISHED_AT])})
    items = with_logged_durations(videos, log)
    for described in (_topics(parts), _titles(parts)):
        if described is not None:
            items = described if items is None else with_all_items(items, described)
    interactions = log.drop(DURATION_SECONDS) if DURATION_SECONDS in log.columns else log
    return Tables(interactions, items=items, users=parts.get("users"))


def _topics(parts: dict[str, ir.Table]) -> ir.Table | None:
    if "tags" in parts:
        tags = parts["tags"]
        listed = tags[TOPICS].re_replace(r"[\[\]\s]", "").split(",")
        return tags.select(ITEM, **{TOPICS: listed.filter(lambda tag: tag != "")})
    if "captions" in parts:
        captions = parts["captions"]
        levels = ibis.array(
            [captions[name] for name in ("first", "second", "third") if name in captions.columns]
        )
        named = levels.filter(lambda level: level.notnull() & (level != UNKNOWN))
        return captions.select(ITEM, **{TOPICS: named})
    return None


def _titles(parts: dict[str, ir.Table]) -> ir.Table | None:
    captions = parts.get("captions")
    if captions is None or TITLE not in captions.columns:
        return None
    return captions.select(ITEM, **{TITLE: captions[TITLE].nullif(UNKNOWN)})


SOURCE = Source(
    layouts=tuple(
        (Part("interactions", (name,), LOG_FIELDS), *SIDES)
        for name in ("big_matrix.csv", "small_matrix.csv")
    ),
    derive=derive,
    repeats=True,
)
