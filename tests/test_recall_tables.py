"""A report's slices and generators as tables: every figure in its row, in the slices' own order."""

from io import StringIO

import pandas as pd
import pytest
from rich.console import Console

from funnel.demo.showcase import detail_tables
from funnel.evaluation.recall_tables import generator_tables, slice_tables

REPORT = {
    "run": {"seed": 0},
    "recall.hr@50": 0.5,
    "recall.hr@200/users_with_0_watches": 0.9,
    "recall.hr@50/users_with_10_to_49_watches": 0.4,
    "recall.hr@50/users_with_10_to_49_watches.popularity": 0.3,
    "recall.hr@50/users_with_1_to_9_watches": 0.2,
    "recall.hr@50/users_with_1_to_9_watches.popularity": None,
    "recall.hr@50/users_with_0_watches": None,
    "recall.users/users_with_0_watches": 0,
    "recall.users/users_with_10_to_49_watches": 1_200,
    "recall.users/users_with_1_to_9_watches": 7,
    "recall.watches/items_with_0_watches": 30,
    "recall.watches_found@50/items_with_0_watches": 0.25,
    "recall.watches_found@50/items_with_0_watches.popularity": 0.0,
    **{
        f"recall.generator_{name}@200/tower": 1.0
        for name in ("named", "hits", "unique_hits", "unique_watches")
    },
    **{
        f"recall.generator_{name}@50/new": 0.1
        for name in ("named", "hits", "unique_hits", "unique_watches")
    },
    "recall.generator_named@50/tower": 0.8,
    "recall.generator_hits@50/tower": 0.7,
    "recall.generator_unique_hits@50/tower": 0.6,
}


def frame(index: list[str], columns: dict[str, list[float | None]]) -> pd.DataFrame:
    return pd.DataFrame(columns, index=index)


def test_slices_stand_in_their_own_order_without_the_empty_ones_at_the_least_k() -> None:
    tables = slice_tables(REPORT)
    assert list(tables) == ["hr@50", "watches_found@50"]
    users = {"users": [7, 1_200], "candidates": [0.2, 0.4], "popularity": [None, 0.3]}
    pd.testing.assert_frame_equal(
        tables["hr@50"], frame(["users with 1 to 9 watches", "users with 10 to 49 watches"], users)
    )
    items = {"watches": [30], "candidates": [0.25], "popularity": [0.0]}
    pd.testing.assert_frame_equal(
        tables["watches_found@50"], frame(["items with 0 watches"], items)
    )


def test_generators_stand_by_their_hits() -> None:
    expected = frame(
        ["tower", "new"], {"named": [0.8, 0.1], "hits": [0.7, 0.1], "only it hit": [0.6, 0.1]}
    )
    (tables,) = generator_tables(REPORT).items()
    assert tables[0] == "generators@50"
    pd.testing.assert_frame_equal(tables[1], expected)


def test_a_report_without_a_holdout_or_generators_has_no_tables() -> None:
    assert slice_tables({"recall.short_lists": 3}) == {}
    assert generator_tables({"recall.hr@50": 0.5}) == {}
    assert list(detail_tables({"recall.short_lists": 3})) == []


@pytest.mark.parametrize(
    "text", ["users with 10 to 49 watches 1,200 0.400 0.300", "tower 0.800 0.700 0.600"]
)
def test_the_tables_are_printed_with_counts_and_an_empty_cell_for_null(text: str) -> None:
    console = Console(width=120, record=True, file=StringIO())
    for table in detail_tables(REPORT):
        console.print(table)
    printed = console.export_text().replace("│", " ")
    assert text in " ".join(printed.split())
    assert "nan" not in printed
