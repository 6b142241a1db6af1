"""What a run came to, for the eye: the metrics, and three users' histories beside their
recommendations.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from features.schema import (
    EXPECTED_SECONDS,
    ITEM,
    RANK,
    TIMESTAMP,
    TOPICS,
    UNIT,
    USER,
    WATCH_SECONDS,
)
from features.split import Split
from funnel.evaluation.recall_tables import generator_tables, slice_tables
from funnel.headline import HEADLINES
from funnel.store import Store, store_in
from funnel.titles import titles_of

USERS_SHOWN, ROWS_SHOWN = 3, 5
BASELINES = ("recall", "popularity", "item_knn", "ease", "item_mean", "oracle")


def show(home: Path, console: Console) -> None:
    """Print the metrics to look at first and three users; InputError where the pipeline has not
    been run.
    """
    store = store_in(home)
    report = store.path("report") / "report.json"
    metrics = json.loads(report.read_text())
    console.print(metrics["run"]["verdict"]["sentence"], soft_wrap=True, highlight=False)
    if metrics["run"]["config"]["split"]["mode"] != "none":
        console.print(metrics_table(metrics))
        for table in detail_tables(metrics):
            console.print(table)
    console.print(f"Every metric: {report}", soft_wrap=True)
    for table in user_tables(store):
        console.print(table)


def metrics_table(report: Mapping[str, Any]) -> Table:
    """The metrics to look at first, beside those of recall alone and of the baselines."""
    values = dict(_numbers(report))
    baselines = [
        name for name in BASELINES if any(f"{metric}.{name}" in values for metric in HEADLINES)
    ]
    headings = ("metric", "funnel", *(name.replace("_", " ") for name in baselines))
    table = Table(*headings, title="On the test window", title_justify="left")
    for metric in (metric for metric in HEADLINES if metric in values):
        cells = [
            values.get(name)
            for name in (metric, *(f"{metric}.{baseline}" for baseline in baselines))
        ]
        table.add_row(metric, *("" if cell is None else f"{cell:,.3f}" for cell in cells))
    return table


def detail_tables(report: Mapping[str, Any]) -> Iterator[Table]:
    """The candidates slice by slice beside popularity, and what each generator adds to them."""
    for name, table in (slice_tables(report) | generator_tables(report)).items():
        yield _shares_table(f"Candidates: {name.replace('_', ' ')}", table)


def user_tables(store: Store) -> Iterator[Table]:
    """For each of three users: the last watches before the lists were made, beside the first
    recommendations.
    """
    lists = pd.read_parquet(store.path("recommendations") / "recommendations.parquet")
    topics = _topics(store)
    for user in _busiest(store, lists):
        watched = _watches(store, [user]).tail(ROWS_SHOWN)
        offered = lists[lists[USER] == user].sort_values(RANK).head(ROWS_SHOWN)
        titles = titles_of(store, [*watched[ITEM], *offered[ITEM]])
        yield _user_table(user, watched, offered, topics | titles)


def _shares_table(title: str, frame: pd.DataFrame) -> Table:
    table = Table("", *map(str, frame.columns), title=title, title_justify="left")
    for name, *cells in frame.itertuples():
        table.add_row(
            str(name), *(f"{cell:,}" if isinstance(cell, int) else _text(cell) for cell in cells)
        )
    return table


def _text(share: float) -> str:
    return "" if pd.isna(share) else f"{share:.3f}"


def _numbers(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in report.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{name}", value


def _busiest(store: Store, lists: pd.DataFrame) -> list[Any]:
    """The users with lists who have watched most; equals in the order of their ids."""
    watches = _watches(store, lists[USER].unique().tolist())
    counts = watches[USER].value_counts().rename_axis(USER).reset_index(name="watches")
    return list(
        counts.sort_values(["watches", USER], ascending=[False, True])[USER].head(USERS_SHOWN)
    )


def _watches(store: Store, users: list[Any]) -> pd.DataFrame:
    """The completed watches of some users that lay before the lists were made, in time order."""
    split = Split.load(store.path("split"))
    filters = [("completed", "==", True), (USER, "in", users)]
    columns = [USER, ITEM, TIMESTAMP, WATCH_SECONDS]
    rows = pd.read_parquet(
        store.path("interactions") / "interactions.parquet", columns=columns, filters=filters
    )
    if split.clock == "time":
        return rows[rows[TIMESTAMP] < pd.Timestamp(split.test_start, unit="us", tz="UTC")]
    return rows[rows.groupby(USER).cumcount(ascending=False) >= (1 if split.mode == "last" else 0)]


def _topics(store: Store) -> dict[Any, str]:
    """What an item is about, in a few words, where the catalogue says."""
    path = store.path("interactions") / "items.parquet"
    if not path.exists() or TOPICS not in pq.read_schema(path).names:
        return {}
    items = pd.read_parquet(path, columns=[ITEM, TOPICS])
    words = items[TOPICS].map(lambda topics: "" if topics is None else ", ".join(map(str, topics)))
    return dict(zip(items[ITEM], words, strict=True))


def _user_table(
    user: Any, watched: pd.DataFrame, offered: pd.DataFrame, words: Mapping[Any, str]
) -> Table:
    """A user's last watches beside the first recommendations, each item with its words."""
    seconds = UNIT not in offered or (offered[UNIT] == "seconds").all()
    title = "expected minutes" if seconds else "watch probability"
    table = Table(title=Text(f"User {user}"), title_justify="left")
    for heading in ("watched last", "minutes", "recommended", title):
        table.add_column(heading, no_wrap=True)
    scores = offered[EXPECTED_SECONDS] / 60 if seconds else offered[EXPECTED_SECONDS]
    left = _cells(watched[ITEM], watched[WATCH_SECONDS] / 60, words)
    right = _cells(offered[ITEM], scores, words)
    for (watch, minutes), (item, score) in zip_longest(left, right, fillvalue=(Text(""), "")):
        table.add_row(watch, minutes, item, score)
    return table


def _cells(
    items: Iterable[Any], numbers: Iterable[float], words: Mapping[Any, str]
) -> list[tuple[Text, str]]:
    # As text: brackets in a name are no markup.
    return [
        (
            Text(f"{item}  {words.get(item, '')}".strip()),
            "" if pd.isna(number) else f"{number:.2f}",
        )
        for item, number in zip(items, numbers, strict=True)
    ]
