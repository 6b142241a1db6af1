"""The DAGs: what they look like once parsed, and the whole chain run by Airflow itself on a small
world, twice.

Airflow keeps its settings for a process's life, so each part runs in a process of its own that
answers in JSON.
"""

import ast
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from features.simulation.simulated_log import simulate, write
from features.simulation.world import WorldConfig
from funnel import airflow_tasks
from funnel.airflow_form import FIELDS
from funnel.demo import showcase
from funnel.maintenance.chores import CHORES
from funnel.pipeline import STEPS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DAGS = ROOT / "dags"
STAGES = ("ingest", "features", "recall", "ranking")
CHAINED = (*STAGES, "serving")
HEAVY = {
    "tensorflow",
    "keras",
    "deepctr",
    "deepmatch",
    "faiss",
    "mlflow",
    "pandas",
    "ibis",
    "duckdb",
    "pyarrow",
}
SMALL = (
    *("recall.epochs=1", "recall.dim=8", "recall.depth=1", "recall.width=16"),
    *("ranking.epochs=1", "ranking.hidden=[16]"),
)

PARSE = """
import json, sys, time
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
import airflow.sdk.bases.operator
before, began = set(sys.modules), time.monotonic()
bag = DagBag(sys.argv[1])
seconds = time.monotonic() - began
def task(t):
    rules = t.retry_policy.serialize()["rules"] if t.retry_policy else []
    return {"upstream": sorted(t.get_flat_relative_ids(upstream=True)), "owner": t.owner, "retries": t.retries,
            "doc": t.doc_md, "one": t.max_active_tis_per_dag, "backoff": t.retry_exponential_backoff,
            "callbacks": [c.__name__ for c in t.on_failure_callback or []], "rules": rules,
            "weight": t.priority_weight, "pool": t.pool,
            "hours": t.execution_timeout.total_seconds() / 3600, "inlets": [a.name for a in t.inlets],
            "outlets": [(a.name, a.uri, a.group) for a in t.outlets]}
def dag(d):
    listed, assets = isinstance(d.schedule, list), []
    clock = None if listed else getattr(d.schedule, "expression", None)
    if listed:
        assets = d.schedule
    elif clock is None:
        assets, clock = d.schedule.asset_condition.objects, d.schedule.timetable.expression
    schedule = {"assets": [a.name for a in assets], "clock": clock}
    params = {name: {"value": d.params[name], "schema": d.params.get_param(name).schema} for name in d.params}
    return {"tasks": {t.task_id: task(t) for t in d.tasks}, "doc": d.doc_md, "tags": sorted(d.tags), "params": params,
            "at_once": d.max_active_tasks, "file": d.fileloc, "runs": d.max_active_runs, "catchup": d.catchup, "schedule": schedule,
            "on_failure": [c.__name__ for c in d.on_failure_callback], "title": d.dag_display_name,
            "description": d.description, "hours": d.dagrun_timeout.total_seconds() / 3600}
print(json.dumps({"errors": bag.import_errors, "seconds": seconds, "modules": sorted({m.split(".")[0]
      for m in set(sys.modules) - before}), "dags": {name: dag(d) for name, d in bag.dags.items()}}))
"""

