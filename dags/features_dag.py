"""# features

Turns the cleaned log into what both models learn from: the split, the vocabulary learnt before the
instant, the impressions, each user's history once, the samples that are views into it, and the side
columns of users and items.

Follows the asset `interactions`; on the play button it takes the newest event.
"""

from typing import Any

from airflow.sdk import Asset, task

from funnel import airflow_tasks

INTERACTIONS, HISTORIES = Asset("interactions"), Asset("histories")


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


with airflow_tasks.stage_dag("features", __doc__, [INTERACTIONS]):
    asked = airflow_tasks.request_from(INTERACTIONS)
    impressions_ = impressions(asked)
    profiles_ = profiles(asked)
    split(asked) >> vocabulary(asked) >> impressions_ >> profiles_
    # Profiles need no samples, but the event they send starts `recall`, which does.
    impressions_ >> histories(asked) >> samples(asked) >> profiles_
