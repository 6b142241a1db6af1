"""Old MLflow runs, in a real store: which go, which stay, and that their files go for good a week
later.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from funnel.maintenance.chores import remove_old_mlflow_runs
from funnel.maintenance.old_runs import collect_garbage, delete_old_runs
from funnel.maintenance.places import places_of
from funnel.tracking import BENCHMARKS, RUN_TAG, MlflowTracker, all_runs, client_at

pytestmark = pytest.mark.slow

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def store(home: Path) -> str:
    """Pipeline runs of four ages, one still going on, one of a registered model, and a benchmark."""
    address = f"sqlite:///{home / 'mlflow' / 'mlflow.db'}"
    client = client_at(address)
    for stage in ("funnel", "recall", BENCHMARKS):
        MlflowTracker(address, "to make the experiments").open(stage)
    experiments = {each.name: each.experiment_id for each in client.search_experiments()}
    runs = [
        *((stage, "oldest", 200, "FINISHED") for stage in ("funnel", "recall")),
        ("funnel", "failed", 150, "FAILED"),
        ("recall", "registered", 120, "FINISHED"),
        ("funnel", "going on", 110, None),
        *((stage, "newest finished", 100, "FINISHED") for stage in ("funnel", "recall")),
        ("funnel", "young", 80, "FAILED"),
        (BENCHMARKS, "benchmark", 200, "FINISHED"),
    ]
    for stage, key, days, status in runs:
        start = int((NOW - timedelta(days=days)).timestamp() * 1000)
        run = client.create_run(experiments[stage], start, {RUN_TAG: key})
        client.log_text(run.info.run_id, "weights", "towers/tower_00.weights.h5")
        if key == "registered":
            client.create_registered_model("funnel")
            client.create_model_version("funnel", run.info.artifact_uri, run.info.run_id)
        if status:
            client.set_terminated(run.info.run_id, status, start + 1000)
    return address


def keys(store: str) -> list[str]:
    found = {run.data.tags[RUN_TAG] for run in all_runs(store)}
    return sorted(found - {"to make the experiments"})


def files(home: Path) -> int:
    return len(list(home.rglob("*.h5")))


def test_old_runs_go_but_for_the_newest_and_those_that_are_in_use(home: Path, store: str) -> None:
    assert files(home) == 9
    assert delete_old_runs(store, NOW - timedelta(days=90)) == 3
    kept = ["benchmark", "going on", "newest finished", "registered", "young"]
    assert keys(store) == kept
    assert delete_old_runs(store, NOW - timedelta(days=90)) == 0
    # Until a week has passed they can be restored.
    assert collect_garbage(store, store) == 0
    assert files(home) == 9
    assert collect_garbage(store, store, days=0) == 3
    assert files(home) == 6
    assert keys(store) == kept


@pytest.mark.usefixtures("store")
def test_the_chore_says_what_went(home: Path) -> None:
    said = remove_old_mlflow_runs(places_of(home, environment={"WATCHFUNNEL_KEEP_DAYS": "70"}))
    assert said == (
        "1 MLflow runs of more than 70 days are deleted; 0 that were deleted 7 days ago are gone "
        "for good."
    )
