"""What the DAGs hand to each other: one request, made in `ingest`, carried by asset events from
stage to stage.

The DAG files wire; what every DAG and every task shares is here. DAG files import this module, so
heavy imports stand inside the functions. A request travels as the JSON of
`funnel.pipeline.Request`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from features.errors import InputError
from funnel.notify import notify

if TYPE_CHECKING:
    from airflow.sdk import DAG, Asset, XComArg

    from funnel.pipeline import Request

STAGES = ("ingest", "features", "recall", "ranking")
Json = dict[str, Any]


class Event(Protocol):
    """An asset event as Airflow gives it to a task."""

    @property
    def extra(self) -> Json | None:
        """The request that the producer put there."""


def stage_dag(stage: str, doc: str, schedule: str | list["Asset"], **params: Any) -> "DAG":
    """The DAG of one stage, called like it, with what all stages share; `params` are its form.

    A failed task is tried twice more, later each time; one that refuses its input fails at once,
    one whose data is still being written waits ten times as long. A
    run that takes longer than WATCHFUNNEL_TIMEOUT_HOURS (12 unless said) fails, and who
    `funnel.notify` names is told of every run that fails.
    """
    from airflow.sdk import DAG, ExceptionRetryPolicy, RetryAction, RetryRule

    delay = timedelta(seconds=float(os.environ.get("WATCHFUNNEL_RETRY_SECONDS", "60")))
    late = RetryRule(
        "features.errors.NotReady",
        retry_delay=10 * delay,
        reason="The data is not there, or not whole, yet: the task waits for it.",
    )
    refusal = RetryRule("features.errors.InputError", RetryAction.FAIL)
    return DAG(
        dag_id=stage,
        # The list of DAGs is by name: so it is in the order of the pipeline.
        dag_display_name=f"{STAGES.index(stage) + 1} {stage}",
        description=" ".join(doc.split("\n\n")[1].split()),
        doc_md=doc,
        schedule=schedule,
        catchup=False,
        max_active_runs=1,
        params=params,
        tags=["watchfunnel"],
        dagrun_timeout=timedelta(hours=float(os.environ.get("WATCHFUNNEL_TIMEOUT_HOURS", "12"))),
        # A task that is killed at its last try has no callback of its own.
        on_failure_callback=[close_as_failed, tell_of_failure],
        default_args={
            "owner": "watchfunnel",
            "retries": 2,
            "retry_delay": delay,
            "retry_exponential_backoff": 2,
            "retry_policy": ExceptionRetryPolicy([late, refusal]),
            "on_failure_callback": close_as_failed,
        },
    )


def request_from(asset: "Asset") -> "XComArg":
    """The task `request` of a stage that follows an asset, in the DAG at hand."""
    from airflow.sdk import task

    @task(inlets=[asset])
    def request(triggering_asset_events: Any = None, inlet_events: Any = None) -> Json:
        """What this run is asked to do, from the event that started it, else from the newest
        event.
        """
        return received(triggering_asset_events.get(asset) or inlet_events[asset], asset.name)

    return request()


def build_request(params: Mapping[str, Any], run: str) -> Json | None:
    """The request that these Params make, or nothing where every artefact of the pipeline stands
    already.

    Home and tracking address come from WATCHFUNNEL_HOME and MLFLOW_TRACKING_URI. InputError on bad
    Params. MLflow runs that nobody works on any more are closed first.
    """
    from funnel.maintenance.stale_runs import close_stale_runs
    from funnel.pipeline import request_for, stale_steps

    request = request_for(
        source=params["source"],
        data=params["data"],
        overrides=_overrides(params),
        home=_home(),
        tracking=os.environ.get("MLFLOW_TRACKING_URI"),
        run=run,
    )
    stale = stale_steps(request)
    if not stale:
        print(
            "Same data, same configuration, same code: every artefact is up to date, nothing is to "
            "be done."
        )
        _tell_if_stale(request)
        return None
    print(f"To be made: {', '.join(stale)}.")
    close_stale_runs(request.tracking, state_of_dag_run)
    return request.model_dump(mode="json")


def state_of_dag_run(dag: str, run: str) -> str:
    """The state of a run of a DAG, as Airflow tells its tasks; outside of them it raises."""
    from airflow.sdk import get_current_context

    state = get_current_context()["ti"].get_dagrun_state(dag, run)
    # It is an enumeration of strings, which prints as its class and name.
    return str(getattr(state, "value", state))


def received(events: Sequence[Event], asset: str) -> Json:
    """The request of the newest event of an asset; InputError where there was none, or one without
    a request.
    """
    try:
        extra = events[-1].extra
    except IndexError:
        extra = None
    if not extra:
        raise InputError(
            f"There is no event of the asset `{asset}` that carries a request; run the DAG "
            "`ingest` first."
        )
    return extra


def make(request: Json, *names: str) -> Json:
    """Make artefacts of one stage in turn, or find them up to date: their versions, whether they
    were made and in how many seconds, a sentence, and the address of their MLflow run.
    """
    from funnel import pipeline
    from funnel.observer import observe

    parsed = pipeline.Request.model_validate(request)
    observer = observe(parsed)
    outcomes = []
    for name in names:
        outcomes.append(pipeline.make(name, parsed, observer=observer))
        print(outcomes[-1].line)
    if "interactions" in names:
        _tell_if_stale(parsed)
    url = observer.url(outcomes[-1].stage)
    if url:
        print(f"MLflow: {url}")
    told = ("version", "content", "made", "seconds")
    artefacts = {each.name: {field: getattr(each, field) for field in told} for each in outcomes}
    return {"url": url, "line": "; ".join(each.line for each in outcomes), "artefacts": artefacts}


def onward(request: Json, stage: str) -> Json:
    """The request for the next stage: the same, with the versions pinned that this stage has
    made.
    """
    from funnel import pipeline

    return pipeline.advance(pipeline.Request.model_validate(request), stage).model_dump(mode="json")


def conclude(request: Json) -> None:
    """Show the lists and the report at the home's top; the run is over, and who was erased from the
    log goes from older versions.
    """
    from funnel import pipeline
    from funnel.forget import forget_erased
    from funnel.observer import observe

    parsed = pipeline.Request.model_validate(request)
    pipeline.publish_files(parsed)
    observe(parsed).on_end()
    verdict = json.loads((Path(parsed.home) / "report.json").read_text())["run"]["verdict"]
    if verdict["fit"] is False:
        notify(
            "watchfunnel: lists that are not fit to serve", f"{verdict['sentence']} {parsed.home}"
        )
    for sentence in forget_erased(parsed):
        print(sentence)


def close_as_failed(context: Mapping[str, Any]) -> None:
    """Airflow's failure callback: a task that failed for good, and may have been killed, fails its
    stage in MLflow.
    """
    from funnel import pipeline
    from funnel.observer import observe

    request = context["ti"].xcom_pull(task_ids="request")
    if request:
        # A DAG is called like its stage.
        stage, error = context["ti"].dag_id, context.get("exception")
        observe(pipeline.Request.model_validate(request)).on_failure(stage, error)


def tell_of_failure(context: Mapping[str, Any]) -> None:
    """Airflow's failure callback of a DAG: who is to be told hears which task failed, and why."""
    task, error = context["ti"], context.get("exception")
    why = f"{type(error).__name__}: {error}" if error else "its process was killed, or time was up"
    run = getattr(context.get("dag_run"), "run_id", "?")
    where = getattr(task, "log_url", "")
    notify(
        f"watchfunnel: {task.dag_id} failed",
        f"Task {task.task_id} of run {run} failed: {why}. {where}".strip(),
    )


def _tell_if_stale(request: "Request") -> None:
    """Say it where the log's newest row is too old: a feed that died fails no run."""
    from funnel.freshness import stale_log

    sentence = stale_log(request.store, datetime.now(UTC))
    if sentence:
        print(sentence)
        notify("watchfunnel: the log is stale", f"{sentence} {request.data}")


def _overrides(params: Mapping[str, Any]) -> list[str]:
    own = [f"seed={params['seed']}", f"split.mode={params['split_mode']}"]
    timestamp_us = [f"split.test_start={params['test_start']}"] if params["test_start"] else []
    return own + timestamp_us + list(params["overrides"])


def _home() -> str:
    home = os.environ.get("WATCHFUNNEL_HOME")
    if not home:
        raise InputError(
            "WATCHFUNNEL_HOME is not set; it names the folder that the artefacts live in."
        )
    return home
