"""Runs that a killed process left open are closed, with the reason; runs that somebody works on
stay open.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from funnel.maintenance.stale_runs import close_stale_runs, why_stale
from funnel.tracking import CLOSED_TAG, NOTE_TAG, WORKER_TAG, MlflowTracker, client_at
from funnel.worker import Worker

OPENER = """
import sys, time
from funnel.tracking import MlflowTracker
tracker = MlflowTracker(sys.argv[1], sys.argv[2], "2026-11-29 · simulated · defaults")
for stage in ("funnel", "recall"):
    tracker.open(stage)
    tracker.describe(stage, "Running.\\n\\nand its links")
print("open", flush=True)
time.sleep(300)
"""
HOUR = 3600


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def opener(store: str, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that has opened two runs, and goes on."""
    command = [sys.executable, "-c", OPENER, store, request.node.name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


@pytest.mark.slow
def test_the_runs_of_a_killed_process_are_closed_with_the_reason(
    store: str, opener: subprocess.Popen[str], request: pytest.FixtureRequest
) -> None:
    told: list[str] = []
    assert close_stale_runs(store, tell=told.append) == 0
    os.kill(opener.pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(opener.pid)], timeout=10)
    assert close_stale_runs(store, tell=told.append) == 2
    assert close_stale_runs(store, tell=told.append) == 0
    key, client = request.node.name, client_at(store)
    reason = f"its process {opener.pid} has ended without a word"
    assert told[-1].endswith(f"2026-11-29 · simulated · defaults: {reason}.")
    for stage in ("funnel", "recall"):
        (run,) = client.search_runs(
            [client.get_experiment_by_name(stage).experiment_id],
            f"tags.`watchfunnel.run` = '{key}'",
        )
        assert run.info.status == "FAILED"
        assert run.data.tags[CLOSED_TAG] == reason
        assert run.data.tags[NOTE_TAG] == f"Failed in `{stage}`: {reason}.\n\nand its links"
        assert run.info.end_time - run.info.start_time < 60_000
        MlflowTracker(store, key).open(stage)
        again = client.get_run(run.info.run_id)
        assert (again.info.status, CLOSED_TAG in again.data.tags) == ("RUNNING", False)
        MlflowTracker(store, key).close(stage)


@pytest.mark.slow
def test_a_run_without_a_worker_is_closed_by_its_age(store: str) -> None:
    tracker, client = MlflowTracker(store, "of an earlier version"), client_at(store)
    run_id = tracker.open("funnel")
    client.delete_tag(run_id, WORKER_TAG)
    assert close_stale_runs(store, hours=1) == 0
    assert close_stale_runs(store, hours=0) == 1
    assert client.get_run(run_id).info.status == "FAILED"
    assert close_stale_runs(None) == 0


ME = Worker.this_process()
GONE = replace(ME, began=ME.began - HOUR)
TASK = replace(GONE, dag="recall", dag_run="scheduled__2026-11-29")
ELSEWHERE = replace(GONE, machine="another")


@pytest.mark.parametrize(
    ("stage", "worker", "state", "idle_hours", "stale"),
    [
        ("recall", ME, None, 1000, False),
        ("recall", GONE, None, 0, True),
        ("recall", ELSEWHERE, None, 11, False),
        ("recall", ELSEWHERE, None, 13, True),
        ("recall", None, None, 11, False),
        ("recall", None, None, 13, True),
        ("recall", TASK, "running", 1000, False),
        ("recall", TASK, "queued", 1000, False),
        ("recall", TASK, "failed", 0, True),
        ("recall", TASK, "success", 0, True),
        ("recall", TASK, None, 11, False),
        ("recall", TASK, None, 13, True),
        ("recall", replace(TASK, machine="another"), "failed", 0, True),
        ("funnel", TASK, "failed", 0, True),
        ("funnel", TASK, "success", 11, False),
        ("funnel", TASK, "success", 13, True),
    ],
)
def test_a_run_is_stale_when_nobody_can_be_working_on_it(
    stage: str, worker: Worker | None, state: str | None, idle_hours: float, stale: bool
) -> None:
    def state_of(dag: str, run: str) -> str:
        assert (dag, run) == ("recall", "scheduled__2026-11-29")
        if state is None:
            raise RuntimeError("no such run of a DAG")
        return state

    reason = why_stale(stage, worker, idle_hours * HOUR, 12, state_of)
    assert (reason is not None) == stale


def test_a_worker_is_what_its_text_says() -> None:
    assert Worker.parse(ME.text) == ME
    assert (ME.here, ME.alive, GONE.alive, ELSEWHERE.here) == (True, True, False, False)


def test_a_process_that_nobody_has_buried_is_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        worker = replace(ME, pid=child.pid, began=psutil.Process(child.pid).create_time())
        deadline = time.monotonic() + 30
        while worker.alive and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not worker.alive
