"""What items are called, for people: ids mean nothing to who reads a list."""

from collections.abc import Collection
from typing import Any

import pyarrow.parquet as pq

from features.schema import ITEM, TITLE
from funnel.store import Store


def titles_of(store: Store, items: Collection[Any]) -> dict[Any, str]:
    """The titles of raw item ids, each as one printable line; items without a title are left out.

    Empty where the log has no titles, or its artefacts are no longer there.
    """
    if "interactions" not in store.versions():
        return {}
    path = store.path("interactions") / "items.parquet"
    if not path.exists() or TITLE not in pq.read_schema(path).names:
        return {}
    rows = pq.read_table(path, columns=[ITEM, TITLE], filters=[(ITEM, "in", list(items))])
    lines = [_line(title) for title in rows[TITLE].to_pylist()]
    return {item: line for item, line in zip(rows[ITEM].to_pylist(), lines, strict=True) if line}


def _line(title: str | None) -> str:
    """A title without line ends and without what would steer a terminal."""
    kept = "".join(sign if sign.isprintable() else " " for sign in title or "")
    return " ".join(kept.split())
