"""# ranking

Orders each user's candidates: builds the ranking rows, trains the ranker, chooses on validation
lists how expected watch seconds and the chance to be watched next make one order, writes the lists,
and judges them on the test window.

Follows the asset `candidates`; on the play button it takes the newest event. Its last task ends the
run in MLflow.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, ExceptionRetryPolicy, RetryAction, RetryRule, task

from funnel import airflow_tasks as airflow_tasks

CANDIDATES, RECOMMENDATIONS = Asset("candidates"), Asset("recommendations")


@task(inlets=[CANDIDATES])
def request(triggering_asset_events: Any, inlet_events: Any) -> airflow_tasks.Json:
    """What this run is asked to do: the request in the event that started it, else in the newest
    event.
    """
    return airflow_tasks.received(
        triggering_asset_events.get(CANDIDATES) or inlet_events[CANDIDATES], CANDIDATES.name
    )


@task
def ranking_rows(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """One row an impression: features as of its instant, what was clicked and for how long it was
    watched.
    """
    return airflow_tasks.make("ranking_rows", request)


@task(max_active_tis_per_dag=1)
def ranker(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The weighted classifier whose odds are expected watch seconds."""
    return airflow_tasks.make("ranker", request)


@task
def list_order(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """How lists are ordered: by expected seconds and by the chance of a watch, as the validation
    window's lists say.
    """
    return airflow_tasks.make("list_order", request)


@task
def pre_ranker(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The light scorer that leaves the ranker a part of the candidates, where `pre_rank.keep` asks
    for it.
    """
    return airflow_tasks.make("pre_ranker", request)


@task
def recommendations(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """Each user's candidates in the order that was chosen."""
    return airflow_tasks.make("recommendations", request)


@task(outlets=[RECOMMENDATIONS])
def report(request: airflow_tasks.Json, outlet_events: Any) -> airflow_tasks.Json:
    """Every metric of both stages on the test window. Then the recommendations are announced."""
    outcome = airflow_tasks.make("report", request)
    airflow_tasks.conclude(request)
    outlet_events[RECOMMENDATIONS].extra = airflow_tasks.onward(request, "ranking")
    return outcome


with DAG(
    dag_id="ranking",
    doc_md=__doc__,
    schedule=[CANDIDATES],
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
    ranker_ = ranking_rows(asked) >> ranker(asked)
    ranker_ >> list_order(asked) >> pre_ranker(asked) >> recommendations(asked) >> report(asked)
