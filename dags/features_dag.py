"""# features

Turns the cleaned log into what both models learn from: the split, the vocabulary learnt before the
instant, the impressions, each user's history once, the samples that are views into it, and the side
columns of users and items.

Follows the asset `interactions`; on the play button it takes the newest event.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, ExceptionRetryPolicy, RetryAction, RetryRule, task

from funnel import airflow_tasks as airflow_tasks

INTERACTIONS, HISTORIES = Asset("interactions"), Asset("histories")


@task(inlets=[INTERACTIONS])
def request(triggering_asset_events: Any, inlet_events: Any) -> airflow_tasks.Json:
    """What this run is asked to do: the request in the event that started it, else in the newest
    event.
    """
    return airflow_tasks.received(
        triggering_asset_events.get(INTERACTIONS) or inlet_events[INTERACTIONS], INTERACTIONS.name
    )


@task
def split(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The instants that part the log into history, labels and test window."""
    return airflow_tasks.make("split", request)


@task
def vocabulary(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """Raw ids and their indexes, learnt before the instant; index 0 is padding."""
    return airflow_tasks.make("vocabulary", request)


@task
def impressions(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The log by index, one row an impression."""
    return airflow_tasks.make("impressions", request)


@task
def histories(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """Each user's completed watches in time order, kept once."""
    return airflow_tasks.make("histories", request)


@task
def samples(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """Pairs of user and position into the histories: what the towers are trained on."""
    return airflow_tasks.make("samples", request)


@task(outlets=[HISTORIES])
def profiles(request: airflow_tasks.Json, outlet_events: Any) -> airflow_tasks.Json:
    """Side columns of users and items. The stage's last: its asset event says that the whole stage
    stands.
    """
    outcome = airflow_tasks.make("profiles", request)
    outlet_events[HISTORIES].extra = airflow_tasks.onward(request, "features")
    return outcome


with DAG(
    dag_id="features",
    doc_md=__doc__,
    schedule=[INTERACTIONS],
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
    impressions_ = impressions(asked)
    profiles_ = profiles(asked)
    split(asked) >> vocabulary(asked) >> impressions_ >> profiles_
    # Profiles need no samples, but the event they send starts `recall`, which does.
    impressions_ >> histories(asked) >> samples(asked) >> profiles_