CHAIN = """
import json, os, pathlib, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.utils.session import create_session
from sqlalchemy import text as sql
bag = DagBag(sys.argv[1])
def events():
    with create_session() as session:
        found = session.query(AssetEvent).order_by(AssetEvent.id)
        return [{"dag": e.source_dag_id, "run": e.source_run_id, "extra": e.extra} for e in found]
def run(name, **params):
    done = bag.dags[name].test(run_conf=params)
    tasks = {t.task_id: {"state": t.state, "tries": t.try_number, "returned": t.xcom_pull(task_ids=t.task_id)}
             for t in done.get_task_instances()}
    return {"state": done.state, "run": done.run_id, "tasks": tasks}
params = json.loads(sys.argv[2])
answer = {"early": run("features")}
answer["first"] = {"ingest": run("ingest", **params)} | {n: run(n) for n in ("features", "recall", "ranking")}
(report,) = pathlib.Path(os.environ["WATCHFUNNEL_HOME"]).glob("artefacts/report/*/report.json")
text, stamp = report.read_text(), report.stat().st_mtime_ns
def say_fit(fit):
    said = json.loads(text)
    said["run"]["verdict"]["fit"] = fit
    report.write_text(json.dumps(said))
say_fit(False)
answer["unfit"] = run("serving")
# Models as small as these are behind popularity: nothing is claimed of them.
say_fit(None)
answer["first"]["serving"] = run("serving")
report.write_text(text)
os.utime(report, ns=(stamp, stamp))
answer["events"] = events()
answer["second"] = run("ingest", **params)
answer["alone"] = run("ranking")
answer["refused"] = run("ingest", **params | {"source": "kuairand"})
answer["waited"] = run("ingest", **params | {"data": "/no/such/folder"})
answer["events_after"] = events()
with create_session() as session:
    for table in ("dag_run", "task_instance"):
        session.execute(sql(f"UPDATE {table} SET start_date = '2020-01-01' WHERE run_id = :run"),
                        {"run": answer["early"]["run"]})
answer["maintained"] = run("maintenance")
with create_session() as session:
    answer["runs_after"] = [run for run, in session.execute(sql("SELECT run_id FROM dag_run"))]
print("ANSWER" + json.dumps(answer, default=str))
"""


def asked(home: Path, script: str, *words: str) -> str:
    """What a script prints in a process of its own, with an Airflow of its own."""
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    } | {
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "WATCHFUNNEL_HOME": str(home / "funnel"),
        "WATCHFUNNEL_DATA": str(home / "data"),
        "WATCHFUNNEL_RETRY_SECONDS": "0",
        "WATCHFUNNEL_TRAINING_POOL": "training",
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow' / 'mlflow.db'}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, "-c", script, str(DAGS), *words]
    done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        asked(tmp_path_factory.mktemp("parse"), PARSE).splitlines()[-1]
    )
    return answer


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chain")


@pytest.fixture(scope="module")
def chain(home: Path) -> dict[str, Any]:
    """The four DAGs on a small world, `ingest` again, `ranking` alone, a run on data of another
    layout and one on data that is not there.
    """
    write(
        *simulate(WorldConfig(users=300, items=400, impressions_a_day=3_000, days=6)), home / "data"
    )
    migrate = (
        "import subprocess, sys; subprocess.run([sys.argv[2], 'db', 'migrate'], check=True, "
        "stdout=2)"
    )
    asked(home, migrate, str(Path(sys.executable).parent / "airflow"))
    params = {"source": "simulated", "data": str(home / "data"), "overrides": list(SMALL)}
    printed = asked(home, CHAIN, json.dumps(params))
    answer: dict[str, Any] = json.loads(printed.rsplit("ANSWER", 1)[1])
    return answer


def artefacts(stage: str) -> list[str]:
    """What a DAG makes: that of the lists as of now all but the log."""
    made = set(STAGES) - {"ingest"} if stage == "serving" else {stage}
    return [name for name, step in STEPS.items() if step.stage in made]


def made_by(stage: str) -> dict[str, list[str]]:
    """The artefacts that each task of a DAG file makes, in turn."""
    functions = ast.parse((DAGS / f"{stage}_dag.py").read_text()).body
    calls = {
        function.name: [
            [name.value for name in call.args[1:] if isinstance(name, ast.Constant)]
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "airflow_tasks.make"
        ]
        for function in functions
        if isinstance(function, ast.FunctionDef)
    }
    return {task: names[0] for task, names in calls.items() if names}


def test_the_dags_parse_without_errors_and_quickly(parsed: dict[str, Any]) -> None:
    assert parsed["errors"] == {}
    assert set(parsed["dags"]) == {*CHAINED, "maintenance"}
    assert parsed["seconds"] < 5


