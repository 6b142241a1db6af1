"""# ranking

Orders each user's candidates: builds the ranking rows, trains the ranker, chooses on validation
lists how expected watch seconds and the chance to be watched next make one order, writes the lists,
and evaluates them on the test window.

Follows the asset `candidates` and takes its newest event, on the play button too. A run that an
event started is skipped where the newest has been seen to. Its last task ends the run in MLflow.
"""

from typing import Any

from airflow.sdk import task

from funnel import airflow_tasks

CANDIDATES = airflow_tasks.asset("candidates")
RECOMMENDATIONS = airflow_tasks.asset("recommendations")


@task
def ranking_rows(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """One row an impression: features as of its instant, what was clicked and for how long it was
    watched.
    """
    return airflow_tasks.make(request, "ranking_rows")


@task(**airflow_tasks.training())
def ranker(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """The weighted classifier whose odds are expected watch seconds."""
    return airflow_tasks.make(request, "ranker")


@task
def list_order(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """How lists are ordered, by expected seconds and by the chance of a watch, as the validation
    window's lists say; and where `pre_rank.keep` asks for it, the light scorer that leaves the
    ranker a part of the candidates.
    """
    return airflow_tasks.make(request, "list_order", "pre_ranker")


@task
def recommendations(request: airflow_tasks.Json) -> airflow_tasks.Json:
    """Each user's candidates in the order that was chosen."""
    return airflow_tasks.make(request, "recommendations")


@task(outlets=[RECOMMENDATIONS])
def report(request: airflow_tasks.Json, outlet_events: Any) -> airflow_tasks.Json:
    """Every metric of both stages on the test window. Then the recommendations are announced."""
    outcome = airflow_tasks.make(request, "report")
    verdict = airflow_tasks.conclude(request)
    airflow_tasks.announce(request, "ranking", outlet_events[RECOMMENDATIONS], verdict)
    return outcome


with airflow_tasks.stage_dag("ranking", __doc__, [CANDIDATES]):
    request = airflow_tasks.request_from("ranking")
    ranker_ = ranking_rows(request) >> ranker(request)
    ranker_ >> list_order(request) >> recommendations(request) >> report(request)
