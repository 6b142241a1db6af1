"""MovieLens 1M (.dat), 100K (u.*) and 25M or latest (.csv): every rating is a watch, its length
unknown.
"""

import ibis
import ibis.expr.types as ir

from features.data.fields import Field, whole_id
from features.data.files import COMMA, Dialect, Part, Source
from features.schema import AGE, GENDER, ITEM, PUBLISHED_AT, REGION, TIMESTAMP, TITLE, TOPICS, USER
from features.tables import Tables

RATING = ("user", "item", "rating", "timestamp")
UNLISTED = "(no genres listed)"
GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
# The published .dat and u.* files are Latin-1 and quote nothing.
COLONS, TABS, BARS = (Dialect(delimiter, "", encoding="latin-1") for delimiter in ("::", "\t", "|"))


def _named(dialect: Dialect, *names: str) -> Dialect:
    return Dialect(dialect.delimiter, dialect.quote, names, dialect.encoding)


def _log(pattern: str, dialect: Dialect, user: str = "user", item: str = "item") -> Part:
    when = Field(TIMESTAMP, "timestamp", "timestamp", required=True)
    return Part(
        "interactions", (pattern,), (whole_id(USER, user), whole_id(ITEM, item), when), dialect
    )


def _films(pattern: str, dialect: Dialect, item: str = "item") -> Part:
    named = (Field(TITLE, "title", "text"), Field(TOPICS, "genres", "categories"))
    return Part("items", (pattern,), (whole_id(ITEM, item), *named), dialect)


def _viewers(pattern: str, dialect: Dialect) -> Part:
    known = (
        Field(GENDER, "gender", "category"),
        Field(AGE, "age", "number"),
        Field("occupation", "occupation", "category"),
        Field(REGION, "zip", "category"),
    )
    return Part("users", (pattern,), (whole_id(USER, "user"), *known), dialect)


ONE_MILLION = (
    _log("ratings.dat", _named(COLONS, *RATING)),
    _films("movies.dat", _named(COLONS, "item", "title", "genres")),
    _viewers("users.dat", _named(COLONS, "user", "gender", "age", "occupation", "zip")),
)

HUNDRED_THOUSAND = (
    _log("u.data", _named(TABS, *RATING)),
    Part(
        "items",
        ("u.item",),
        (
            whole_id(ITEM, "item"),
            Field(TITLE, "title", "text"),
            *(Field(genre, genre, "flag") for genre in GENRES),
        ),
        _named(BARS, "item", "title", "released", "video_released", "url", *GENRES),
    ),
    _viewers("u.user", _named(BARS, "user", "age", "gender", "occupation", "zip")),
)

LATEST = (
    _log("ratings.csv", COMMA, "userId", "movieId"),
    _films("movies.csv", COMMA, "movieId"),
)


def derive(parts: dict[str, ir.Table]) -> Tables:
    """Films with the year of their title as 1 January, and their genres as topics."""
    films = parts.get("items")
    if films is not None:
        if TOPICS not in films.columns:
            films = _with_flagged_genres(films)
        listed = films[TOPICS].filter(lambda genre: ~genre.isin([UNLISTED, "unknown"]))
        year = films[TITLE].re_extract(r"\((\d{4})\)\s*$", 1)
        films = films.mutate(**{TOPICS: listed, PUBLISHED_AT: year_start(year)})
    return Tables(parts["interactions"], items=films, users=parts.get("users"))


def year_start(year: ir.Value) -> ir.Value:
    """1 January, 0:00 UTC, of a year in text; null where it is no year."""
    return (year.cast("string") + "-01-01").try_cast("timestamp('UTC')")


def _with_flagged_genres(films: ir.Table) -> ir.Table:
    flagged = ibis.array(
        [ibis.ifelse(films[genre], genre, ibis.null("string")) for genre in GENRES]
    )
    return films.mutate(**{TOPICS: flagged.filter(lambda genre: genre.notnull())}).drop(*GENRES)


SOURCE = Source(layouts=(ONE_MILLION, HUNDRED_THOUSAND, LATEST), derive=derive)
