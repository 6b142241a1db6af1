"""Runs in a real MLflow store: a SQLite file, and a server where one comes up in time."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest

from features.errors import InputError, ServiceUnavailable
from funnel.tracking import DATA_TAG, MlflowTracker, environment, remove_files

pytestmark = pytest.mark.slow

STAGES = ("funnel", "ingest", "features", "recall", "ranking")
SERVER_SECONDS = 25


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The address of one store for all tests, each of which has a run key of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def client(store):
    from mlflow.tracking import MlflowClient

    MlflowTracker(store, "first").open("funnel")
    return MlflowClient(store)


def test_a_second_tracker_with_the_same_key_finds_the_same_runs(store):
    first = [MlflowTracker(store, "same").open(stage) for stage in STAGES]
    again = [MlflowTracker(store, "same").open(stage) for stage in STAGES]
    assert first == again
    assert len(set(first)) == len(STAGES)


def test_another_process_finds_the_same_run(store):
    here = MlflowTracker(store, "two-processes").open("recall")
    script = (
        f"from funnel.tracking import MlflowTracker as T; print(T({store!r}, "
        "'two-processes').open('recall'))"
    )
    there = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here
    assert there.stderr == ""


def test_another_key_is_another_run(store):
    assert MlflowTracker(store, "monday").open("recall") != MlflowTracker(store, "tuesday").open(
        "recall"
    )


def test_each_stage_has_its_experiment_and_points_to_the_summary_run(store, client):
    tracker = MlflowTracker(store, "linked")
    child = client.get_run(tracker.open("ranking"))
    assert client.get_experiment(child.info.experiment_id).name == "ranking"
    assert child.data.tags["mlflow.parentRunId"] == tracker.open("funnel")
    assert child.data.tags["watchfunnel.run"] == child.info.run_name == "linked"
    assert "mlflow.parentRunId" not in client.get_run(tracker.open("funnel")).data.tags


def test_a_retry_after_a_failure_goes_on_in_the_failed_run(store, client):
    failing = MlflowTracker(store, "retried")
    run = failing.open("recall")
    failing.log_params("recall", {"dim": 64})
    failing.close("recall", failed=True)
    assert client.get_run(run).info.status == "FAILED"
    retry = MlflowTracker(store, "retried")
    assert retry.open("recall") == run
    assert client.get_run(run).info.status == "RUNNING"
    retry.log_params("recall", {"dim": 64, "epochs": 4})
    retry.close("recall")
    assert client.get_run(run).info.status == "FINISHED"
    assert client.get_run(run).data.params == {"dim": "64", "epochs": "4"}


def test_closing_what_was_never_begun_begins_nothing(store, client):
    tracker = MlflowTracker(store, "never begun")
    tracker.close("features", failed=True)
    known = client.get_experiment_by_name("features")
    mine = "tags.`watchfunnel.run` = 'never begun'"
    assert known is None or not client.search_runs([known.experiment_id], mine)


def test_a_late_figure_does_not_reopen_a_finished_run(store, client):
    tracker = MlflowTracker(store, "late")
    run = tracker.open("funnel")
    tracker.close("funnel")
    tracker.log_metrics("funnel", {"share": 0.5})
    assert client.get_run(run).info.status == "FINISHED"


def test_another_value_of_a_parameter_is_refused_in_one_sentence(store):
    tracker = MlflowTracker(store, "changed")
    tracker.log_params("recall", {"dim": 64})
    with pytest.raises(InputError, match="dim is 128 but was logged as 64"):
        tracker.log_params("recall", {"dim": 128})


def test_metric_names_are_made_fit_and_numbers_that_are_none_are_left_out(store, client):
    tracker = MlflowTracker(store, "names")
    figures = {
        "hr@50": 0.5,
        "funnel.watch_seconds_share@200": 0.25,
        "a%b": 1,
        "empty": float("nan"),
        "odds": float("inf"),
    }
    tracker.log_metrics("funnel", figures)
    kept = client.get_run(tracker.open("funnel")).data.metrics
    assert kept == {"hr_at_50": 0.5, "funnel.watch_seconds_share_at_200": 0.25, "a_b": 1}


def curve(client, run, name):
    return [(point.step, point.value) for point in client.get_metric_history(run, name)]


def test_epochs_are_steps_of_each_tower_without_the_bookkeeping_and_none_is_logged_twice(
    store, client
):
    tracker = MlflowTracker(store, "epochs")
    first = {
        "tower": 0,
        "epoch": 1,
        "rate": 1.0,
        "after": 0,
        "examples": 9,
        "loss": 3.0,
        "hit_rate@50": 0.1,
    }
    rows = [
        first,
        first | {"epoch": 2, "loss": 2.0},
        {"tower": 1, "epoch": 1, "rate": 1.0, "after": 0, "loss": 2.5},
    ]
    tracker.log_epochs("recall", "towers", rows[:1])
    tracker.log_epochs("recall", "towers", rows)
    run = tracker.open("recall")
    assert set(client.get_run(run).data.metrics) == {
        *("towers.loss/tower_0", "towers.loss/tower_1", "towers.hit_rate_at_50/tower_0")
    }
    assert curve(client, run, "towers.loss/tower_0") == [(1, 3.0), (2, 2.0)]
    assert curve(client, run, "towers.loss/tower_1") == [(1, 2.5)]
    assert curve(client, run, "towers.hit_rate_at_50/tower_0") == [(1, 0.1), (2, 0.1)]


def test_epochs_of_one_training_alone_are_named_after_it(store, client):
    tracker = MlflowTracker(store, "one training")
    tracker.log_epochs(
        "ranking", "ranker", [{"epoch": n, "loss": 1 / n, "val_loss": 2 / n} for n in (1, 2)]
    )
    run = tracker.open("ranking")
    assert curve(client, run, "ranker.loss") == [(1, 1.0), (2, 0.5)]
    assert curve(client, run, "ranker.val_loss") == [(1, 2.0), (2, 1.0)]


def test_a_finished_run_is_not_taken_up_again_and_names_and_tags_are_as_given(store, client):
    tracker = MlflowTracker(store, "named", "a name", {"asked": "for"})
    run = tracker.open("ranking")
    tracker.close("ranking")
    assert tracker.open("ranking") == run
    found = client.get_run(run)
    assert (found.info.status, found.info.run_name, found.data.tags["asked"]) == (
        "FINISHED",
        "a name",
        "for",
    )


def test_more_than_one_request_holds_is_logged_all_the_same(store, client):
    tracker = MlflowTracker(store, "many")
    tracker.log_metrics("features", {f"m{i}": i for i in range(1001)})
    tracker.log_params("features", {f"p{i}": i for i in range(101)})
    data = client.get_run(tracker.open("features")).data
    assert (len(data.metrics), len(data.params)) == (1001, 101)


def test_tags_say_what_ran(store, client):
    tracker = MlflowTracker(store, "tagged")
    tracker.log_tags("recall", {"gate": "passed"})
    tags = client.get_run(tracker.open("recall")).data.tags
    assert tags["gate"] == "passed"
    assert (
        tags["watchfunnel.version.tensorflow"]
        == environment()["watchfunnel.version.tensorflow"]
        != ""
    )


def test_the_commit_is_that_of_this_repository_and_of_no_other():
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        assert not {"mlflow.source.git.commit", "watchfunnel.commit"} & set(environment())
        return
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
    )
    for name in ("mlflow.source.git.commit", "watchfunnel.commit"):
        assert len(environment()[name]) == len(head.stdout.strip()) == 40


def test_a_data_set_is_an_input_of_the_run_and_its_digest_a_tag(store, client):
    tracker, digest = MlflowTracker(store, "data"), "f" * 64
    for _ in range(2):
        tracker.log_dataset("features", "interactions", digest, "/data/log", {"rows": 35_716})
    run = client.get_run(tracker.open("features"))
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.profile) == ("interactions", '{"rows": 35716}')
    assert digest.startswith(used.dataset.digest)
    assert run.data.tags[DATA_TAG] == digest


def fetched(client, run, name, folder):
    return Path(client.download_artifacts(run, name, str(folder))).read_text()


def artefacts(tracker, client, folder):
    """Log a file, a mapping and a table twice, as a retry does, and read them back."""
    (folder / "note.txt").write_text("kept")
    for _ in range(2):
        tracker.log_file("ranking", folder / "note.txt", "notes")
        tracker.log_dict("ranking", {"recall": {"k": 200}}, "config.json")
        tracker.log_table(
            "ranking", pd.DataFrame({"bucket": [0, 1], "mae": [1.5, 2.5]}), "calibration.csv"
        )
    run = tracker.open("ranking")
    return [
        fetched(client, run, name, folder)
        for name in ("notes/note.txt", "config.json", "calibration.csv")
    ]


def test_files_mappings_and_tables_lie_beside_the_store_and_a_retry_doubles_nothing(
    store, client, tmp_path
):
    note, config, table = artefacts(MlflowTracker(store, "artefacts"), client, tmp_path)
    assert note == "kept"
    assert '"k": 200' in config
    assert table == "bucket,mae\n0,1.5\n1,2.5\n"
    assert list(
        (Path(store.removeprefix("sqlite:///")).parent / "artifacts" / "ranking").rglob("note.txt")
    )


def test_a_file_store_has_no_page_to_show(store):
    assert MlflowTracker(store, "no-page").url("recall") == ""


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "mlruns", "postgresql://somewhere/db"])
def test_an_address_that_depends_on_the_working_directory_is_refused(uri):
    with pytest.raises(InputError, match="absolute"):
        MlflowTracker(uri, "nowhere").open("funnel")


def test_a_server_that_does_not_answer_is_told_within_seconds_and_is_no_refusal_so_that_airflow_retries():
    started = time.monotonic()
    assert not issubclass(ServiceUnavailable, InputError)
    with pytest.raises(ServiceUnavailable, match="no MLflow server answers"):
        MlflowTracker(f"http://127.0.0.1:{free_port()}", "nobody").open("funnel")
    assert time.monotonic() - started < 5


def test_a_deleted_experiment_is_refused_with_what_to_do(store, client):
    experiment = client.create_experiment("dropped")
    client.delete_experiment(experiment)
    with pytest.raises(InputError, match="dropped is deleted; restore it"):
        MlflowTracker(store, "any").open("dropped")


@pytest.mark.parametrize("key", ["", "it's"])
def test_a_key_that_could_not_be_searched_for_is_refused(store, key):
    with pytest.raises(ValueError, match="key of a run"):
        MlflowTracker(store, key)


def test_importing_the_module_does_not_import_mlflow():
    script = "import sys, funnel.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url):
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=1).status == 200
    except OSError:
        return False


@pytest.fixture
def server(tmp_path):
    """The address of an MLflow server that keeps artefacts for its clients."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--serve-artifacts", "--artifacts-destination", str(tmp_path / "kept")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **quiet},
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + SERVER_SECONDS
        while not answers(url):
            if time.monotonic() > deadline or process.poll() is not None:
                pytest.skip(f"no MLflow server within {SERVER_SECONDS} s on this machine")
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=20)


def test_a_server_keeps_runs_and_artefacts_has_a_page_for_each_run_and_lets_artefacts_go(
    server, tmp_path, capfd
):
    from mlflow.tracking import MlflowClient

    tracker = MlflowTracker(server, "served")
    run = tracker.open("ranking")
    tracker.log_metrics("ranking", {"hr@50": 0.5})
    note, _, _ = artefacts(tracker, MlflowClient(server), tmp_path)
    tracker.close("ranking")
    assert note == "kept"
    assert list((tmp_path / "kept").rglob("note.txt"))
    experiment = MlflowClient(server).get_run(run).info.experiment_id
    page = f"{server}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"
    assert tracker.url("ranking") == page
    assert "View run" not in "".join(capfd.readouterr())
    tracker.log_dataset("ranking", "simulated", "digest", "/data", {})
    assert remove_files(server, "another digest".__eq__) == 0
    assert remove_files(server, "digest".__eq__) == 1
    assert list((tmp_path / "kept").rglob("note.txt")) == []
