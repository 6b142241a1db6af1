"""DeepMatch's graph and ours on a very small log: both learn it, and every line has its figures.
Nothing is timed.
"""

import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.recall import peer
from benchmarks.shared.deepmatch_peer import examples_of, fed_by, frame_of
from benchmarks.shared.logs import LAST, Log, movielens, synthetic
from benchmarks.shared.pace import Pace
from benchmarks.shared.processes import in_own_process, peak_gigabytes

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in canonical form: 60 users watch films of their parity, 20 each out of 80, in any
    order.
    """
    folder, rng = tmp_path_factory.mktemp("ml"), np.random.default_rng(0)
    films = np.concatenate([user % 2 + 2 * rng.permutation(40)[:20] for user in range(60)])
    timestamps_us = pd.to_datetime(np.tile(np.arange(20), 60), unit="s", utc=True)
    rows = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(60), 20),
            "item_id": 100 + films,
            "timestamp": timestamps_us,
        }
    )
    rows.sample(frac=1, random_state=0).to_parquet(folder / "interactions.parquet")
    users = pd.DataFrame(
        {"user_id": np.arange(60), "gender": ["F", "M"] * 30, "age": np.arange(60) // 20}
    )
    users.to_parquet(folder / "users.parquet")
    return folder


def test_our_tower_and_the_peers_are_trained_on_the_same_log(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Processes that the benchmark starts must find this checkout too.
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    )
    small = [
        "--items",
        "400",
        "--watches",
        "2000",
        "--batch",
        "32",
        "--lap",
        "10",
        "--short-lap",
        "2",
    ]
    small += [
        "--turns",
        "1",
        "--minutes",
        "2",
        "--negatives",
        "20",
        "--towers",
        "same",
        "--data",
        str(data),
    ]
    rows = peer.main([*small, "--tracking", f"sqlite:///{tmp_path / 'mlflow.db'}"])
    logs = ("MovieLens-1M", "synthetic, 400 items")
    assert [(row["log"], row["tower"]) for row in rows] == [
        (log, tower) for log in logs for tower in ("DeepMatch", "same")
    ]
    assert all(
        row["examples/s"] > 0 and row["x the peer"] > 0 and row["peak GB"] > 0.1 for row in rows
    )
    assert [row["x the peer"] for row in rows if row["tower"] == "DeepMatch"] == [1.0, 1.0]
    # 80 films, 19 of them seen: every tower finds most last watches among 50.
    assert all(row["best HR@50"] > 0.5 for row in rows[:2])
    assert all(isinstance(row["minutes to .50"], float) for row in rows[:2])
    assert all(row["best HR@50"] is None for row in rows[2:])


def test_a_log_is_read_in_the_order_of_its_users_and_instants(data: Path) -> None:
    log, rows = movielens(data), pd.read_parquet(data / "interactions.parquet")
    ordered = rows.sort_values(["user_id", "timestamp"])["item_id"].to_numpy()
    first = {film: index for index, film in enumerate(dict.fromkeys(ordered.tolist()), start=1)}
    assert log.items.tolist() == [first[film] for film in ordered.tolist()]
    assert log.timestamps_us.reshape(60, 20).tolist() == [[*range(19), LAST]] * 60
    assert log.sides["gender"].tolist() == [0, *[1, 2] * 30]
    assert (log.user_count, log.item_count) == (61, 81)


def test_a_synthetic_log_is_flat_or_steep() -> None:
    flat, steep = synthetic(1_000, 50_000, skew=0.0), synthetic(1_000, 50_000, skew=1.0)
    for log in (flat, steep):
        assert (np.diff(log.users) >= 0).all()
        assert (log.items.min() >= 1, log.items.max() <= 1_000, log.user_count) == (True, True, 501)
    most = [np.sort(np.bincount(log.items))[::-1][:10].sum() / 50_000 for log in (flat, steep)]
    # The harmonic numbers of 10 and 1,000: 2.93 / 7.49.
    assert most == pytest.approx([0.015, 0.391], abs=0.01)


def test_the_peers_examples_are_all_watches_but_the_first_newest_first() -> None:
    log = Log(np.array([1, 1, 1, 1, 2], np.int32), np.array([5, 6, 7, 8, 5], np.int32), 9)
    train, test = examples_of(frame_of(log), 2)
    assert sorted(train) == [(1, [5], 6, 1, 1), (1, [6, 5], 7, 1, 2)]
    assert test == [(1, [7, 6, 5], 8, 1, 2)]
    assert fed_by(test, log, 2)["hist_movie_id"].tolist() == [[7, 6]]


def test_hit_rate_leaves_out_what_was_watched_and_nobody() -> None:
    # Item i scores i, so 50 unwatched items stand above item 30, and 49 once one of them has been
    # watched.
    items = np.arange(81, dtype=np.float32)[:, None]
    watches = np.array([1, 30, 80, 30, 31, 32], np.int32)
    log = Log(np.array([1, 1, 2, 2, 3, 3], np.int32), watches, 81)
    assert peer.hit_rate(log, np.ones((3, 1), np.float32), items) == pytest.approx(2 / 3)
    # The other way round 49 stand above item 50, and nobody, whose score is the highest, is none of
    # them.
    log = Log(np.array([1, 1], np.int32), np.array([80, 50], np.int32), 81)
    assert peer.hit_rate(log, -np.ones((1, 1), np.float32), items) == 1.0


def test_the_clock_stands_while_training_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def validator() -> float:
        now[0] += 1_000
        return now[0] / 4_000

    pace = Pace(lap=2, validator=validator, target=0.5, every=2).start()
    ended = []
    for seconds in (9, 9, 1, 1, 1, 1, 3, 3):
        now[0] += seconds
        ended.append(pace.step(10))
    assert (pace.times, pace.reached, ended) == ([18, 2, 2, 6], True, [False] * 7 + [True])
    assert (pace.examples_per_second, pace.trained_minutes) == (10.0, 28 / 60)


def test_training_ends_after_its_minutes_or_laps() -> None:
    assert Pace(lap=1).start(minutes=0).step(1)
    short = Pace(lap=1).start(laps=2)
    assert [short.step(1), short.step(1)] == [False, True]


def test_a_process_of_its_own_counts_its_own_memory() -> None:
    held = np.ones(100_000_000, np.uint8)
    assert in_own_process(peak_gigabytes) < peak_gigabytes()
    assert held.nbytes == 100_000_000
