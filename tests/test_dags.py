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
from typing import Any, get_args

import pandas as pd
import pytest
from rich.console import Console

from features.config import SplitConfig
from features.data.formats import SOURCES
from features.simulation.simulated_log import simulate, write
from features.simulation.world import WorldConfig
from funnel.config import FunnelConfig
from funnel.demo import showcase
from funnel.maintenance.chores import CHORES
from funnel.pipeline import STEPS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DAGS = ROOT / "dags"
STAGES = ("ingest", "features", "recall", "ranking")
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
            "callbacks": len(t.on_failure_callback or []), "rules": rules, "weight": t.priority_weight,
            "minutes": t.execution_timeout.total_seconds() / 60 if t.execution_timeout else None,
            "inlets": [a.name for a in t.inlets], "outlets": [a.name for a in t.outlets]}
def dag(d):
    cron = d.schedule if isinstance(d.schedule, str) else getattr(d.schedule, "expression", None)
    schedule = cron or [a.name for a in d.schedule]
    params = {name: {"value": d.params[name], "schema": d.params.get_param(name).schema} for name in d.params}
    return {"tasks": {t.task_id: task(t) for t in d.tasks}, "doc": d.doc_md, "tags": sorted(d.tags), "params": params,
            "at_once": d.max_active_tasks, "file": d.fileloc, "runs": d.max_active_runs, "catchup": d.catchup, "schedule": schedule,
            "on_failure": [c.__name__ for c in d.on_failure_callback], "title": d.dag_display_name,
            "description": d.description, "hours": d.dagrun_timeout.total_seconds() / 3600}
print(json.dumps({"errors": bag.import_errors, "seconds": seconds, "modules": sorted({m.split(".")[0]
      for m in set(sys.modules) - before}), "dags": {name: dag(d) for name, d in bag.dags.items()}}))
