"""# recall

Finds a few hundred candidates for each user: trains the towers, lays out the item vectors and their
index, and retrieves through every generator.

Follows the asset `histories`; on the play button it takes the newest event.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, ExceptionRetryPolicy, RetryAction, RetryRule, task

from funnel import airflow_tasks as airflow_tasks

HISTORIES, CANDIDATES = Asset("histories"), Asset("candidates")


@task(inlets=[HISTORIES])
def request(triggering_asset_events: Any, inlet_events: Any) -> airflow_tasks.Json:
    """What this run is asked to do: the request in the event that started it, else in the newest
    event.
    """
    return airflow_tasks.received(
        triggering_asset_events.get(HISTORIES) or inlet_events[HISTORIES], HISTORIES.name
    )


@task(max_active_tis_per_dag=1)
def towers(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The tower that makes a user vector of a history, trained on the warm-up and refreshed block
    by block.
    """
    return airflow_tasks.make("towers", request)


@task
def item_vectors(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """One vector for each item of the catalogue."""
    return airflow_tasks.make("item_vectors", request)


@task
def index(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The item vectors, laid out for nearest-neighbour search."""
    return airflow_tasks.make("index", request)


@task(outlets=[CANDIDATES])
def candidates(request: airflow_tasks.Json, outlet_events: Any) -> airflow_tasks.Json:
    """The best few hundred items of each user, nothing seen among them, with the generators they
    came by.
    """
    outcome = airflow_tasks.make("candidates", request)
    outlet_events[CANDIDATES].extra = airflow_tasks.onward(request, "recall")
    return outcome


with DAG(
    dag_id="recall",
    doc_md=__doc__,
    schedule=[HISTORIES],
    catchup=False,
    max_active_runs=1,
    tags=["watchfunnel"],
    # A task that is killed at its last try has no callback of its own.
    on_failure_callback=airflow_tasks.close_as_failed,
    default_args={
        "owner": "watchfunnel",
        "retries": 2,
        "retry_delay": timedelta(seconds=airflow_tasks.retry_seconds()),
        "retry_exponential_backoff": 2,
        "retry_policy": ExceptionRetryPolicy(
            [RetryRule("features.errors.InputError", RetryAction.FAIL)]
        ),
        "on_failure_callback": airflow_tasks.close_as_failed,
    },
):
    asked = request()
    towers(asked) >> item_vectors(asked) >> index(asked) >> candidates(asked)
