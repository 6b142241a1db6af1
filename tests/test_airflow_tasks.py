"""The rules by which runs of the DAGs take up requests, and the form of the first one: as functions,
without Airflow's processes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from features.data.formats import SOURCES
from features.errors import InputError, NotReady
from funnel import airflow_form, airflow_tasks
from funnel.airflow_plugin import WatchfunnelPlugin, menu
from funnel.airflow_tasks import LINK, STAGES, TaskRefused
from funnel.config import FunnelConfig, config_of
from funnel.pipeline import STEPS, Request, request_for
from funnel.store import ArtefactKey


@dataclass
class Event:
    extra: dict[str, Any] | None


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Airflow of the test's own, and none that answers."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "airflow"))
    monkeypatch.delenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", raising=False)


def request(run: str = "night", **settings: Any) -> Request:
    overrides = [f"{name}={value}" for name, value in settings.items()]
    return request_for("canonical", "/data", "/home", run, None, overrides)


def event(of: Request, log: str = "content") -> Event:
    extra = {"request": of.model_dump(mode="json"), "log": log, LINK: "", "figures": {}}
    return Event(extra)


def taken(rang: Any, newest: list[Event], handed_on: list[Event]) -> dict[str, Any]:
    return airflow_tasks.take_request(rang, newest, handed_on, "recall")


def test_a_run_takes_the_newest_event_whichever_rang() -> None:
    old, new = event(request("one")), event(request("two"))
    assert taken([old], [new, old], [])["run"] == "two"
    assert taken(None, [new, old], [])["run"] == "two"


def test_an_event_that_carries_no_request_is_passed_over() -> None:
    by_hand = Event({"from_rest_api": True})
    assert taken([by_hand], [by_hand, Event(None), event(request("two"))], [])["run"] == "two"
    with pytest.raises(TaskRefused, match=r"no event of the asset `histories`.*`ingest` first"):
        taken(None, [by_hand], [])


def test_what_has_been_handed_on_is_skipped_by_name_but_not_on_the_button(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    newest = [event(request("two"))]
    with pytest.raises(AirflowSkipException, match="`two` has been seen to"):
        taken(newest, newest, newest)
    assert "Skipped. Nothing is to be done" in capsys.readouterr().out
    assert taken(None, newest, newest)["run"] == "two"


@pytest.mark.parametrize("handed_on", [event(request("one")), event(request("two"), "older")])
def test_another_run_or_another_log_has_not_been_handed_on(handed_on: Event) -> None:
    newest = [event(request("two"))]
    assert taken(newest, newest, [handed_on])["run"] == "two"


def with_log(root: Path, **settings: Any) -> tuple[Request, dict[str, Any]]:
    """A request whose log has been made, and what its event carries."""
    made = request(**settings).model_copy(update={"home": str(root)})
    made.store.make(
        ArtefactKey("interactions", {}, "code", {}),
        lambda out: (out / "summary.json").write_text("{}") and None,
    )
    announced = event(made, made.store.manifest("interactions").content).extra
    assert announced
    return made, announced


def test_a_request_is_being_made_where_the_chain_has_not_passed_what_is_stale(
    tmp_path: Path,
) -> None:
    made, newest = with_log(tmp_path)
    again = made.model_copy(update={"run": "next night"})
    stale = list(STEPS)[list(STEPS).index("towers") :]
    assert airflow_tasks.being_made(again, stale, newest, ["recall"])
    assert airflow_tasks.being_made(again, stale, newest, ["features", "ranking"])
    assert not airflow_tasks.being_made(again, stale, newest, ["ranking"])


def test_other_settings_or_another_log_are_not_being_made(tmp_path: Path) -> None:
    made, newest = with_log(tmp_path)
    other = made.model_copy(update={"config": config_of(None, ["seed=3"])})
    assert not airflow_tasks.being_made(other, ["ranker"], newest, ["ranking"])
    older = newest | {"log": "of yesterday"}
    assert not airflow_tasks.being_made(made, ["ranker"], older, ["ranking"])


def test_the_stages_are_a_line_from_asset_to_asset() -> None:
    assert [stage.follows for stage in STAGES[1:]] == [stage.announces for stage in STAGES[:-1]]
    assert STAGES[0].follows is None
    *stages, serving = STAGES
    assert [stage.name for stage in stages] == list(dict.fromkeys(s.stage for s in STEPS.values()))
    assert [STEPS[stage.announces].stage for stage in stages] == [stage.name for stage in stages]
    assert [stage.logged for stage in STAGES] == [*(stage.name for stage in stages), "ranking"]
    assert serving.name == airflow_tasks.SERVING


def test_a_note_says_what_came_of_the_run_and_where_to_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "http://here:8080/")
    made = request("a+b").model_copy(update={"home": str(tmp_path)})
    summary = json.dumps({"last_timestamp": "2026-11-28T23:59:00+00:00"})
    made.store.make(
        ArtefactKey("interactions", {}, "code", {}),
        lambda out: (out / "summary.json").write_text(summary) and None,
    )
    figures = {"rows": 641_131.0, "hit rate": 0.3456}
    assert airflow_tasks.note_text(made, figures, "http://mlflow/run", "Fit to serve.") == (
        "Fit to serve. Rows 641,131, hit rate 0.346. Source `canonical`, log until 2026-11-28, "
        "/data.\n\n[ingest run a+b](http://here:8080/dags/ingest/runs/a%2Bb) · "
        "[MLflow](http://mlflow/run)"
    )


def test_links_lead_where_browsers_find_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert airflow_tasks._for_browsers("http://mlflow:5000/#/a") == "http://mlflow:5000/#/a"
    monkeypatch.setenv("WATCHFUNNEL_MLFLOW_URL", "https://seen/")
    assert airflow_tasks._for_browsers("http://mlflow:5000/#/a") == "https://seen/#/a"


@pytest.mark.parametrize(
    ("folder", "watched"),
    [("/data", True), ("", False), ("data", False), ("postgresql://host/log", False)],
)
def test_a_flag_is_watched_in_a_folder_and_nowhere_else(folder: str, watched: bool) -> None:
    from airflow.sdk import AssetOrTimeSchedule

    schedule = airflow_tasks.nightly_or_ready({"WATCHFUNNEL_DATA": folder})
    assert isinstance(schedule, AssetOrTimeSchedule) == watched
    if watched:
        ((watcher,),) = (asset.watchers for asset in schedule.asset_condition.objects)
        flag = {"filepath": "/data/_READY", "poke_interval": 5.0}
        assert watcher.trigger.serialize()[1] == flag


def test_a_training_uses_the_pool_that_is_named_and_else_the_one_that_there_always_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WATCHFUNNEL_TRAINING_POOL", raising=False)
    assert airflow_tasks.training()["pool"] == "default_pool"
    monkeypatch.setenv("WATCHFUNNEL_TRAINING_POOL", "training")
    assert airflow_tasks.training()["pool"] == "training"


def test_a_backfill_is_offered_where_the_environment_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for wanted, offered in (("", False), ("yes", True)):
        monkeypatch.setenv("WATCHFUNNEL_BACKFILL", wanted)
        dag = airflow_tasks.stage_dag("recall", "# recall\n\nFinds.", [airflow_tasks.asset("x")])
        assert (dag.allowed_run_types is None or "backfill" in dag.allowed_run_types) == offered


def proposed(**environment: str) -> dict[str, Any]:
    """What the form proposes, by field."""
    return {name: param.value for name, param in airflow_form.form(environment).items()}


def test_the_fields_of_the_form_are_the_settings_with_their_defaults_and_descriptions() -> None:
    form = airflow_form.form({})
    assert tuple(form) == airflow_form.FIELDS
    assert tuple(sorted(SOURCES)) == airflow_form.SOURCES
    for name, (section, setting) in airflow_form.SETTINGS.items():
        assert form[name].schema["title"] == setting
        assert form[name].schema["section"] == section
        assert form[name].description == airflow_form._field(setting).description
    assert config_of(None, airflow_form.overrides_of(proposed())) == FunnelConfig()


def test_the_environment_chooses_what_the_form_proposes_field_by_field() -> None:
    form = proposed(
        WATCHFUNNEL_SOURCE="news",
        WATCHFUNNEL_DATA="/log",
        WATCHFUNNEL_SPLIT_MODE="none",
        WATCHFUNNEL_OVERRIDES="recall.k=500 recall.negatives=64 ranking.top_k=many",
    )
    assert (form["source"], form["data"], form["split_mode"]) == ("news", "/log", "none")
    assert (form["recall_k"], form["ranking_top_k"]) == (500, 50)
    # What is no value of its field is left for the run to refuse.
    assert form["overrides"] == ["recall.negatives=64", "ranking.top_k=many"]


def test_overrides_may_be_emptied_and_win_over_the_fields() -> None:
    form = proposed(WATCHFUNNEL_OVERRIDES="recall.k=500")
    assert config_of(None, airflow_form.overrides_of(form | {"overrides": None})).recall.k == 500
    more = form | {"overrides": ["recall.k=7"], "last_days": 3, "test_start": "2026-01-02T00:00Z"}
    config = config_of(None, airflow_form.overrides_of(more))
    assert (config.recall.k, config.cleaning.last_days) == (7, 3)
    assert str(config.split.test_start) == "2026-01-02 00:00:00+00:00"


@pytest.mark.parametrize(
    ("field", "value", "good"),
    [
        ("recall_k", 0, False),
        ("recall_k", None, False),
        ("last_days", None, True),
        ("last_days", -1, False),
        ("split_mode", "tomorrow", False),
        ("source", "nowhere", False),
        ("overrides", None, True),
        ("overrides", [], True),
        ("overrides", ["seed=3", "recall.width=16"], True),
        ("overrides", ["recall.k"], False),
    ],
)
def test_the_form_refuses_what_breaks_the_bounds_of_a_field(
    field: str, value: Any, good: bool
) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    param = airflow_form.form({})[field]
    if good:
        assert param.resolve(value) == value
    else:
        with pytest.raises(ParamValidationError):
            param.resolve(value)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"overrides": ["recall.epoch=3"]}, r"no `recall.epoch`; did you mean `recall.epochs`\? "),
        ({"overrides": ["recall.history=x"]}, r"See the field `overrides` of the form\."),
        (
            {"recall_k": 3, "overrides": ["pre_rank.keep=10"]},
            r"recall.k = 3.*See the fields `recall_k` and `overrides` of the form\.",
        ),
        ({"recal_k": 3}, r"no field `recal_k` on the form; did you mean `recall_k`\?"),
        ({"data": ""}, r"The field `data` of the form is empty"),
    ],
)
def test_the_run_refuses_the_rest_in_the_words_of_the_form(
    fields: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHFUNNEL_HOME", str(tmp_path / "home"))
    params = proposed(WATCHFUNNEL_DATA="/data") | fields
    with pytest.raises(TaskRefused, match=sentence) as refused:
        airflow_tasks.make_request(params, "run", None)
    assert isinstance(refused.value.__cause__, InputError)
    assert "--" not in str(refused.value)


def test_data_that_are_not_there_yet_are_waited_for_in_the_words_of_the_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHFUNNEL_HOME", str(tmp_path / "home"))
    params = proposed(WATCHFUNNEL_DATA="/data") | {"data": "/no/such"}
    with pytest.raises(NotReady, match=r"/no/such: .*; the field `data` of the form names"):
        airflow_tasks.make_request(params, "run", None)


def test_the_plugin_gives_a_button_that_reads_what_the_tasks_push_and_a_link() -> None:
    (button,) = WatchfunnelPlugin.global_operator_extra_links
    assert (button.name, button.xcom_key) == ("MLflow run", LINK)
    assert menu({"MLFLOW_TRACKING_URI": "sqlite:////mlflow.db"}) == []
    server = {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    assert menu(server)[0]["href"].startswith("http://mlflow:5000/#/experiments?")
    seen = server | {"WATCHFUNNEL_MLFLOW_URL": "https://seen/"}
    assert menu(seen)[0]["href"].startswith("https://seen/#/experiments?")