"""

CHAIN = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.models.asset import AssetEvent
from airflow.utils.session import create_session
from sqlalchemy import text
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
answer["events"] = events()
answer["second"] = run("ingest", **params)
answer["alone"] = run("ranking")
answer["refused"] = run("ingest", **params | {"source": "kuairand"})
answer["waited"] = run("ingest", **params | {"data": "/no/such/folder"})
answer["events_after"] = events()
with create_session() as session:
    for table in ("dag_run", "task_instance"):
        session.execute(text(f"UPDATE {table} SET start_date = '2020-01-01' WHERE run_id = :run"),
                        {"run": answer["early"]["run"]})
answer["maintained"] = run("maintenance")
with create_session() as session:
    answer["runs_after"] = [run for run, in session.execute(text("SELECT run_id FROM dag_run"))]
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
    return [name for name, step in STEPS.items() if step.stage == stage]


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
    assert set(parsed["dags"]) == {*STAGES, "maintenance"}
    assert parsed["seconds"] < 5


def test_parsing_imports_nothing_heavy(parsed: dict[str, Any]) -> None:
    assert "funnel" in parsed["modules"]
    assert not HEAVY & set(parsed["modules"])


@pytest.mark.parametrize("stage", STAGES)
def test_every_artefact_is_made_by_one_task_and_one_more_takes_the_request(
    parsed: dict[str, Any], stage: str
) -> None:
    assert sorted(parsed["dags"][stage]["tasks"]) == sorted([*made_by(stage), "request"])
    made = [name for names in made_by(stage).values() for name in names]
    assert sorted(made) == sorted(artefacts(stage))


@pytest.mark.parametrize("stage", STAGES)
def test_every_artefact_comes_after_its_parents(parsed: dict[str, Any], stage: str) -> None:
    tasks, maker = parsed["dags"][stage]["tasks"], made_by(stage)
    for task, names in maker.items():
        before = {name for other in tasks[task]["upstream"] for name in maker.get(other, [])}
        assert "request" in tasks[task]["upstream"]
        for place, name in enumerate(names):
            own = {parent for parent in STEPS[name].parents if STEPS[parent].stage == stage}
            assert own <= before | set(names[:place]), name


def test_the_assets_draw_the_line(parsed: dict[str, Any]) -> None:
    assets = ["interactions", "histories", "candidates", "recommendations"]
    for stage, consumed, produced in zip(STAGES, [None, *assets], assets, strict=False):
        dag = parsed["dags"][stage]
        assert dag["schedule"] == ([consumed] if consumed else "0 4 * * *")
        assert dag["tasks"]["request"]["inlets"] == ([consumed] if consumed else [])
        assert [outlet for task in dag["tasks"].values() for outlet in task["outlets"]] == [
            produced
        ]


@pytest.mark.parametrize("stage", STAGES)
def test_the_asset_event_waits_for_every_other_task(parsed: dict[str, Any], stage: str) -> None:
    tasks = parsed["dags"][stage]["tasks"]
    (last,) = (name for name, task in tasks.items() if task["outlets"])
    assert set(tasks[last]["upstream"]) == set(tasks) - {last}


def test_airflow_shows_the_file_of_the_stage_as_its_source(parsed: dict[str, Any]) -> None:
    shown = {name: Path(dag["file"]) for name, dag in parsed["dags"].items()}
    assert shown == {name: DAGS / f"{name}_dag.py" for name in (*STAGES, "maintenance")}


def test_no_missed_night_is_caught_up(parsed: dict[str, Any]) -> None:
    assert not any(dag["catchup"] for dag in parsed["dags"].values())


@pytest.mark.parametrize("stage", STAGES)
def test_every_dag_and_task_is_documented_owned_and_retried(
    parsed: dict[str, Any], stage: str
) -> None:
    dag = parsed["dags"][stage]
    assert dag["doc"].startswith(f"# {stage}")
    assert dag["tags"] == ["watchfunnel"]
    assert (dag["runs"], dag["hours"]) == (1, 12)
    assert dag["on_failure"] == ["close_as_failed", "tell_of_failure"]
    assert dag["title"] == f"{STAGES.index(stage) + 1} {stage}"
    assert 20 < len(dag["description"]) < 400
    assert "\n" not in dag["description"]
    for name, task in dag["tasks"].items():
        assert task["doc"], name
        assert (task["owner"], task["retries"], task["backoff"]) == ("watchfunnel", 2, 2), name
        assert task["callbacks"] == 1, name
        assert [(rule["exception"], rule["action"]) for rule in task["rules"]] == [
            ("features.errors.NotReady", "retry"),
            ("features.errors.InputError", "fail"),
        ]


def test_the_weekly_chores_are_tasks_that_do_not_depend_on_one_another(
    parsed: dict[str, Any],
) -> None:
    dag = parsed["dags"]["maintenance"]
    tasks = dag["tasks"]
    assert list(CHORES) == sorted(tasks, key=lambda name: -tasks[name]["weight"])
    assert len({task["weight"] for task in tasks.values()}) == len(tasks)
    assert (dag["at_once"], dag["runs"], dag["schedule"]) == (1, 1, "0 2 * * 0")
    assert dag["on_failure"] == ["tell_of_failure"]
    for name, task in tasks.items():
        assert task["doc"], name
        assert (task["upstream"], task["minutes"], task["retries"]) == ([], 60, 1), name


def test_one_training_runs_at_a_time(parsed: dict[str, Any]) -> None:
    assert parsed["dags"]["recall"]["tasks"]["towers"]["one"] == 1
    assert parsed["dags"]["ranking"]["tasks"]["ranker"]["one"] == 1


def test_the_trigger_form_offers_what_the_configuration_knows(parsed: dict[str, Any]) -> None:
    params = parsed["dags"]["ingest"]["params"]
    assert set(params) == {"source", "data", "seed", "split_mode", "test_start", "overrides"}
    assert set(params["source"]["schema"]["enum"]) == set(SOURCES)
    assert set(params["split_mode"]["schema"]["enum"]) == set(
        get_args(SplitConfig.model_fields["mode"].annotation)
    )
    assert params["split_mode"]["value"] == FunnelConfig().split.mode
    assert params["seed"]["value"] == FunnelConfig().seed


@pytest.mark.parametrize(
    ("text", "good"),
    [("recall.k=200", True), ("seed=3", True), ("recall.width=16", True), ("recall.k", False)],
)
def test_the_form_checks_the_shape_of_an_override(
    parsed: dict[str, Any], text: str, good: bool
) -> None:
    pattern = parsed["dags"]["ingest"]["params"]["overrides"]["schema"]["items"]["pattern"]
    assert bool(re.search(pattern, text)) == good


def test_the_folder_holds_dag_files_only() -> None:
    files = [path.name for path in DAGS.iterdir() if path.name != "__pycache__"]
    assert sorted(files) == sorted(f"{name}_dag.py" for name in (*STAGES, "maintenance"))


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
    for stage in STAGES:
        run = chain["first"][stage]
        assert run["state"] == "success"
        for task, names in made_by(stage).items():
            returned = run["tasks"][task]["returned"]
            assert list(returned["artefacts"]) == names
            assert all(each["made"] for each in returned["artefacts"].values())
            assert returned["line"].startswith(names[0])


def test_the_request_travels_on_with_the_run_and_the_versions_made(chain: dict[str, Any]) -> None:
    events = chain["events"]
    assert [event["dag"] for event in events] == list(STAGES)
    assert {event["extra"]["run"] for event in events} == {chain["first"]["ingest"]["run"]}
    for number, event in enumerate(events):
        made = [name for stage in STAGES[: number + 1] for name in artefacts(stage)]
        assert sorted(event["extra"]["versions"]) == sorted(made)


def test_an_unchanged_rerun_skips_and_sends_no_event(chain: dict[str, Any]) -> None:
    assert chain["second"]["state"] == "success"
    assert chain["second"]["tasks"]["interactions"]["state"] == "skipped"
    assert not [event for event in chain["events_after"] if event["run"] == chain["second"]["run"]]


def test_a_stage_alone_takes_up_the_newest_event_and_finds_everything_made(
    chain: dict[str, Any],
) -> None:
    tasks = chain["alone"]["tasks"]
    assert chain["alone"]["state"] == "success"
    assert tasks["request"]["returned"] == chain["events"][2]["extra"]
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
    names = ("funnel", *STAGES)
    experiments = [client.get_experiment_by_name(name) for name in names]
    runs = client.search_runs([found.experiment_id for found in experiments if found])
    assert len(runs) == len(names)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {
        run.data.tags["watchfunnel.made"] for run in runs if "mlflow.parentRunId" in run.data.tags
    } == {", ".join(artefacts(stage)) for stage in STAGES}


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
