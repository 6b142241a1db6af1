"""What a person finds in MLflow after runs of the line, in a real store: whole ones, one for
nothing, failed ones.
"""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from features.errors import InputError
from funnel import airflow_tasks
from funnel.observer import STAGES, observe
from funnel.pipeline import STEPS, Observer, Request, make, request_for
from funnel.run import run_pipeline
from recall.checkpoints import Checkpoints

pytestmark = pytest.mark.slow

LONGER = "ranking.top_k=15"
RUNS = ("funnel", *STAGES)


class Store:
    """The MLflow store of the tests, read as the UI reads it."""

    def __init__(self, folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        self.address = f"sqlite:///{folder / 'mlflow.db'}"
        self.client = MlflowClient(self.address)

    def runs(self, experiment: str) -> list[Any]:
        """The runs of an experiment, oldest first; none where there is no such experiment."""
        found = self.client.get_experiment_by_name(experiment)
        order = ["attributes.start_time ASC"]
        return list(self.client.search_runs([found.experiment_id], order_by=order)) if found else []

    def count(self) -> int:
        return sum(len(self.runs(name)) for name in RUNS)

    def files(self, run: Any, folder: str) -> set[str]:
        return {file.path for file in self.client.list_artifacts(run.info.run_id, folder)}

    def curve(self, run: Any, name: str) -> list[int]:
        return [point.step for point in self.client.get_metric_history(run.info.run_id, name)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


@pytest.fixture(scope="module")
def store(
    tiny_log: Path,
    tiny_models: tuple[str, ...],
    out: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Store:
    """Two runs of the command line, the second with longer lists, and the second once more, for
    nothing.
    """
    store = Store(tmp_path_factory.mktemp("mlflow"))
    longer = (*tiny_models, LONGER)
    for overrides in (tiny_models, longer, longer):
        run_pipeline("simulated", tiny_log, out, None, overrides, store.address)
    return store


def note(run: Any) -> str:
    text: str = run.data.tags["mlflow.note.content"]
    return text


def test_each_run_of_the_line_is_one_run_a_stage_and_a_rerun_for_nothing_is_none(
    store: Store,
) -> None:
    assert {name: len(store.runs(name)) for name in RUNS} == dict.fromkeys(RUNS, 2)
    assert {run.info.status for name in RUNS for run in store.runs(name)} == {"FINISHED"}


def test_each_stage_ends_when_its_last_artefact_is_there(store: Store) -> None:
    first = [store.runs(stage)[0].info for stage in STAGES]
    for earlier, later in itertools.pairwise(first):
        assert earlier.start_time < earlier.end_time <= later.start_time
    summary = store.runs("funnel")[0].info
    assert summary.start_time <= first[0].start_time
    assert summary.end_time >= first[-1].end_time


def test_runs_are_named_by_day_source_and_what_was_changed(store: Store) -> None:
    for run in (run for name in RUNS for run in store.runs(name)):
        day, source, changed = run.info.run_name.split(" · ")
        assert day == run.data.tags["watchfunnel.run"][:10]
        assert source == run.data.tags["watchfunnel.source"] == "simulated"
        assert changed.startswith("recall.k=20, recall.dim=4, recall.depth=1, recall.width=4 and ")
        assert run.data.tags["mlflow.source.name"] == "funnel run"


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [((), "defaults"), (("recall.k=500", "seed=3"), "seed=3, recall.k=500")],
)
def test_a_name_says_what_was_changed(
    store: Store, overrides: tuple[str, ...], changed: str
) -> None:
    asked = request_for(
        "kuairand", "/data", "/home", "manual__2026-11-29T04:00:00+00:00", store.address, overrides
    )
    observer: Any = observe(asked)
    assert observer.tracker.name == f"2026-11-29 · kuairand · {changed}"


def test_the_summary_has_the_changed_settings_the_seed_the_source_and_the_split_as_params(
    store: Store, tiny_models: tuple[str, ...]
) -> None:
    first, second = (run.data.params for run in store.runs("funnel"))
    asked = {setting.split("=")[0] for setting in tiny_models}
    split = {
        f"split.{name}"
        for name in ("mode", "clock", "start", "label_start", "test_start", "test_end")
    }
    assert set(first) == asked | split | {"seed", "source"}
    assert len(first) <= 25
    assert (first["seed"], first["source"], first["recall.k"]) == ("0", "simulated", "20")
    assert pd.Timestamp(first["split.label_start"]) < pd.Timestamp(first["split.test_start"])
    assert set(second.items()) - set(first.items()) == {("ranking.top_k", "15")}


def test_two_runs_compared_have_figures_in_common_and_differ_in_what_was_changed(
    store: Store,
) -> None:
    """What MLflow's parallel plot draws: params that differ, metrics that both have."""
    first, second = (run.data for run in store.runs("ranking"))
    assert {k for k in first.params if first.params[k] != second.params[k]} == {"ranking.top_k"}
    one, other = (run.data.metrics for run in store.runs("funnel"))
    assert len(one.keys() & other.keys()) >= 15


def test_the_summary_s_metrics_are_headlines_and_all_others_are_a_table(
    store: Store, tmp_path: Path
) -> None:
    (run, _) = store.runs("funnel")
    metrics = run.data.metrics
    assert 15 <= len(metrics) <= 40
    assert {
        "funnel.hr_at_10",
        "funnel.watch_seconds_share_at_10",
        "ranking.xauc",
        "recall.hr_at_10",
    } <= set(metrics)
    assert sorted(metrics)[0].startswith("funnel.")
    assert not [name for name in metrics if "/" in name]
    table = pd.read_csv(
        store.client.download_artifacts(run.info.run_id, "report/metrics.csv", str(tmp_path))
    )
    report = json.loads(
        Path(
            store.client.download_artifacts(run.info.run_id, "report/report.json", str(tmp_path))
        ).read_text()
    )
    assert (
        len(table)
        == sum(value is not None for name, value in report.items() if name != "run")
        > 200
    )
    sliced = table[
        (table["stage"] == "ranking")
        & (table["metric"] == "mae")
        & (table["slice"] == "duration_over_60")
    ]
    assert sliced["value"].tolist() == [report["ranking.mae/duration_over_60"]]
    rival = table.query("stage == 'funnel' and metric == 'hr' and at == 10 and of == 'popularity'")
    assert rival["value"].tolist() == [report["funnel.hr@10.popularity"]]


def test_recall_and_ranking_have_their_own_headlines(store: Store) -> None:
    for stage in ("recall", "ranking"):
        named = {
            name
            for name in store.runs(stage)[0].data.metrics
            if name.startswith(("recall.", "ranking.", "funnel."))
        }
        assert named
        assert all(name.startswith(f"{stage}.") for name in named)


def test_the_summary_s_description_is_the_verdict_the_headlines_and_where_to_read_on(
    store: Store,
) -> None:
    (run, _) = store.runs("funnel")
    text = note(run)
    assert text.startswith(("Fit to serve", "Not fit to serve", "Not evaluated"))
    assert f"| funnel.hr_at_10 | {run.data.metrics['funnel.hr_at_10']:,.4g} |" in text
    for stage in STAGES:
        child = store.runs(stage)[0].info
        assert f"[{stage}](#/experiments/{child.experiment_id}/runs/{child.run_id})" in text
    assert (
        f"[report](#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/report/report.json)"
        in text
    )
    assert run.data.tags["watchfunnel.fit"] in {"True", "False", "None"}


def test_a_stage_s_description_says_what_was_made_and_leads_to_the_summary(store: Store) -> None:
    summaries, recalls = store.runs("funnel"), store.runs("recall")
    made = note(recalls[0])
    assert made.startswith("Made: `towers` in ")
    assert "| recall.hr_at_10 |" in made
    assert (
        f"[funnel](#/experiments/{summaries[0].info.experiment_id}/runs/{summaries[0].info.run_id})"
        in made
    )
    assert note(recalls[1]).startswith(
        "Up to date: `towers`, `item_vectors`, `index`, `candidates`."
    )
    assert [run.data.tags["watchfunnel.made"] for run in recalls] == [
        "towers, item_vectors, index, candidates",
        "nothing",
    ]
    root = Path(__file__).parents[1]
    assert ("watchfunnel.commit" in recalls[0].data.tags) == (root / ".git").exists()


@pytest.mark.parametrize("name", RUNS)
def test_every_run_names_its_data(store: Store, name: str) -> None:
    digests = set()
    for run in store.runs(name):
        (used,) = run.inputs.dataset_inputs
        assert used.dataset.name == "simulated"
        digests.add(used.dataset.digest)
    assert len(digests) == 1


@pytest.mark.parametrize("stage", ["ingest", "features"])
def test_the_log_s_counts_are_metrics(store: Store, tiny_log: Path, stage: str) -> None:
    log, metrics = (
        pd.read_parquet(tiny_log / "interactions.parquet"),
        store.runs(stage)[0].data.metrics,
    )
    expected = {
        "rows": len(log),
        "users": log["user_id"].nunique(),
        "items": log["item_id"].nunique(),
    }
    expected |= {"clicked_share": log["clicked"].mean(), "rejected_rows": 0}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_curves_are_by_tower_and_a_run_that_found_them_made_has_them_too(store: Store) -> None:
    for run in store.runs("recall"):
        curves = {
            name
            for name in run.data.metrics
            if name.startswith("towers.") and name != "towers.seconds"
        }
        assert curves == {
            "towers.loss/tower_0",
            "towers.loss/tower_1",
            "towers.hit_rate_at_50/tower_0",
        }
        assert store.curve(run, "towers.loss/tower_0") == [1, 2]
        assert store.curve(run, "towers.loss/tower_1") == [1, 2, 3]
    for run in store.runs("ranking"):
        assert store.curve(run, "ranker.loss") == store.curve(run, "ranker.val_loss") == [1, 2]


def test_the_report_s_pictures_are_with_the_summary_and_the_stages_theirs_with_them(
    store: Store,
) -> None:
    (run, _) = store.runs("funnel")
    pictures = {
        f"report/{name}.png"
        for name in ("waterfall", "slices", "generators", "calibration", "seconds")
    }
    assert pictures <= store.files(run, "report")
    assert "towers/loss.png" in store.files(store.runs("recall")[0], "towers")
    assert store.files(store.runs("ranking")[0], "report") == set()


def make_all(
    stages: tuple[str, ...], request: Request, tell: Callable[[str], None] = lambda _: None
) -> None:
    """The artefacts of stages, each as a task of Airflow makes it: with an observer that remembers
    nothing.
    """
    for name, step in STEPS.items():
        if step.stage in stages:
            make(name, request, tell, observe(request))


@pytest.fixture
def failed(
    tiny_log: Path,
    tiny_models: tuple[str, ...],
    out: Path,
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Store, Request, list[list[int]]]:
    """A run whose towers fail after the first was trained; which of its epochs MLflow had as each
    ended.
    """
    assert store.runs("funnel")
    shutil.copytree(out, tmp_path / "home")
    store, known = Store(tmp_path), list[list[int]]()
    changed = (*tiny_models, "recall.dim=3")
    request = request_for(
        "simulated", str(tiny_log), str(tmp_path / "home"), "2026-11-29", store.address, changed
    )

    def look(text: str) -> None:
        if text.startswith("towers: "):
            (run,) = store.runs("recall")
            assert run.info.status == "RUNNING"
            known.append(store.curve(run, "towers.loss/tower_0"))

    def fail(*_: object) -> None:
        raise MemoryError("no room for the tower")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "finish", fail)
        with pytest.raises(MemoryError):
            make_all(("ingest", "features", "recall"), request, look)
    return store, request, known


def test_a_failed_training_leaves_a_failed_run_with_its_epochs_and_a_retry_goes_on_in_it(
    failed: tuple[Store, Request, list[list[int]]],
) -> None:
    store, request, known = failed
    assert known == [[], [1]]
    status = {name: [run.info.status for run in store.runs(name)] for name in RUNS}
    done = ["FINISHED"]
    assert status == {
        "funnel": ["FAILED"],
        "ingest": done,
        "features": done,
        "recall": ["FAILED"],
        "ranking": [],
    }
    (recall,) = store.runs("recall")
    assert note(recall).startswith("Failed in `recall`: MemoryError: no room for the tower")
    assert note(store.runs("funnel")[0]).startswith("Failed in `recall`: ")
    assert store.curve(recall, "towers.loss/tower_0") == [1, 2]
    ended = {name: store.runs(name)[0].info.end_time for name in ("ingest", "features")}
    make_all(("recall",), request)
    (again,) = store.runs("recall")
    assert (again.info.run_id, again.info.status) == (recall.info.run_id, "FINISHED")
    assert [store.curve(again, f"towers.loss/tower_{n}") for n in (0, 1)] == [[1, 2], [1, 2, 3]]
    assert store.runs("funnel")[0].info.status == "RUNNING"
    assert {name: store.runs(name)[0].info.end_time for name in ended} == ended
    assert "Failed" not in note(again)


def test_airflow_s_callback_fails_the_stage_of_a_task_that_was_killed_and_no_other(
    tiny_log: Path, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    request = request_for(
        "simulated", str(tiny_log), str(tmp_path / "home"), "2026-11-29", store.address
    )
    make_all(("ingest",), request)
    observe(request).on_stage_start("features")
    assert store.runs("features")[0].info.status == "RUNNING"

    class Task:
        """As Airflow gives it to a callback."""

        dag_id, task_id = "features", "histories"

        def xcom_pull(self, task_ids: str, key: str = "return_value") -> Any:
            kept = {("request", "return_value"): request.model_dump(mode="json")}
            return kept.get((task_ids, key))

    airflow_tasks.close_as_failed({"ti": Task()})
    status = {name: store.runs(name)[0].info.status for name in ("ingest", "features", "funnel")}
    assert status == {"ingest": "FINISHED", "features": "FAILED", "funnel": "FAILED"}
    assert note(store.runs("features")[0]).startswith(
        "Failed in `features`: its process was killed"
    )


def test_a_refused_log_is_a_failed_ingest_with_the_sentence(
    tiny_log: Path, tiny_models: tuple[str, ...], tmp_path: Path
) -> None:
    store, spoilt = Store(tmp_path), tmp_path / "data"
    spoilt.mkdir()
    pd.read_parquet(tiny_log / "interactions.parquet").drop(columns="timestamp").to_parquet(
        spoilt / "interactions.parquet"
    )
    with pytest.raises(InputError):
        run_pipeline("canonical", spoilt, tmp_path / "out", None, tiny_models, store.address)
    assert {
        name: [run.info.status for run in store.runs(name)] for name in ("ingest", "features")
    } == {
        "ingest": ["FAILED"],
        "features": [],
    }
    assert "timestamp" in note(store.runs("funnel")[0])


def test_an_epoch_that_mlflow_does_not_take_ends_no_training() -> None:
    observe(request_for("simulated", "/data", "/home", "r", "nowhere")).on_epoch(
        "towers", {"tower": 0, "epoch": 1}
    )
    with pytest.raises(InputError, match="tracking address nowhere"):
        observe(request_for("simulated", "/data", "/home", "r", "nowhere")).on_stage_start("recall")


def test_without_an_address_nothing_is_observed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    silent = observe(request_for("simulated", "/data", "/home", "r"))
    assert type(silent) is Observer
    silent.on_stage_start("recall")
    silent.on_end()
    assert silent.url("recall") == ""
    assert list(tmp_path.iterdir()) == []


def test_a_task_of_airflow_leads_to_its_dag_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {
        "CTX_DAG_ID": "recall",
        "CTX_DAG_RUN_ID": "manual__2026-11-29T04:00:00+00:00",
        "_API__BASE_URL": "http://a:8080/",
    }
    for name, value in known.items():
        monkeypatch.setenv(f"AIRFLOW_{name}", value)
    store = Store(tmp_path)
    observe(request_for("simulated", "/data", "/home", "r", store.address)).on_stage_start("ingest")
    (run,) = store.runs("ingest")
    page = "http://a:8080/dags/recall/runs/manual__2026-11-29T04%3A00%3A00%2B00%3A00"
    assert f"[Airflow]({page})" in note(run)
    assert run.data.tags["mlflow.source.name"] == "Airflow, recall"
