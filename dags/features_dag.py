"""# features

Turns the cleaned log into what both models learn from: the split, the vocabulary learnt before the
instant, the impressions, each user's history once, the samples that are views into it, and the side
columns of users and items.

Follows the asset `interactions` and takes its newest event, on the play button too. A run that an
event started is skipped where the newest has been seen to.
"""

from typing import Any

from airflow.sdk import task

from funnel import airflow_tasks

INTERACTIONS, HISTORIES = airflow_tasks.asset("interactions"), airflow_tasks.asset("histories")


@task
def impressions(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The split; the vocabulary, in which raw ids have indexes and 0 is padding; the log by index,
    one row an impression.
    """
    return airflow_tasks.make(request, "split", "vocabulary", "impressions")


@task(outlets=[HISTORIES])
def histories(request: airflow_tasks.Json, outlet_events: Any) -> airflow_tasks.Json:
    """Each user's completed watches in time order, kept once; the samples, which are positions in
    them; the side features of users and items.
    """
    outcome = airflow_tasks.make(request, "histories", "samples", "profiles")
    airflow_tasks.announce(request, "features", outlet_events[HISTORIES])
    return outcome


with airflow_tasks.stage_dag("features", __doc__, [INTERACTIONS]):
    request = airflow_tasks.request_from("features")
    impressions(request) >> histories(request)
