"""Benchmarks run end to end on tiny inputs, and their tables are kept as they are shown."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow.tracking import MlflowClient

from benchmarks import world
from benchmarks.recall import ablation, cost, figures, samples
from benchmarks.shared.deepmatch_peer import examples_of, fed_by, frame_of
from benchmarks.shared.logs import Log
from benchmarks.shared.options import start
from benchmarks.shared.tables import publish
from features.errors import InputError
from features.histories import histories_of, samples_of
from funnel import cli as command_line
from funnel.benchmarks import ROOT, chosen, known, run_benchmarks
from funnel.run import write_world

pytestmark = pytest.mark.slow

ROWS = [
    {"line": "first", "HR@50": 0.25, "seconds": 1234.5},
    {"line": "second", "HR@50": 0.125, "chosen": True, "seconds": float("nan")},
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('benchmarks') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 0, users=300, impressions=2_000, days=6)
    return folder


def run_of(address: str, name: str) -> Any:
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("benchmarks")
    assert experiment is not None
    (run,) = [r for r in client.search_runs([experiment.experiment_id]) if r.info.run_name == name]
    return run


def positive(rows: Sequence[dict[str, Any]], but: Sequence[str] = ()) -> bool:
    figures = {
        name: value for row in rows for name, value in row.items() if not isinstance(value, str)
    }
    return bool(rows) and all(value > 0 for name, value in figures.items() if name not in but)


def test_a_table_is_logged_as_it_is_printed(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"not drawn")
    publish("a benchmark", ROWS, address, [picture])
    said = capsys.readouterr().out
    assert all(word in said for word in ("a benchmark", "HR@50", "0.25", "1,23", "second", "cores"))
    run = run_of(address, "a benchmark")
    assert run.data.metrics == {
        "first.HR_at_50": 0.25,
        "first.seconds": 1234.5,
        "second.HR_at_50": 0.125,
    }
    assert (run.info.status, "mlflow.parentRunId" in run.data.tags) == ("FINISHED", False)
    kept = Path(MlflowClient(address).download_artifacts(run.info.run_id, "", str(tmp_path)))
    assert (kept / "picture.png").read_bytes() == b"not drawn"
    pd.testing.assert_frame_equal(
        pd.read_csv(kept / "table.csv").fillna(0), pd.DataFrame(ROWS).fillna(0), check_dtype=False
    )


def test_a_table_goes_on_with_its_run(address: str) -> None:
    publish("twice", [{"line": "a", "x": 1}], address)
    publish("twice", [{"line": "a", "x": 2}], address)
    assert run_of(address, "twice").data.metrics == {"a.x": 2.0}


def test_a_table_without_an_address_goes_where_the_environment_says_or_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    publish("here", ROWS, None)
    assert run_of(f"sqlite:///{tmp_path}/out/benchmarks/mlflow.db", "here").data.metrics
    there = f"sqlite:///{tmp_path}/there/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", there)
    publish("there", ROWS, None)
    assert run_of(there, "there").data.metrics


def test_the_cost_of_a_step_is_measured_at_every_size(address: str) -> None:
    tiny = [
        "--watches",
        "6000",
        "--warm-up",
        "2",
        "--windows",
        "2",
        "--steps",
        "2",
        "--tracking",
        address,
    ]
    rows = cost.main(["--items", "50", "400", *tiny])
    assert positive(rows)
    assert [row["training"].split(" items, ")[0] for row in rows] == ["50", "400"] * 3
    assert [row["ratio"] for row in rows if row["training"].startswith("50 ")] == [1, 1, 1]
    assert all(row["items a step"] <= int(row["training"].split()[0]) for row in rows)


def test_samples_are_measured_beside_the_peer(address: str, tmp_path: Path) -> None:
    timestamps_us = pd.to_datetime(np.arange(30_000), unit="s", utc=True)
    rng = np.random.default_rng(0)
    log = {
        "user_id": rng.integers(0, 100, 30_000),
        "item_id": rng.integers(0, 500, 30_000),
        "timestamp": timestamps_us,
    }
    pd.DataFrame(log).to_parquet(tmp_path / "interactions.parquet")
    rows = samples.main(
        ["--data", str(tmp_path), "--rows", "5000", "--runs", "1", "--tracking", address]
    )
    assert [row["builder"] for row in rows] == [
        "views",
        "views, every batch read once",
        "row by row",
        "views, 5,000 rows",
    ]
    assert [row["rows"] for row in rows] == [30_000, 30_000, 30_000, 5_000]
    assert positive(rows, but=("above the log, MB", "peer's memory, times"))
    with pytest.raises(InputError, match="there is no such file"):
        samples.main(["--data", str(tmp_path / "nowhere")])


def test_the_peer_builds_the_histories_that_the_views_show() -> None:
    users = np.repeat(np.array([1, 2, 3], np.int32), [3, 60, 1])
    items = np.arange(1, 65, dtype=np.int32)
    histories = histories_of(users, items, np.arange(64), 4)
    shown = histories.bags(users, samples_of(histories), samples.HISTORY)
    log = Log(users, items, 65)
    parts = [
        fed_by(part, log, samples.HISTORY) for part in examples_of(frame_of(log), samples.HISTORY)
    ]
    padded = np.concatenate([part["hist_movie_id"] for part in parts])
    # A first watch has no history, so that the peer makes no row of it.
    assert sorted(padded.tolist()) == sorted(shown[shown[:, 0] > 0].tolist())


def test_the_world_is_timed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "RUNS", 1)
    assert positive(world.main(["--impressions-a-day", "2000", "--tracking", address]))


def test_lines_of_the_tower_are_compared(small_world: Path, address: str) -> None:
    of = ["--source", "simulated", "--data", str(small_world), "--tracking", address]
    rows = ablation.main(
        [*of, "--only", "default", "depth 0", "--seeds", "1", "--examples", "2000"]
    )
    assert [row["line"] for row in rows] == ["default", "depth 0"]
    assert positive(rows, but=("spread HR@50", "spread NDCG@10"))
    assert rows[0] != rows[1] | {"line": "default"}


def test_the_papers_pictures_are_drawn(
    small_world: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "DEPTHS", (0, 1))
    monkeypatch.setattr(figures, "INPUTS", dict(list(figures.INPUTS.items())[-2:]))
    of = ["--source", "simulated", "--data", str(small_world), "--tracking", address]
    rows = figures.main([*of, "--examples", "2000"])
    assert [row["depth"] for row in rows] == [0, 1]
    assert positive(rows, but=("depth",))
    run = run_of(address, "figure 4: probability by item age")
    names = [file.path for file in MlflowClient(address).list_artifacts(run.info.run_id)]
    assert names == ["figure_4.png", "table.csv"]


def test_every_file_but_the_shared_ones_is_a_benchmark() -> None:
    assert {("recall", "ablation"), ("recall", "cost"), ("recall", "index"), ("world",)} <= set(
        known()
    )
    assert not [names for names in known() if names[0] == "shared"]


def test_names_choose_benchmarks_and_what_follows_is_theirs() -> None:
    assert chosen([]) == (known(), [])
    assert chosen(["recall"]) == ([names for names in known() if names[0] == "recall"], [])
    options = ["--only", "default", "--data", "x"]
    assert chosen(["recall", "ablation", *options]) == ([("recall", "ablation")], options)


def test_without_a_checkout_there_is_no_benchmark(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are: none, as .* is missing"):
        chosen(["world"], tmp_path)


def test_of_several_one_that_lacks_an_option_is_left_out_in_a_line(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run_benchmarks([("recall", "ablation"), ("recall", "samples")], ["--wings"]) == 0
    assert capfd.readouterr().err.splitlines() == [
        "ablation is left out: the following arguments are required: --data.",
        "samples is left out: unrecognized arguments: --wings.",
    ]


@pytest.mark.parametrize(
    ("option", "code", "words"), [("--wings", 2, "--wings"), ("--help", 0, "--rows")]
)
def test_a_benchmark_answers_for_its_own_options(
    option: str,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["funnel", "bench", "recall", "samples", option])
    assert _exit_code_of(command_line.main) == code
    said = capfd.readouterr()
    assert words in said.out + said.err
    assert said.err in ("", "samples is left out: unrecognized arguments: --wings.\n")


def test_a_refusal_in_a_benchmark_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refusing(_: Sequence[str]) -> None:
        raise InputError("the log is empty")

    assert _exit_code_of(lambda: start(refusing)) == 2
    assert capsys.readouterr().err == "InputError: the log is empty\n"


def _exit_code_of(program: Callable[[], None]) -> int:
    with pytest.raises(SystemExit) as ended:
        program()
    return int(ended.value.code or 0)


def test_paths_are_those_of_the_directory_the_command_is_called_in(tmp_path: Path) -> None:
    pd.DataFrame(
        {
            "user_id": [1] * 5000,
            "item_id": range(5000),
            "timestamp": pd.to_datetime(range(5000), unit="s", utc=True),
        }
    ).to_parquet(tmp_path / "interactions.parquet")
    code = "from funnel.cli import main; main()"
    options = ["--data", ".", "--rows", "2000", "--runs", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, "bench", "recall", "samples", *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "row by row" in done.stdout
    assert (tmp_path / "out" / "benchmarks" / "mlflow.db").exists()
