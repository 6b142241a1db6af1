"""# recall

Finds a few hundred candidates for each user: trains the towers, lays out the item vectors and their
index, and retrieves through every generator.

Follows the asset `histories`; on the play button it takes the newest event.
"""

from typing import Any

from airflow.sdk import Asset, task

from funnel import airflow_tasks

HISTORIES, CANDIDATES = Asset("histories"), Asset("candidates")


@task(max_active_tis_per_dag=1)
def towers(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The tower that makes a user vector of a history, trained on the warm-up and refreshed block
    by block.
    """
    return airflow_tasks.make(request, "towers")


@task
def index(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """One vector for each item of the catalogue, and these laid out for nearest-neighbour
    search.
    """
    return airflow_tasks.make(request, "item_vectors", "index")


@task(outlets=[CANDIDATES])
def candidates(request: airflow_tasks.Json, outlet_events: Any) -> airflow_tasks.Json:
    """The best few hundred items of each user, nothing seen among them, with the generators they
    came by.
    """
    outcome = airflow_tasks.make(request, "candidates")
    outlet_events[CANDIDATES].extra = airflow_tasks.onward(request, "recall")
    return outcome


with airflow_tasks.stage_dag("recall", __doc__, [HISTORIES]):
    request = airflow_tasks.request_from(HISTORIES)
    towers(request) >> index(request) >> candidates(request)
