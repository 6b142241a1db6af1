"""MLflow runs that are said to be running and that nobody works on any more.

MLflow closes a run only where Python ends it: after `kill -9` it stays RUNNING for ever. So each
process that takes up a run says in a tag who it is (`funnel.worker`), and whoever comes later can
ask whether it still lives.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from funnel.observer import FAILED
from funnel.tracking import (
    CLOSED_TAG,
    NOTE_TAG,
    RUN_TAG,
    SUMMARY,
    WORKER_TAG,
    all_runs,
    client_at,
    experiment_names,
)
from funnel.worker import Worker

if TYPE_CHECKING:
    from funnel.tracking import Run

# The state of a run of a DAG (queued, running, success, failed), by the DAG and the run.
StateOf = Callable[[str, str], str]


def close_stale_runs(
    tracking: str | None,
    state_of: StateOf | None = None,
    tell: Callable[[str], None] = print,
    hours: float | None = None,
) -> int:
    """Close as FAILED each run that is RUNNING though nobody works on it, with a tag that says why,
    and tell of it; returns how many those were. Without an address there are none.

    Nobody works on a run whose process ended on this machine, whose DAG run is over as `state_of`
    knows it, or, where neither can be known, to which nothing was logged for `hours`:
    WATCHFUNNEL_TIMEOUT_HOURS unless said, after which no run of a DAG goes on. Who works on
    it nevertheless takes it up again with the next artefact, or ends it as it deserves.
    """
    if tracking is None:
        return 0
    hours = float(os.environ.get("WATCHFUNNEL_TIMEOUT_HOURS", "12")) if hours is None else hours
    client, names, closed = client_at(tracking), experiment_names(tracking), 0
    for run in all_runs(tracking, "attributes.status = 'RUNNING'"):
        if RUN_TAG not in run.data.tags:
            continue
        stage, run_id = names[run.info.experiment_id], run.info.run_id
        logged = _last_logged(tracking, run)
        reason = why_stale(stage, _worker_of(run), time.time() - logged, hours, state_of)
        if reason:
            note = run.data.tags.get(NOTE_TAG, "").removeprefix("Running.")
            client.set_tag(run_id, CLOSED_TAG, reason)
            client.set_tag(run_id, NOTE_TAG, f"{FAILED} in `{stage}`: {reason}.{note}")
            # As long as it lasted, not until somebody came by.
            client.set_terminated(run_id, "FAILED", int(logged * 1000))
            tell(f"MLflow: a run of `{stage}` is closed, {run.info.run_name}: {reason}.")
            closed += 1
    return closed


def why_stale(
    stage: str,
    worker: Worker | None,
    idle_seconds: float,
    hours: float,
    state_of: StateOf | None = None,
) -> str | None:
    """Why nobody works on a run of a stage, of which its worker and the seconds since its last word
    are known; None where somebody may.
    """
    if worker and worker.alive:
        return None
    if worker and worker.dag_run:
        state = None
        # Airflow may not know the run any more, or not answer: then its age decides.
        with suppress(Exception):
            state = state_of(worker.dag, worker.dag_run) if state_of else None
        if state in ("queued", "running"):
            return None
        # A summary goes on in the DAG that follows, which may have to wait for its turn.
        if state == "failed" or (state == "success" and stage != SUMMARY):
            return f"the run {worker.dag_run} of the DAG `{worker.dag}` is over ({state})"
    elif worker and worker.here:
        return f"its process {worker.pid} has ended without a word"
    if idle_seconds > hours * 3600:
        return f"nothing was logged to it for {idle_seconds / 3600:,.0f} hours"
    return None


def _worker_of(run: "Run") -> Worker | None:
    text = run.data.tags.get(WORKER_TAG)
    return Worker.parse(text) if text else None


def _last_logged(tracking: str, run: "Run") -> float:
    """When a run was last heard of, in seconds since 1970."""
    worker, client = _worker_of(run), client_at(tracking)
    heard: list[float] = [run.info.start_time / 1000, *([worker.opened] if worker else [])]
    for name in run.data.metrics:
        points = client.get_metric_history(run.info.run_id, name)
        heard += [point.timestamp / 1000 for point in points]
    return max(heard)
