"""# serving

Makes the lists as of now, for everybody: the same steps on the same log, with nothing held out.
What the evaluation has made of the same rows, such as the towers of earlier days, is taken as it
is.

Follows the asset `recommendations`; on the play button it takes the newest event. Where the
evaluation says that lists are not fit to serve it is skipped, and the lists that are there stay.
"""

from typing import Any

from airflow.sdk import task

from funnel import airflow_tasks

LISTS = airflow_tasks.asset("lists")


@task
def histories(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The split after the last row, the vocabulary, the log by index, and each user's watches."""
    return airflow_tasks.make(
        request, "split", "vocabulary", "impressions", "histories", "samples", "profiles"
    )


@task(**airflow_tasks.training())
def towers(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The tower as of now: those of earlier cut-offs are taken from the evaluation's."""
    return airflow_tasks.make(request, "towers")


@task
def candidates(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The item vectors, their index, and the best few hundred items of each user."""
    return airflow_tasks.make(request, "item_vectors", "index", "candidates")


@task(**airflow_tasks.training())
def ranker(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The ranking rows of the whole log, and the ranker that is trained on them."""
    return airflow_tasks.make(request, "ranking_rows", "ranker")


@task(outlets=[LISTS])
def recommendations(request: airflow_tasks.Json, outlet_events: Any) -> airflow_tasks.Json:
    """The lists in the order that was chosen. Then they are announced."""
    outcome = airflow_tasks.make(request, "list_order", "pre_ranker", "recommendations", "report")
    airflow_tasks.conclude(request)
    airflow_tasks.announce(request, "serving", outlet_events[LISTS])
    return outcome


with airflow_tasks.stage_dag("serving", __doc__, [airflow_tasks.asset("recommendations")]):
    request = airflow_tasks.request_from("serving")
    made = histories(request) >> towers(request) >> candidates(request)
    made >> ranker(request) >> recommendations(request)