def test_parsing_imports_nothing_heavy(parsed: dict[str, Any]) -> None:
    assert "funnel" in parsed["modules"]
    assert not HEAVY & set(parsed["modules"])


@pytest.mark.parametrize("stage", CHAINED)
def test_every_artefact_is_made_by_one_task_and_one_more_takes_the_request(
    parsed: dict[str, Any], stage: str
) -> None:
    assert sorted(parsed["dags"][stage]["tasks"]) == sorted([*made_by(stage), "request"])
    made = [name for names in made_by(stage).values() for name in names]
    assert sorted(made) == sorted(artefacts(stage))


@pytest.mark.parametrize("stage", CHAINED)
def test_every_artefact_comes_after_its_parents(parsed: dict[str, Any], stage: str) -> None:
    tasks, maker = parsed["dags"][stage]["tasks"], made_by(stage)
    for task, names in maker.items():
        before = {name for other in tasks[task]["upstream"] for name in maker.get(other, [])}
        assert "request" in tasks[task]["upstream"]
        for place, name in enumerate(names):
            own = {parent for parent in STEPS[name].parents if parent in artefacts(stage)}
            assert own <= before | set(names[:place]), name


def test_the_assets_draw_the_line(parsed: dict[str, Any]) -> None:
    assets = ["interactions", "histories", "candidates", "recommendations"]
    for stage, consumed, produced in zip(CHAINED, [None, *assets], [*assets, "lists"], strict=True):
        dag = parsed["dags"][stage]
        clock = None if consumed else "0 4 * * *"
        assert dag["schedule"] == {"assets": [consumed or "ready"], "clock": clock}
        assert dag["tasks"]["request"]["inlets"] == ([consumed] if consumed else [])
        assert [outlet for task in dag["tasks"].values() for outlet in task["outlets"]] == [
            [produced, f"watchfunnel://artefacts/{produced}", "watchfunnel"]
        ]


@pytest.mark.parametrize("stage", CHAINED)
def test_the_asset_event_waits_for_every_other_task(parsed: dict[str, Any], stage: str) -> None:
    tasks = parsed["dags"][stage]["tasks"]
    (last,) = (name for name, task in tasks.items() if task["outlets"])
    assert set(tasks[last]["upstream"]) == set(tasks) - {last}


def test_airflow_shows_the_file_of_the_stage_as_its_source(parsed: dict[str, Any]) -> None:
    shown = {name: Path(dag["file"]) for name, dag in parsed["dags"].items()}
    assert shown == {name: DAGS / f"{name}_dag.py" for name in (*CHAINED, "maintenance")}


def test_no_missed_night_is_caught_up(parsed: dict[str, Any]) -> None:
    assert not any(dag["catchup"] for dag in parsed["dags"].values())


@pytest.mark.parametrize("stage", CHAINED)
def test_every_dag_and_task_is_documented_owned_and_retried(
    parsed: dict[str, Any], stage: str
) -> None:
    dag = parsed["dags"][stage]
    assert dag["doc"].startswith(f"# {stage}")
    assert dag["tags"] == sorted(["watchfunnel", stage])
    assert (dag["runs"], dag["hours"]) == (1, 12)
    assert dag["on_failure"] == ["close_as_failed", "note_failure", "tell_of_failure"]
    assert dag["title"] == f"{CHAINED.index(stage) + 1} {stage}"
    assert 20 < len(dag["description"]) < 400
    assert "\n" not in dag["description"]
    for name, task in dag["tasks"].items():
        assert task["doc"], name
        assert (task["owner"], task["backoff"]) == ("watchfunnel", 2), name
        assert task["callbacks"] == ["close_as_failed", "note_failure"], name
        assert [(rule["exception"], rule["action"]) for rule in task["rules"]] == [
            ("features.errors.NotReady", "retry"),
            ("funnel.airflow_tasks.TaskRefused", "fail"),
        ]


