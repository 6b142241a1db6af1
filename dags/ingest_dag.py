"""# ingest

Reads the raw log of a source, cleans it and keeps it as the artefact `interactions`. Its asset
event carries the whole request, and the DAGs `features`, `recall` and `ranking` follow one after
the other.

Runs every night, and on the play button with other Params. Where data, configuration and code are
unchanged nothing runs and no event is sent, so a rerun costs a second.
"""

import os
from typing import Any

from airflow.sdk import Asset, Param, task

from funnel import airflow_tasks

INTERACTIONS = Asset("interactions")

PARAMS = {
    "source": Param(
        os.environ.get("WATCHFUNNEL_SOURCE", "canonical"),
        description="The layout of the data",
        enum=[
            "canonical",
            "globo",
            "kuairand",
            "kuairec",
            "movielens",
            "news",
            "recbole",
            "simulated",
        ],
        type="string",
    ),
    "data": Param(
        os.environ.get("WATCHFUNNEL_DATA", ""),
        description="The folder with the log, as the workers see it, or a database's address",
        type="string",
    ),
    "seed": Param(0, description="All randomness comes from it", type="integer", minimum=0),
    "split_mode": Param(
        os.environ.get("WATCHFUNNEL_SPLIT_MODE", "time"),
        description="the test: time, the log's end; last, each user's last watch; none, nothing",
        enum=["time", "last", "none"],
        type="string",
    ),
    "test_start": Param(
        None,
        description="The instant the test window begins, UTC; empty: derived from the log",
        type=["null", "string"],
        format="date-time",
    ),
    "overrides": Param(
        os.environ.get("WATCHFUNNEL_OVERRIDES", "").split(),
        description="More settings, each as stage.field=value, such as recall.k=200",
        type="array",
        items={"type": "string", "pattern": "^[a-z_]+(\\.[a-z_]+)*=.+$"},
    ),
}


@task.short_circuit
def request(params: dict[str, Any], run_id: str) -> airflow_tasks.Json | None:
    """What this run is asked to do, from the Params; the run ends here where every artefact is up
    to date.
    """
    return airflow_tasks.build_request(params, run_id)


@task(outlets=[INTERACTIONS])
def interactions(request: airflow_tasks.Json, outlet_events: Any) -> airflow_tasks.Json:
    """The cleaned log, sorted by user and time, with a table of the rows that were set aside and
    why.
    """
    outcome = airflow_tasks.make(request, "interactions")
    outlet_events[INTERACTIONS].extra = airflow_tasks.onward(request, "ingest")
    return outcome


with airflow_tasks.stage_dag("ingest", __doc__, "0 4 * * *", **PARAMS):
    interactions(request())
