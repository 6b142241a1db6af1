"""# ingest

Reads the raw log of a source, cleans it and keeps it as the artefact `interactions`. Its asset
event carries the whole request, and the DAGs `features`, `recall` and `ranking` follow one after
the other.

Runs every night, when a file `_READY` appears in the data folder of the environment
(WATCHFUNNEL_DATA; the flag is deleted as it is seen), and on the play button with other Params.
Where data, configuration and code are unchanged, or the same request is being made, the task
`request` is skipped, the run's note says why, and no event is sent.

Every run reads the folder as it is, whatever its date: a backfill of thirty days is one training
and twenty-nine skipped runs. So it is only offered where WATCHFUNNEL_BACKFILL is set and the
database is PostgreSQL.
"""

from typing import Any

from airflow.sdk import task

from funnel import airflow_form, airflow_tasks

INTERACTIONS = airflow_tasks.asset("interactions")


@task
def request(params: dict[str, Any], run_id: str, ti: Any) -> airflow_tasks.Json:
    """What this run is asked to do, from the Params; skipped where nothing is to be done."""
    return airflow_tasks.make_request(params, run_id, ti)


@task(outlets=[INTERACTIONS])
def interactions(request: airflow_tasks.Json, outlet_events: Any) -> airflow_tasks.Json:
    """The cleaned log, sorted by user and time, with a table of the rows that were set aside and
    why.
    """
    outcome = airflow_tasks.make(request, "interactions")
    airflow_tasks.announce(request, "ingest", outlet_events[INTERACTIONS])
    return outcome


schedule = airflow_tasks.nightly_or_ready()
with airflow_tasks.stage_dag("ingest", __doc__, schedule, **airflow_form.form()):
    interactions(request())
