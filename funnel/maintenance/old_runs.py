"""MLflow runs that are old: deleted as in the UI, and some days later removed for good, with their
files.
"""

import os
from datetime import datetime

from funnel.maintenance.databases import run_tool, tool
from funnel.observer import STAGES
from funnel.tracking import RUN_TAG, SUMMARY, all_runs, client_at, experiment_names

# Within these days a deleted run can be restored in the UI.
RESTORABLE_DAYS = 7


def delete_old_runs(tracking: str, before: datetime) -> int:
    """Delete the pipeline's runs that were started before an instant; returns how many.

    Runs that are going on stay, those of the newest pipeline run that was finished, and those that
    a registered model is of.
    """
    client, names = client_at(tracking), experiment_names(tracking)
    own = {key for key, name in names.items() if name in (SUMMARY, *STAGES)}
    runs = [run for run in all_runs(tracking) if run.info.experiment_id in own]
    finished = [
        run
        for run in runs
        if names[run.info.experiment_id] == SUMMARY and run.info.status == "FINISHED"
    ]
    newest = max(finished, key=lambda run: run.info.start_time, default=None)
    kept = newest.data.tags.get(RUN_TAG) if newest else None
    registered = {version.run_id for version in client.search_model_versions()}
    old = [
        run.info.run_id
        for run in runs
        if run.info.start_time < before.timestamp() * 1000
        and run.info.status != "RUNNING"
        and run.data.tags.get(RUN_TAG) not in (None, kept)
        and run.info.run_id not in registered
    ]
    for run_id in old:
        client.delete_run(run_id)
    return len(old)


def collect_garbage(tracking: str, database: str, days: float = RESTORABLE_DAYS) -> int:
    """Remove for good, by MLflow's own command, what was deleted more than some days ago, with its
    files; returns how many runs. InputError where the command fails.
    """
    # The address of the database holds its password, so it is no argument: it is where MLflow
    # looks when none is given. Files are removed through the server.
    command = (tool("mlflow"), "gc", "--older-than", f"{days}d", "--tracking-uri", tracking)
    printed = run_tool(command, os.environ | {"MLFLOW_TRACKING_URI": database})
    return printed.count("has been permanently deleted")
