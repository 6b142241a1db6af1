"""RecBole's atomic files: tab separated, `name:type` headers; every line of the .inter file is a
watch.
"""

import ibis.expr.types as ir

from features.data.fields import Field, same
from features.data.files import Dialect, Part, Source
from features.data.formats.movielens import year_start
from features.schema import (
    AGE,
    CHANNEL,
    COUNTRY,
    GENDER,
    ITEM,
    LANGUAGE,
    PUBLISHED_AT,
    REGION,
    TIMESTAMP,
    TITLE,
    TOPICS,
    USER,
)
from features.tables import Tables

ATOMIC = Dialect("\t", "", typed_header=True)
LISTS = ("class", "genre", "genres", "categories", "category", "topics")
YEAR = "release_year"
TITLES = ("movie_title", "title", "item_name")


def derive(parts: dict[str, ir.Table]) -> Tables:
    """The atomic files as they are; a release year becomes 1 January of it."""
    items = parts.get("items")
    if items is not None and YEAR in items.columns:
        published = {} if PUBLISHED_AT in items.columns else {PUBLISHED_AT: year_start(items[YEAR])}
        items = items.mutate(**published).drop(YEAR)
    return Tables(parts["interactions"], items=items, users=parts.get("users"))


SOURCE = Source(
    derive=derive,
    layouts=(
        (
            Part(
                "interactions",
                ("*.inter",),
                (
                    same(USER, "id", True),
                    same(ITEM, "id", True),
                    same(TIMESTAMP, "timestamp", True),
                ),
                ATOMIC,
            ),
            Part(
                "items",
                ("*.item",),
                (
                    same(ITEM, "id", True),
                    same(PUBLISHED_AT, "timestamp"),
                    same(YEAR, "category"),
                    same(CHANNEL, "category"),
                    *(Field(TOPICS, name, "categories", separator=" ") for name in LISTS),
                    *(Field(TITLE, name, "text") for name in TITLES),
                ),
                ATOMIC,
            ),
            Part(
                "users",
                ("*.user",),
                (
                    same(USER, "id", True),
                    same(AGE, "number"),
                    same(GENDER, "category"),
                    same(COUNTRY, "category"),
                    same(LANGUAGE, "category"),
                    same("occupation", "category"),
                    same(REGION, "category"),
                    Field(REGION, "zip_code", "category"),
                ),
                ATOMIC,
            ),
        ),
    ),
)
