"""The index benchmark, run on catalogues so small that it takes a second."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FILE = Path(__file__).parents[1] / "benchmarks" / "recall" / "index.py"


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("index_benchmark", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_benchmark_prints_a_table_and_returns_its_rows(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = bench.main(["--items", "500", "2000", "--spread", "0.2", "--k", "10"])
    assert [row["kind"] for row in rows if row["items"] == 500] == ["exact"]
    assert {row["kind"] for row in rows if row["items"] == 2000} == {"exact", "pq", "ivf", "hnsw"}
    assert [(row["items"], row["kind"]) for row in rows if row["auto"]] == [(500, "exact"), (2000, "exact")]
    assert "overlap@10" in capsys.readouterr().out


def test_its_worlds_are_repeatable_and_their_lengths_vary(bench: Any) -> None:
    (items, queries), (again, _) = bench.world(3000, 0.5), bench.world(3000, 0.5)
    np.testing.assert_array_equal(items, again)
    assert (items.shape, queries.shape) == ((3001, 64), (2000, 64))
    lengths = np.linalg.norm(items, axis=1)
    assert 0.15 < lengths.std() / lengths.mean() < 0.4