def test_the_weekly_chores_are_tasks_that_do_not_depend_on_one_another(
    parsed: dict[str, Any],
) -> None:
    dag = parsed["dags"]["maintenance"]
    tasks = dag["tasks"]
    assert list(CHORES) == sorted(tasks, key=lambda name: -tasks[name]["weight"])
    assert len({task["weight"] for task in tasks.values()}) == len(tasks)
    assert (dag["at_once"], dag["runs"]) == (1, 1)
    assert dag["schedule"] == {"assets": [], "clock": "0 2 * * 0"}
    assert dag["on_failure"] == ["tell_of_failure"]
    for name, task in tasks.items():
        assert task["doc"], name
        assert (task["upstream"], task["hours"], task["retries"]) == ([], 1, 1), name


def test_a_training_has_a_pool_of_its_own_more_time_and_fewer_tries(
    parsed: dict[str, Any],
) -> None:
    told = ("pool", "one", "retries", "hours")
    kinds = {
        name: tuple(task[field] for field in told)
        for stage in CHAINED
        for name, task in parsed["dags"][stage]["tasks"].items()
    }
    training, other = ("training", 1, 1, 9), ("default_pool", 1, 2, 3)
    trainings = {name for name, kind in kinds.items() if kind == training}
    assert trainings == {"towers", "ranker"}
    assert {kind for name, kind in kinds.items() if name not in trainings} == {other}


def test_the_form_is_of_the_first_stage_alone(parsed: dict[str, Any]) -> None:
    forms = {stage: tuple(parsed["dags"][stage]["params"]) for stage in CHAINED}
    assert forms == dict.fromkeys(CHAINED, ()) | {"ingest": FIELDS}


def test_the_folder_holds_dag_files_only() -> None:
    files = [path.name for path in DAGS.iterdir() if path.name != "__pycache__"]
    assert sorted(files) == sorted(f"{name}_dag.py" for name in (*CHAINED, "maintenance"))


def test_no_dag_file_takes_the_name_of_a_module() -> None:
    """Airflow puts the folder on the import path: a `features.py` in it would hide the package
    `features`.
    """
    for path in DAGS.glob("*.py"):
        assert importlib.util.find_spec(path.stem) is None


def test_the_dag_files_hold_wiring_only() -> None:
    for path in DAGS.glob("*.py"):
        branches = [
            node
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.If | ast.For | ast.While)
        ]
        assert not branches, path.name


def test_the_chain_makes_every_artefact(chain: dict[str, Any]) -> None:
    for stage in CHAINED:
        run = chain["first"][stage]
        assert run["state"] == "success"
        for task, names in made_by(stage).items():
            returned = run["tasks"][task]["returned"]
            assert list(returned["artefacts"]) == names
            # What is equal as of now is taken from the evaluation.
            made = [name for name, each in returned["artefacts"].items() if each["made"]]
            assert made == names or (stage == "serving" and task == "histories")
            assert returned["line"].startswith(names[0])


def test_lists_that_are_not_fit_to_serve_are_not_made(chain: dict[str, Any]) -> None:
    assert chain["unfit"]["state"] == "success"
    assert {task["state"] for task in chain["unfit"]["tasks"].values()} == {"skipped"}


def test_the_request_travels_on_with_the_run_and_the_versions_made(chain: dict[str, Any]) -> None:
    events = chain["events"]
    assert [event["dag"] for event in events] == list(CHAINED)
    *requests, serving = [event["extra"]["request"] for event in events]
    run = chain["first"]["ingest"]["run"]
    assert {request["run"] for request in requests} == {run}
    assert (serving["follows"], serving["run"]) == (run, f"{run} serving")
    assert serving["versions"] == {"interactions": requests[0]["versions"]["interactions"]}
    for number, request in enumerate(requests):
        made = [name for stage in STAGES[: number + 1] for name in artefacts(stage)]
        assert sorted(request["versions"]) == sorted(made)


