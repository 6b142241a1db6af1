"""# features

Turns the cleaned log into what both models learn from: the windows, the vocabulary learnt before the instant, the
impressions, each user's history once, the samples that are views into it, and the side columns of users and items.

Follows the asset `interactions`; on the play button it takes the newest event.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, ExceptionRetryPolicy, RetryAction, RetryRule, task

from funnel import relay

INTERACTIONS, HISTORIES = Asset("interactions"), Asset("histories")


@task(inlets=[INTERACTIONS])
def request(triggering_asset_events: Any, inlet_events: Any) -> relay.Json:
    """What this run is asked to do: the request in the event that started it, else in the newest event."""
    return relay.received(triggering_asset_events.get(INTERACTIONS) or inlet_events[INTERACTIONS], INTERACTIONS.name)


@task
def windows(request: relay.Json) -> relay.Json:
    """The instants that part the log into history, labels and holdout."""
    return relay.make("windows", request)


@task
def vocabulary(request: relay.Json) -> relay.Json:
    """Raw ids and their indexes, learnt before the instant; index 0 is nobody."""
    return relay.make("vocabulary", request)


@task
def impressions(request: relay.Json) -> relay.Json:
    """The log by index, one row an impression."""
    return relay.make("impressions", request)


@task
def histories(request: relay.Json) -> relay.Json:
    """Each user's completed watches in time order, kept once."""
    return relay.make("histories", request)


@task
def samples(request: relay.Json) -> relay.Json:
    """Pairs of user and position into the histories: what the towers are trained on."""
    return relay.make("samples", request)


@task(outlets=[HISTORIES])
def profiles(request: relay.Json, outlet_events: Any) -> relay.Json:
    """Side columns of users and items. The stage's last: its asset event says that the whole stage stands."""
    outcome = relay.make("profiles", request)
    outlet_events[HISTORIES].extra = relay.onward(request, "features")
    return outcome


with DAG(
    dag_id="features",
    doc_md=__doc__,
    schedule=[INTERACTIONS],
    catchup=False,
    max_active_runs=1,
    tags=["watchfunnel"],
    # A task that is killed at its last try has no callback of its own.
    on_failure_callback=relay.close_as_failed,
    default_args={
        "owner": "watchfunnel",
        "retries": 2,
        "retry_delay": timedelta(seconds=relay.retry_seconds()),
        "retry_exponential_backoff": 2,
        "retry_policy": ExceptionRetryPolicy([RetryRule("features.errors.Refused", RetryAction.FAIL)]),
        "on_failure_callback": relay.close_as_failed,
    },
):
    asked = request()
    impressions_ = impressions(asked)
    profiles_ = profiles(asked)
    windows(asked) >> vocabulary(asked) >> impressions_ >> profiles_
    # Profiles need no samples, but the event they send starts `recall`, which does.
    impressions_ >> histories(asked) >> samples(asked) >> profiles_
