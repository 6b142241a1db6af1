"""A news feed's impressions with reading seconds: three tab separated files without header
lines.
"""

from typing import cast

import ibis
import ibis.expr.types as ir

from features.data.fields import MILLISECONDS, Field
from features.data.files import Dialect, Part, Source
from features.schema import (
    AGE,
    CLICKED,
    DEVICE,
    GENDER,
    ITEM,
    POSITION,
    PUBLISHED_AT,
    REGION,
    TIMESTAMP,
    TITLE,
    TOPICS,
    USER,
    WATCH_SECONDS,
)
from features.tables import Tables


def _tabs(*names: str) -> Dialect:
    return Dialect("\t", "", names)


IMPRESSIONS = Part(
    "interactions",
    ("train_data.txt",),
    (
        Field(USER, "user", "id", required=True),
        Field(ITEM, "article", "id", required=True),
        Field(TIMESTAMP, "exposure time", "timestamp", required=True, unit=MILLISECONDS),
        Field("network", "network", "category"),
        Field("refresh", "refresh", "number"),
        Field(POSITION, "position", "number"),
        Field(CLICKED, "click", "flag", required=True),
        Field(WATCH_SECONDS, "duration", "number", required=True),
    ),
    _tabs(
        "user", "article", "exposure time", "network", "refresh", "position", "click", "duration"
    ),
)

READERS = Part(
    "users",
    ("user_info.txt",),
    (
        Field(USER, "user", "id", required=True),
        Field(DEVICE, "device", "category"),
        Field("os", "os", "category"),
        Field(REGION, "province", "category"),
        Field("city", "city", "category"),
        Field(AGE, "age", "text"),
        Field(GENDER, "gender", "text"),
    ),
    _tabs("user", "device", "os", "province", "city", "age", "gender"),
)

# The picture count of the published file holds stray words and no model asks for it.
ARTICLES = Part(
    "items",
    ("doc_info.txt",),
    (
        Field(ITEM, "article", "id", required=True),
        Field(TITLE, "title", "text"),
        Field(PUBLISHED_AT, "publish time", "timestamp", unit=MILLISECONDS),
        Field("category", "category", "text"),
        Field("subcategory", "subcategory", "text"),
    ),
    _tabs("article", "title", "publish time", "pictures", "category", "subcategory", "keywords"),
)


def derive(parts: dict[str, ir.Table]) -> Tables:
    """Readers' likeliest gender and the lower end of their likeliest age bracket; categories as
    topics.
    """
    users, items = parts.get("users"), parts.get("items")
    if users is not None:
        bracket = likeliest(users[AGE]).re_extract(r"(\d+)", 1).nullif("")
        users = users.mutate(**{AGE: bracket.try_cast("float64"), GENDER: likeliest(users[GENDER])})
    if items is not None:
        items = items.mutate(**{TOPICS: _topics(items)}).drop("category", "subcategory")
    return Tables(parts["interactions"], items=items, users=users)


def likeliest(text: ir.Value) -> ir.StringValue:
    """The label of the highest share in "female:0.05,male:0.95", the first of equals; other text as
    it is.
    """
    shares = cast(ir.StringValue, text)
    labels = shares.split(",")
    highest = labels.map(_share).maxs()
    best = labels.filter(lambda label: _share(label) == highest)[0].split(":")[0]
    return cast(ir.StringValue, ibis.ifelse(shares.contains(":"), best, shares))


def _share(label: ir.Value) -> ir.Value:
    return cast(ir.StringValue, label).split(":")[1].try_cast("float64")


def _topics(items: ir.Table) -> ir.Value:
    both = ibis.array([items["category"], items["subcategory"].nullif(items["category"])])
    return both.filter(lambda topic: topic.notnull())


SOURCE = Source(layouts=((IMPRESSIONS, READERS, ARTICLES),), derive=derive)
