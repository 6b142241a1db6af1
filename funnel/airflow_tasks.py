"""What the DAGs hand to each other: one request, made in `ingest`, carried by asset events from
stage to stage.

The DAG files wire; what every DAG and every task shares is here. DAG files import this module, so
heavy imports stand inside the functions. A request travels as the JSON of
`funnel.pipeline.Request`, in the event's extra under `request`.

An event is a doorbell, no letter: Airflow folds events that arrive while a run is active into one,
so the run that it starts takes the newest event there is, whichever rang. What a newer one has done
already is skipped, and nothing is lost.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, Protocol, TypeVar
from urllib.parse import quote

from features.errors import InputError, NotReady
from funnel.airflow_api import write_note
from funnel.airflow_form import in_words_of_the_form, overrides_of, require_settings
from funnel.notify import notify

if TYPE_CHECKING:
    from airflow.sdk import DAG, Asset, XComArg
    from airflow.sdk.bases.timetable import BaseTimetable

    from funnel import pipeline
    from funnel.pipeline import Request
    from funnel.store import Store

Json = dict[str, Any]
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage:
    """One DAG of the pipeline: the asset that it announces, the one that it follows (None: it has a
    clock), its headline figures, and the experiment in MLflow that its links lead to.

    A figure is found in an artefact: `figure` is a number that the artefact says of itself,
    `file.parquet` the rows of that file, `epochs.json:column` the last one known.
    """

    name: str
    announces: str
    logged: "pipeline.Stage"
    follows: str | None = None
    figures: Mapping[str, tuple[str, str]] = field(default_factory=dict)


SERVING = "serving"
STAGES = (
    Stage(
        "ingest",
        "interactions",
        "ingest",
        figures={"rows": ("interactions", "rows"), "users": ("interactions", "users")},
    ),
    Stage(
        "features",
        "histories",
        "features",
        "interactions",
        {
            "users": ("vocabulary", "users.parquet"),
            "items": ("vocabulary", "items.parquet"),
            "impressions": ("impressions", "impressions.parquet"),
        },
    ),
    Stage(
        "recall",
        "candidates",
        "recall",
        "histories",
        {
            "validation hit rate": ("towers", "epochs.json:hit_rate@50"),
            "candidates": ("candidates", "candidates.parquet"),
        },
    ),
    Stage(
        "ranking",
        "recommendations",
        "ranking",
        "candidates",
        {
            "hit rate": ("report", "funnel.hr@10"),
            "watch share": ("report", "funnel.watch_seconds_share@10"),
        },
    ),
    Stage(
        SERVING,
        "lists",
        "ranking",
        "recommendations",
        {"recommendations": ("recommendations", "recommendations.parquet")},
    ),
)
NIGHTLY = "0 4 * * *"
READY, READY_SECONDS = "_READY", 5.0
# All but backfills, which would read the same folder once for each day.
RUN_TYPES = (
    *("scheduled", "manual", "operator_triggered", "asset_triggered"),
    "asset_materialization",
)
# Of how many events the newest is looked for that carries a request.
EVENTS_READ = 20
# Until the run that an event starts is there.
EVENT_TAKES = timedelta(seconds=10)
# Of XComs and of events: the address of the stage's run in MLflow. Of XComs: why a task failed.
LINK, FAILURE = "mlflow", "failure"
# Of events: the content of the log that a request is about.
LOG = "log"


class Event(Protocol):
    """An asset event as Airflow gives it to a task."""

    @property
    def extra(self) -> Json | None:
        """What the producer put there."""


class Announcement(Protocol):
    """The asset event that a task sends when it succeeds."""

    extra: Json


class TaskRefused(SystemExit):
    """A task refuses its input: Airflow ends its log with the sentence and shows no stack, which it
    would of any other exception.
    """


def stage_dag(
    stage: str, doc: str, schedule: "BaseTimetable | list[Asset]", **params: Any
) -> "DAG":
    """The DAG of one stage, called like it, with what all stages share; `params` are its form.

    A failed task is tried twice more, later each time; one that refuses its input fails at once,
    one whose data is still being written waits ten times as long. A run that takes longer than
    WATCHFUNNEL_TIMEOUT_HOURS (12 unless said) fails, as does a task that takes a quarter of it, and
    who `funnel.notify` names is told of every run that fails.
    """
    from airflow.sdk import DAG, ExceptionRetryPolicy, RetryAction, RetryRule

    delay = timedelta(seconds=float(os.environ.get("WATCHFUNNEL_RETRY_SECONDS", "60")))
    late = RetryRule(
        "features.errors.NotReady",
        retry_delay=10 * delay,
        reason="The data is not there, or not whole, yet: the task waits for it.",
    )
    refusal = RetryRule("funnel.airflow_tasks.TaskRefused", RetryAction.FAIL)
    number = [each.name for each in STAGES].index(stage) + 1
    options: Json = (
        {} if os.environ.get("WATCHFUNNEL_BACKFILL") else {"allowed_run_types": RUN_TYPES}
    )
    return DAG(
        dag_id=stage,
        # The list of DAGs is by name: so it is in the order of the pipeline.
        dag_display_name=f"{number} {stage}",
        description=" ".join(doc.split("\n\n")[1].split()),
        doc_md=doc,
        schedule=schedule,
        catchup=False,
        max_active_runs=1,
        params=params,
        tags=["watchfunnel", stage],
        dagrun_timeout=_time_limit(1),
        # A task that is killed at its last try has no callback of its own.
        on_failure_callback=[close_as_failed, note_failure, tell_of_failure],
        default_args={
            "owner": "watchfunnel",
            "retries": 2,
            "retry_delay": delay,
            "retry_exponential_backoff": 2,
            "retry_policy": ExceptionRetryPolicy([late, refusal]),
            "execution_timeout": _time_limit(1 / 4),
            # A backfill has several runs at once, and one of them writes an artefact.
            "max_active_tis_per_dag": 1,
            "on_failure_callback": [close_as_failed, note_failure],
        },
        **options,
    )


def training() -> Json:
    """How a task that trains differs from the others: tried once more, three quarters of the time
    of a run, one at a time on this machine.

    Two trainings of different DAGs share no machine where WATCHFUNNEL_TRAINING_POOL names a pool of
    one slot. A task whose pool does not exist is never started, so the pool is only used where it
    is named.
    """
    return {
        "retries": 1,
        "execution_timeout": _time_limit(3 / 4),
        "pool": os.environ.get("WATCHFUNNEL_TRAINING_POOL") or "default_pool",
    }


def asset(name: str) -> "Asset":
    """The asset of an artefact that is announced."""
    from airflow.sdk import Asset

    return Asset(name=name, uri=f"watchfunnel://artefacts/{name}", group="watchfunnel")


def nightly_or_ready(environment: Mapping[str, str] = os.environ) -> "BaseTimetable":
    """Every night, and when a file `_READY` appears in the folder WATCHFUNNEL_DATA, where it is
    deleted as it is seen; without such a folder every night.
    """
    from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher, CronTriggerTimetable

    clock, folder = (
        CronTriggerTimetable(NIGHTLY, timezone="UTC"),
        environment.get("WATCHFUNNEL_DATA", ""),
    )
    if not os.path.isabs(folder):
        return clock
    from airflow.providers.standard.triggers.file import FileDeleteTrigger

    flag = FileDeleteTrigger(filepath=str(Path(folder) / READY), poke_interval=READY_SECONDS)
    ready = Asset(
        name="ready",
        uri="watchfunnel://data/ready",
        group="watchfunnel",
        watchers=[AssetWatcher(name="ready", trigger=flag)],
    )
    return AssetOrTimeSchedule(timetable=clock, assets=[ready])


def _time_limit(share: float) -> timedelta:
    return timedelta(hours=share * float(os.environ.get("WATCHFUNNEL_TIMEOUT_HOURS", "12")))


def _refusing(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function as a task calls it: a refusal is TaskRefused, in the words of the form, and what
    is waited for NotReady in the same words.
    """

    @wraps(function)
    def refusing(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except NotReady as late:
            raise NotReady(in_words_of_the_form(str(late))) from None
        except InputError as refusal:
            raise TaskRefused(in_words_of_the_form(str(refusal))) from refusal

    return refusing


def request_from(stage: str) -> "XComArg":
    """The task `request` of a stage that follows an asset, in the DAG at hand."""
    from airflow.sdk import task

    this = _stage(stage)
    followed = asset(str(this.follows))

    @task(inlets=[followed])
    def request(triggering_asset_events: Any = None) -> Json:
        """What this run is asked to do, from the newest event of the asset; skipped where that has
        been done.
        """
        rang = triggering_asset_events.get(followed)
        taken = take_request(rang, _newest(followed.name), _newest(this.announces), stage)
        return serving_request(taken) if stage == SERVING else taken

    return request()


@_refusing
def take_request(
    rang: Sequence[Event] | None, newest: Iterable[Event], handed_on: Iterable[Event], stage: str
) -> Json:
    """What a run of a stage is asked to do: the request of the newest event of the asset that it
    follows.

    `rang` are the events that started the run, None on the button; events of the stage's own asset
    (`handed_on`, newest first) tell whether that request has been seen to, in which case a run that
    an event started is skipped.
    """
    extra = received(newest, str(_stage(stage).follows))
    request: Json = extra["request"]
    if rang:
        print(f"Started by {len(rang)} event{'s' if len(rang) > 1 else ''}.")
        done = carried(handed_on)
        if done and done["request"]["run"] == request["run"] and done.get(LOG) == extra.get(LOG):
            _skip(
                f"Nothing is to be done: the request of the run `{request['run']}` has been seen "
                "to and handed on."
            )
    print(f"The request of the run `{request['run']}` of `ingest`.")
    _push_link(extra.get(LINK, ""))
    return request


@_refusing
def serving_request(request: Json) -> Json:
    """The request for the lists as of now that follows an evaluation; the task is skipped, and the
    lists stay as they are, where the evaluation says that lists are not fit to serve.
    """
    from funnel.pipeline import Request, verdict_of

    evaluated = Request.model_validate(request)
    if evaluated.purpose == SERVING:
        _skip("Nothing is to be done: the run held nothing out, so its lists are those as of now.")
    verdict, serving = verdict_of(evaluated.store.path("report")), evaluated.serving()
    if verdict["fit"] is False:
        _skip(f"{verdict['sentence']} The lists in {serving.shown} stay as they are.")
    return serving.model_dump(mode="json")


@_refusing
def make_request(params: Mapping[str, Any], run: str, ti: Any) -> Json:
    """The request that these Params make; the task is skipped where every artefact stands already,
    or where the same request is being made.

    Home and tracking address come from WATCHFUNNEL_HOME and MLFLOW_TRACKING_URI. MLflow runs that
    nobody works on any more are closed first.
    """
    from funnel.maintenance.stale_runs import close_stale_runs

    request, stale = build_request(params, run)
    if not stale:
        _tell_if_stale(request)
        _skip(
            "Same data, same configuration, same code: every artefact is up to date, nothing is to "
            "be done."
        )
    now = datetime.now(UTC)
    active = [stage.name for stage in STAGES if stage.follows and _is_active(stage, ti, now)]
    newest = carried(_newest(_stage("ingest").announces)) if active else None
    if newest and being_made(request, stale, newest, active):
        _skip(
            f"The run `{newest['request']['run']}` is making the same request; it is in "
            f"`{active[0]}`."
        )
    print(f"To be made: {', '.join(stale)}.")
    close_stale_runs(request.tracking, state_of_dag_run)
    if request.tracking and request.tracking.startswith("http"):
        _push_link(f"{request.tracking.rstrip('/')}/#/experiments?workflowType=machine_learning")
    return request.model_dump(mode="json")


def build_request(params: Mapping[str, Any], run: str) -> tuple["Request", list[str]]:
    """The request that these Params make, and the artefacts that are not up to date for it: those
    of the evaluation, else, where its lists are fit to serve, those of the lists as of now.
    """
    require_settings(params)
    if not params["data"]:
        raise InputError("The field `data` of the form is empty; it names the folder of the log.")
    from funnel.pipeline import request_for, stale_steps, verdict_of

    request = request_for(
        source=params["source"],
        data=params["data"],
        overrides=overrides_of(params),
        home=_home(),
        tracking=os.environ.get("MLFLOW_TRACKING_URI"),
        run=run,
    )
    stale = stale_steps(request)
    if stale or request.purpose == SERVING or verdict_of(request.shown)["fit"] is False:
        return request, stale
    return request, stale_steps(request.serving())


def state_of_dag_run(dag: str, run: str) -> str:
    """The state of a run of a DAG, as Airflow tells its tasks; outside of them it raises."""
    from airflow.sdk import get_current_context

    state = get_current_context()["ti"].get_dagrun_state(dag, run)
    # It is an enumeration of strings, which prints as its class and name.
    return str(getattr(state, "value", state))


def being_made(
    request: "Request", stale: Sequence[str], newest: Json, active: Collection[str]
) -> bool:
    """Whether the chain at work will make all that is stale for a request.

    `newest` is what the last event of the log carries, `active` the stages at work or about to be.
    The chain makes the same where its request says the same of the same log, and where nothing is
    stale that lies before the first stage at work.
    """
    from funnel.pipeline import STEPS

    def asked(of: Json) -> Json:
        return {
            name: value for name, value in of.items() if name not in ("run", "started", "versions")
        }

    names = [stage.name for stage in STAGES]
    reached = min(map(names.index, active))
    return (
        asked(request.model_dump(mode="json")) == asked(newest["request"])
        and names.index(STEPS[stale[0]].stage) >= reached
        and newest.get(LOG) == request.store.manifest("interactions").content
    )


def received(events: Iterable[Event], asset: str) -> Json:
    """What the newest event of an asset carries, of events newest first; InputError where none
    carries a request.
    """
    extra = carried(events)
    if extra is None:
        raise InputError(
            f"There is no event of the asset `{asset}` that carries a request; run the DAG "
            "`ingest` first."
        )
    return extra


def carried(events: Iterable[Event]) -> Json | None:
    """What the first event carries that carries a request: one made by hand in the UI has none."""
    extras = (event.extra or {} for event in events)
    return next((extra for extra in extras if extra.get("request")), None)


@_refusing
def make(request: Json, *names: str) -> Json:
    """Make artefacts of one stage in turn, or find them up to date: their versions, whether they
    were made and in how many seconds, a sentence, and the address of their MLflow run.
    """
    from funnel import pipeline
    from funnel.observer import observe

    parsed = pipeline.Request.model_validate(request)
    stage, observer = pipeline.STEPS[names[0]].stage, observe(parsed)
    observer.on_stage_start(stage)
    url = observer.url(stage)
    # Before the work: who watches a training looks at its curves.
    _push_link(url)
    outcomes = []
    for name in names:
        outcomes.append(pipeline.make(name, parsed, observer=observer))
        print(outcomes[-1].line)
    if "interactions" in names:
        _tell_if_stale(parsed)
    if url:
        print(f"MLflow: {_for_browsers(url)}")
    told = ("version", "content", "made", "seconds")
    artefacts = {each.name: {name: getattr(each, name) for name in told} for each in outcomes}
    return {
        "url": _for_browsers(url),
        "line": "; ".join(each.line for each in outcomes),
        "artefacts": artefacts,
    }


@_refusing
def announce(request: Json, stage: str, event: Announcement, sentence: str = "") -> None:
    """Put into the event of a stage's asset what the next stage is asked to do (the same, with the
    versions pinned that this stage has made) beside the stage's headline figures, and say on the
    run what came of it.
    """
    from funnel import pipeline
    from funnel.observer import observe

    parsed = pipeline.Request.model_validate(request)
    figures = headline_figures(stage, parsed.store)
    url = _for_browsers(observe(parsed).url(_stage(stage).logged))
    onward = pipeline.advance(parsed, stage)
    event.extra = {
        "figures": figures,
        LINK: url,
        LOG: parsed.store.manifest("interactions").content,
        "request": onward.model_dump(mode="json"),
    }
    _note(note_text(parsed, figures, url, sentence), *_run_at_hand())


def headline_figures(stage: str, store: "Store") -> dict[str, float]:
    """The figures of a stage that are known, by name."""
    found = {
        name: _figure(store, artefact, where)
        for name, (artefact, where) in _stage(stage).figures.items()
    }
    return {name: value for name, value in found.items() if value is not None}


def note_text(request: "Request", figures: Mapping[str, float], url: str, sentence: str) -> str:
    """What came of a run, in Markdown: a sentence or the figures, the log it was made of, and where
    to read on.
    """
    numbers = ", ".join(
        f"{name} {value:,.0f}" if value >= 1_000 or value == int(value) else f"{name} {value:.3f}"
        for name, value in figures.items()
    )
    summary = json.loads((request.store.path("interactions") / "summary.json").read_text())
    log = f"Source `{request.source}`, log until {summary['last_timestamp'][:10]}, {request.data}."
    base = os.environ.get("AIRFLOW__API__BASE_URL", "").rstrip("/")
    links = [f"[ingest run {request.run}]({base}/dags/ingest/runs/{quote(request.run)})"]
    links += [f"[MLflow]({url})"] if url else []
    texts = [sentence, f"{numbers[:1].upper()}{numbers[1:]}." if numbers else "", log]
    return "\n\n".join([" ".join(text for text in texts if text), " · ".join(links)])


@_refusing
def conclude(request: Json) -> str:
    """Show the lists and the report in the folder of their purpose; the run is over, and who was
    erased from the log goes from older versions. Returns the report's verdict.
    """
    from funnel import pipeline
    from funnel.forget import forget_erased
    from funnel.observer import observe

    parsed = pipeline.Request.model_validate(request)
    pipeline.publish_files(parsed)
    observe(parsed).on_end()
    verdict = pipeline.verdict_of(parsed.shown)
    if verdict["fit"] is False:
        notify(
            "watchfunnel: lists that are not fit to serve", f"{verdict['sentence']} {parsed.home}"
        )
    for sentence in forget_erased(parsed):
        print(sentence)
    return str(verdict["sentence"])


def close_as_failed(context: Mapping[str, Any]) -> None:
    """Airflow's failure callback: a task that failed for good, and may have been killed, fails its
    stage in MLflow.

    The task's own callback knows why and keeps it for the DAG's, which comes later and has nothing
    to do but where the task was killed.
    """
    ti, error = context.get("ti"), context.get("exception")
    if ti is None or (not error and _known_failure(ti)):
        return
    if error:
        ti.xcom_push(key=FAILURE, value=_text_of(error))
    request = ti.xcom_pull(task_ids="request")
    if request:
        from funnel import pipeline
        from funnel.observer import observe

        # A task is called like an artefact that it makes.
        stage = pipeline.STEPS[ti.task_id].stage
        cause = (error.__cause__ or error) if isinstance(error, TaskRefused) else error
        observe(pipeline.Request.model_validate(request)).on_failure(stage, cause)


def note_failure(context: Mapping[str, Any]) -> None:
    """Airflow's failure callback: the run's note says which task failed and why; of the DAG's only
    where the task was killed.
    """
    ti = context.get("ti")
    if context.get("exception") or ti is None or not _known_failure(ti):
        _note(*_failure(context))


def tell_of_failure(context: Mapping[str, Any]) -> None:
    """Airflow's failure callback of a DAG: who is to be told hears which task failed, and why."""
    text, dag, run = _failure(context)
    notify(f"watchfunnel: {dag} failed", f"{text} Run {run}")


def _failure(context: Mapping[str, Any]) -> tuple[str, str, str]:
    """Which task failed and why, in a sentence; its DAG and its run."""
    ti = context.get("ti")
    timed_out = "the time of the run was up" if context.get("reason") == "timed_out" else ""
    if ti is None:
        why = timed_out or "the logs of its tasks say why"
        return f"The run failed: {why}.", context["dag"].dag_id, context["run_id"]
    why = timed_out or _known_failure(ti) or "its process was killed"
    sentence = why if why.endswith((".", "?")) else f"{why}."
    text = f"Task `{ti.task_id}` failed: {sentence} [Its log]({ti.log_url})"
    return text, ti.dag_id, ti.run_id


def _known_failure(ti: Any) -> str:
    """Why a task failed, as its own callback kept it; "" where it was killed."""
    return str(ti.xcom_pull(task_ids=ti.task_id, key=FAILURE) or "")


def _text_of(error: BaseException) -> str:
    return str(error) if isinstance(error, TaskRefused) else f"{type(error).__name__}: {error}"


def _is_active(stage: Stage, ti: Any, now: datetime) -> bool:
    """Whether a stage that follows an asset is at work, or about to be: an event's run takes a
    moment to be there.
    """
    if ti.get_dr_count(stage.name, states=["queued", "running"]):
        return True
    newest: Any = next(iter(_newest(str(stage.follows))), None)
    return newest is not None and now - newest.timestamp < EVENT_TAKES


def _stage(name: str) -> Stage:
    return next(stage for stage in STAGES if stage.name == name)


def _newest(name: str) -> Iterable[Event]:
    """The newest events of an asset, newest first."""
    # As `inlet_events[asset]` gives them. A task's own asset as its inlet would be a circle in the
    # lineage, and with `Asset.ref` as an inlet no callback of a DAG gets a context (3.3.2).
    from airflow.sdk.execution_time.context import InletEventsAccessor

    events = InletEventsAccessor(asset_name=name, asset_uri=asset(name).uri)
    found: Iterable[Event] = events.ascending(False).limit(EVENTS_READ)
    return found


def _skip(sentence: str) -> NoReturn:
    """End the task as skipped, and with it what comes after; the log and the run's note say why."""
    from airflow.sdk.exceptions import AirflowSkipException

    _note(f"Skipped. {sentence}", *_run_at_hand())
    raise AirflowSkipException(sentence)


def _run_at_hand() -> tuple[str, str]:
    """DAG and run of the task at hand."""
    return os.environ.get("AIRFLOW_CTX_DAG_ID", ""), os.environ.get("AIRFLOW_CTX_DAG_RUN_ID", "")


def _note(text: str, dag: str, run: str) -> None:
    """Say on a run what came of it, and in the log in any case."""
    print(text)
    untold = write_note(dag, run, text)
    if untold:
        print(f"There is no note on the run: {untold}")


def _push_link(url: str) -> None:
    """Give the task at hand its button to MLflow."""
    from airflow.sdk import get_current_context

    if url:
        get_current_context()["ti"].xcom_push(key=LINK, value=_for_browsers(url))


def _for_browsers(url: str) -> str:
    """An address of MLflow as a browser knows it: WATCHFUNNEL_MLFLOW_URL in place of the tracking
    address.
    """
    seen, known = (
        os.environ.get(name, "") for name in ("WATCHFUNNEL_MLFLOW_URL", "MLFLOW_TRACKING_URI")
    )
    known = known.rstrip("/")
    return seen.rstrip("/") + url.removeprefix(known) if seen and url.startswith(known) else url


def _figure(store: "Store", artefact: str, where: str) -> float | None:
    from funnel.pipeline import figures_of

    file, _, column = where.partition(":")
    if file.endswith(".parquet"):
        rows: float = store.manifest(artefact).files[file]["rows"]
        return rows
    folder = store.path(artefact)
    if not column:
        return figures_of(artefact, folder).get(where)
    epochs = json.loads((folder / file).read_text())
    return next((row[column] for row in reversed(epochs) if row.get(column) is not None), None)


def _tell_if_stale(request: "Request") -> None:
    """Say it where the log's newest row is too old: a feed that died fails no run."""
    from funnel.freshness import stale_log

    sentence = stale_log(request.store, datetime.now(UTC))
    if sentence:
        print(sentence)
        notify("watchfunnel: the log is stale", f"{sentence} {request.data}")


def _home() -> str:
    home = os.environ.get("WATCHFUNNEL_HOME")
    if not home:
        raise InputError(
            "WATCHFUNNEL_HOME is not set; it names the folder that the artefacts live in."
        )
    return home
