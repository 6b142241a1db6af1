"""The index benchmark, run on catalogues so small that it takes a second."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench() -> Any:
    return importlib.import_module("benchmarks.recall.index")


def test_the_benchmark_prints_a_table_and_returns_its_rows(
    bench: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    rows = bench.main(
        ["--items", "500", "2000", "--spread", "0.2", "--k", "10", "--tracking", tracking]
    )
    assert [row["kind"] for row in rows if row["items"] == 500] == ["exact"]
    assert {row["kind"] for row in rows if row["items"] == 2000} == {"exact", "pq", "ivf"}
    assert [(row["items"], row["kind"]) for row in rows if row["auto"]] == [
        (500, "exact"),
        (2000, "exact"),
    ]
    assert "overlap@10" in capsys.readouterr().out


def test_its_worlds_are_repeatable_and_their_lengths_vary(bench: Any) -> None:
    (items, queries), (again, _) = bench.world(3000, 0.5), bench.world(3000, 0.5)
    np.testing.assert_array_equal(items, again)
    assert (items.shape, queries.shape) == ((3001, 64), (2000, 64))
    lengths = np.linalg.norm(items, axis=1)
    assert 0.15 < lengths.std() / lengths.mean() < 0.4
