"""DeepMatch's graph and ours on a very small log: both learn it, and every line has its figures. Nothing is timed."""

import importlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in canonical form: 60 users watch films of their parity, 20 each out of 80, in any order."""
    folder, rng = tmp_path_factory.mktemp("ml"), np.random.default_rng(0)
    films = np.concatenate([user % 2 + 2 * rng.permutation(40)[:20] for user in range(60)])
    instants = pd.to_datetime(np.tile(np.arange(20), 60), unit="s", utc=True)
    rows = pd.DataFrame({"user_id": np.repeat(np.arange(60), 20), "item_id": 100 + films, "timestamp": instants})
    rows.sample(frac=1, random_state=0).to_parquet(folder / "interactions.parquet")
    users = pd.DataFrame({"user_id": np.arange(60), "gender": ["F", "M"] * 30, "age": np.arange(60) // 20})
    users.to_parquet(folder / "users.parquet")
    return folder


def test_our_tower_and_the_peers_are_trained_on_the_same_log(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes that the benchmark starts must find this checkout too.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    small = ["--items", "400", "--watches", "2000", "--batch", "32", "--lap", "10", "--short-lap", "2"]
    small += ["--minutes", "0.05", "--negatives", "20", "--towers", "same", "--data", str(data)]
    main = importlib.import_module("benchmarks.recall.peer").main
    rows = main([*small, "--tracking", f"sqlite:///{tmp_path / 'mlflow.db'}"])
    logs = ("MovieLens-1M", "synthetic, 400 items")
    assert [(row["log"], row["tower"]) for row in rows] == [
        (log, tower) for log in logs for tower in ("DeepMatch", "same")
    ]
    assert all(row["examples/s"] > 0 and row["x the peer"] > 0 and row["peak GB"] > 0.1 for row in rows)
    assert [row["x the peer"] for row in rows if row["tower"] == "DeepMatch"] == [1.0, 1.0]
    # 80 films, 19 of them seen: every tower finds most last watches among 50.
    assert all(row["best HR@50"] > 0.5 for row in rows[:2])
    assert all(isinstance(row["minutes to .50"], float) for row in rows[:2])
    assert all(row["best HR@50"] is None for row in rows[2:])
