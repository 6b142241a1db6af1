"""Titles: out of a published file, beside the id in what is printed, and never as markup."""

import io
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from features.config import CleaningConfig
from features.data.ingest import ingest
from features.split import Split
from funnel import run
from funnel.demo import showcase
from funnel.store import ArtefactKey, Store
from funnel.titles import titles_of

ML_100K = Path(__file__).parents[2] / "shared" / "data" / "ml-100k"
CLICKS = "user_id,item_id,timestamp\n5,70,2024-05-01\n5,80,2024-05-02\n6,70,2024-05-03\n"
TITLES = "item_id,title,topics\n70,[red]Dr. No[/] :cat:,spies\n80,,\n"


def kept(home: Path, name: str, write: Callable[[Path], object]) -> None:
    """An artefact in the store of a home."""

    def written(out: Path) -> None:
        write(out)

    Store(home / "artefacts").make(ArtefactKey(name, {}, "", {}), written)


def ingested(home: Path, source: str, data: Path) -> Store:
    """A store that holds the cleaned log of a folder."""
    now = datetime.now(UTC)
    kept(home, "interactions", lambda out: ingest(source, data, out, CleaningConfig(), now))
    return Store(home / "artefacts")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "interactions.csv").write_text(CLICKS)
    (folder / "items.csv").write_text(TITLES)
    return folder


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    """What commands print to, wide enough for whole lines."""
    console = Console(record=True, width=160, file=io.StringIO())
    monkeypatch.setattr(run, "CONSOLE", console)
    return console


def lists(home: Path) -> None:
    """Lists of user 5: item 80, then item 70."""
    columns = {"user_id": [5, 5], "item_id": [70, 80], "rank": [2, 1], "score": [1.0, 2.0]}
    numbers = {"expected_seconds": [12.0, 2.5], "chance": [0.001, 0.25]}
    table = pa.table(columns | numbers | {"unit": ["seconds"] * 2})
    pq.write_table(table, home / "recommendations.parquet")


def cells(console: Console) -> list[list[str]]:
    """The cells of each row of the tables that were printed."""
    lines = console.export_text(clear=False).splitlines()
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]


def test_recommend_prints_the_title_beside_the_id_as_it_stands(
    tmp_path: Path, data: Path, console: Console
) -> None:
    ingested(tmp_path, "canonical", data)
    lists(tmp_path)
    run.print_recommendations("5", tmp_path)
    assert cells(console) == [
        ["1", "80", "", "2.50", "25.00%"],
        ["2", "70", "[red]Dr. No[/] :cat:", "12.00", "0.10%"],
    ]
    assert "title" in console.export_text()


@pytest.mark.parametrize("with_store", [True, False])
def test_a_log_without_titles_prints_no_such_column(
    tmp_path: Path, data: Path, console: Console, with_store: bool
) -> None:
    (data / "items.csv").unlink()
    if with_store:
        ingested(tmp_path, "canonical", data)
    lists(tmp_path)
    run.print_recommendations("5", tmp_path)
    assert cells(console) == [["1", "80", "2.50", "25.00%"], ["2", "70", "12.00", "0.10%"]]
    assert "title" not in console.export_text()


@pytest.mark.parametrize(
    ("titles", "watched", "offered"),
    [
        (TITLES, "70  [red]Dr. No[/] :cat:", "80"),
        ("item_id,topics\n70,spies|sea\n80,snow\n", "70  spies, sea", "80  snow"),
        ("item_id\n70\n80\n", "70", "80"),
    ],
)
def test_the_report_shows_titles_else_topics_else_the_id_alone(
    tmp_path: Path, data: Path, console: Console, titles: str, watched: str, offered: str
) -> None:
    (data / "items.csv").write_text(titles)
    store = ingested(tmp_path, "canonical", data)
    kept(tmp_path, "recommendations", lists)
    day = pd.Timestamp("2024-05-02", tz="UTC").value // 1_000
    split = Split(
        mode="time", clock="time", start=0, label_start=1, test_start=day, test_end=day + 1
    )
    kept(tmp_path, "split", split.save)
    for table in showcase.user_tables(store):
        console.print(table)
    first, second = cells(console)
    assert [first[0], first[2], second[2]] == [watched, offered, watched]


def test_a_title_is_one_printable_line(tmp_path: Path, data: Path) -> None:
    (data / "items.csv").write_text('item_id,title\n70,"two\nlines \x1b[31m\t!"\n80," "\n')
    assert titles_of(ingested(tmp_path, "canonical", data), [70, 80, 90]) == {
        70: "two lines [31m !"
    }


@pytest.mark.skipif(not ML_100K.is_dir(), reason="the real log ml-100k is not on this machine")
def test_the_titles_of_the_real_movielens_are_printed(tmp_path: Path, console: Console) -> None:
    store = ingested(tmp_path, "recbole", ML_100K)
    assert titles_of(store, [1, 2]) == {1: "Toy Story", 2: "GoldenEye"}
    columns = {"user_id": [5], "item_id": [2], "rank": [1], "expected_seconds": [0.5]}
    table = pa.table(columns | {"chance": [0.5], "unit": ["watches"]})
    pq.write_table(table, tmp_path / "recommendations.parquet")
    run.print_recommendations("5", tmp_path)
    assert cells(console) == [["1", "2", "GoldenEye", "0.50", "50.00%"]]
