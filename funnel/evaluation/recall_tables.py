"""A report's slices and generators as small tables, for the eye and for pictures."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from recall.slices import items_by_age, items_by_popularity, users_by_activity

Report = Mapping[str, Any]

_NONE = np.zeros(0)
_USERS = [*users_by_activity(_NONE.astype(np.int64))]
_ITEMS = [*items_by_age(_NONE), *items_by_popularity(_NONE, _NONE > 0)]
_SHARES = {"named": "named", "hits": "hits", "unique_hits": "only it hit"}


def slice_tables(report: Report) -> dict[str, pd.DataFrame]:
    """Users' HR and the items' share of found watches by slice, at the least K that the report
    slices at.

    By metric (`hr@50`): a row a slice that is not empty; columns are its count (`users` or
    `watches`), `candidates` and `popularity`. Nothing where nothing is held out.
    """
    metrics = (("hr", "users", _USERS), ("watches_found", "watches", _ITEMS))
    tables = {
        f"{m}@{k}": _slices(report, f"{m}@{k}", n, names)
        for m, n, names in metrics
        for k in _ks(report, m)[:1]
    }
    return {metric: table for metric, table in tables.items() if len(table)}


def generator_tables(report: Report) -> dict[str, pd.DataFrame]:
    """What each generator adds, at the least K reported, as `{"generators@50": table}`; nothing
    where none are kept.

    A row a generator; columns are its shares of the places (`named`), of the hits, and of the hits
    that only it named.
    """
    return {f"generators@{k}": _generators(report, k) for k in _ks(report, "generator_named")[:1]}


def _generators(report: Report, k: int) -> pd.DataFrame:
    named = f"recall.generator_named@{k}/"
    names = [key.removeprefix(named) for key in report if key.startswith(named)]
    columns = {
        title: [report[f"recall.generator_{m}@{k}/{name}"] for name in names]
        for m, title in _SHARES.items()
    }
    return pd.DataFrame(columns, index=names, dtype=np.float64).sort_values(
        "hits", ascending=False, kind="stable"
    )


def _slices(report: Report, metric: str, counted: str, names: list[str]) -> pd.DataFrame:
    keys = [f"recall.{metric}/{name}" for name in names]
    columns = {
        counted: [report.get(f"recall.{counted}/{name}", 0) for name in names],
        "candidates": [report.get(key) for key in keys],
        "popularity": [report.get(f"{key}.popularity") for key in keys],
    }
    table = pd.DataFrame(columns, index=[name.replace("_", " ") for name in names]).astype(
        {counted: np.int64}
    )
    return table[table[counted] > 0].astype({"candidates": np.float64, "popularity": np.float64})


def _ks(report: Report, metric: str) -> list[int]:
    """The list lengths at which a report slices a metric."""
    found = (re.match(rf"recall\.{metric}@(\d+)/", key) for key in report)
    return sorted({int(match[1]) for match in found if match})