def test_an_event_carries_the_headline_figures_of_its_stage(chain: dict[str, Any]) -> None:
    for stage, event in zip(airflow_tasks.STAGES, chain["events"], strict=True):
        figures = event["extra"]["figures"]
        assert list(figures) == list(stage.figures)
        assert all(value > 0 for value in figures.values()), stage.name


def test_an_unchanged_rerun_skips_and_sends_no_event(chain: dict[str, Any]) -> None:
    assert chain["second"]["state"] == "success"
    assert {task["state"] for task in chain["second"]["tasks"].values()} == {"skipped"}
    assert not [event for event in chain["events_after"] if event["run"] == chain["second"]["run"]]


def test_a_stage_alone_takes_up_the_newest_event_and_finds_everything_made(
    chain: dict[str, Any],
) -> None:
    tasks = chain["alone"]["tasks"]
    assert chain["alone"]["state"] == "success"
    assert tasks["request"]["returned"] == chain["events"][2]["extra"]["request"]
    for task in made_by("ranking"):
        made = tasks[task]["returned"]["artefacts"].values()
        assert not any(each["made"] for each in made)


@pytest.mark.parametrize("run", ["early", "refused"])
def test_what_is_refused_fails_at_once_and_is_not_tried_again(
    chain: dict[str, Any], run: str
) -> None:
    assert chain[run]["state"] == "failed"
    assert chain[run]["tasks"]["request"]["state"] == "failed"
    assert chain[run]["tasks"]["request"]["tries"] == 1


def test_data_that_is_not_there_yet_is_tried_again(chain: dict[str, Any]) -> None:
    assert chain["waited"]["state"] == "failed"
    assert chain["waited"]["tasks"]["request"]["tries"] == 3


@pytest.mark.usefixtures("chain")
def test_the_runs_are_closed_in_mlflow(home: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'mlflow' / 'mlflow.db'}")
    experiments = [client.get_experiment_by_name(name) for name in ("funnel", *STAGES)]
    runs = client.search_runs([found.experiment_id for found in experiments if found])
    # Two summaries, and the log was read once for both.
    assert len(runs) == 2 + len(STAGES) + 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    made = {
        run.data.tags["watchfunnel.made"] for run in runs if "mlflow.parentRunId" in run.data.tags
    }
    assert made >= {", ".join(artefacts(stage)) for stage in STAGES}


def test_maintenance_does_every_chore_and_says_what_came_of_it(
    chain: dict[str, Any], home: Path
) -> None:
    said = {name: task["returned"] for name, task in chain["maintained"]["tasks"].items()}
    assert chain["maintained"]["state"] == "success"
    assert set(said) == set(CHORES)
    assert said["backup"].startswith(f"Copied to {home / 'funnel' / 'backups'}: airflow (")
    assert said["stale_runs"].startswith("0 MLflow runs")
    assert "free" in said["disk"]
    assert "artefacts/towers" in said["disk"]
    # Airflow itself deletes what is old, and nothing else.
    assert chain["early"]["run"] not in chain["runs_after"]
    assert {run["run"] for run in chain["first"].values()} <= set(chain["runs_after"])


@pytest.mark.usefixtures("chain")
def test_the_lists_and_the_report_are_shown_at_the_home_s_top(home: Path) -> None:
    shown = {path.name for path in (home / "funnel").glob("*.*")}
    assert {
        "candidates.parquet",
        "recommendations.parquet",
        "scored.parquet",
        "report.json",
    } <= shown


@pytest.mark.usefixtures("chain")
def test_the_showcase_sets_three_histories_beside_their_recommendations(home: Path) -> None:
    console = Console(record=True, width=160, file=io.StringIO())
    showcase.show(home / "funnel", console)
    shown = console.export_text()
    assert "funnel.hr@10" in shown
    assert shown.count("watched last") == shown.count("expected minutes") == 3
    users = pd.read_parquet(home / "funnel" / "recommendations.parquet")["user_id"]
    assert set(re.findall(r"User (\d+)", shown)) <= set(users.astype(str))
