"""# recall

Finds a few hundred candidates for each user: trains the towers, lays out the item vectors and their
index, and retrieves through every generator.

Follows the asset `histories` and takes its newest event, on the play button too. A run that an
event started is skipped where the newest has been seen to.
"""

from typing import Any

from airflow.sdk import task

from funnel import airflow_tasks

HISTORIES, CANDIDATES = airflow_tasks.asset("histories"), airflow_tasks.asset("candidates")


@task(**airflow_tasks.training())
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
    airflow_tasks.announce(request, "recall", outlet_events[CANDIDATES])
    return outcome


with airflow_tasks.stage_dag("recall", __doc__, [HISTORIES]):
    request = airflow_tasks.request_from("recall")
    towers(request) >> index(request) >> candidates(request)
