"""`docs/features.md`, written from the catalogue of as-of features: `python -m
features.features_page`.
"""

from pathlib import Path

from features.asof_catalogue import CATALOGUE, AsOfFeature, BlockName, Entry
from features.asof_log import GROUP_KEYS

PAGE = Path(__file__).parents[1] / "docs" / "features.md"
HEAD = """# Features of the ranker

Written by `python -m features.features_page` from the catalogue in `features/asof_catalogue.py`; a
test holds it.

Every feature is point-in-time: as of the request, it counts what came strictly before. *Counted by*
is the group key whose events are counted; *needs* is what a log must know for the column to be
there. *Smoothed* rates are shrunk towards those of a larger group by a few rows. A *log ratio* is
the logarithm of a count over the count that was expected: of a user's events by what their items
had led to expect, of an item's by what its users had. A *log count* is log(1 + n). The net reads
each number by its quantile, with its square and its root (paper, section 4.1), and each category by
an embedding. `ranking.without` leaves columns out by name or pattern.
"""
BLOCKS: dict[BlockName, str] = {
    "user": "User and request: computed once a request",
    "item": "Item: computed once a candidate",
    "pair": "User x item: computed for each row",
}


def features_page() -> str:
    """The page: a table for each block, a row for each entry of the catalogue."""
    return HEAD + "".join(_table(block, title) for block, title in BLOCKS.items())


def _table(block: BlockName, title: str) -> str:
    rows = "\n".join(_row(entry) for entry in CATALOGUE if entry.block == block)
    header = "| column | counted by | unit | meaning | needs | source |\n|---|---|---|---|---|---|"
    return f"\n## {title}\n\n{header}\n{rows}\n"


def _row(entry: Entry) -> str:
    key = GROUP_KEYS[entry.group]
    parts = [
        *(["user"] if key.by_user else []),
        *([key.by_item.replace("_", " ")] if key.by_item else []),
    ]
    counted_by = " x ".join(parts) or entry.group
    needs = (
        ", ".join(sorted(need.replace("_", " ") for need in entry.needed))
        if isinstance(entry, AsOfFeature)
        else ""
    )
    unit = entry.unit or "the table's"
    return (
        f"| `{entry.name}` | {counted_by} | {unit} | {entry.meaning} | {needs} | {entry.source} |"
    )


if __name__ == "__main__":
    PAGE.write_text(features_page())
