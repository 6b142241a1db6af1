"""Starting, finding again and stopping: with small real processes throughout, and once with the
real services.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from mlflow.tracking import MlflowClient
from rich.console import Console

from features.errors import InputError
from funnel import airflow_tasks
from funnel.airflow_api import Airflow
from funnel.demo import demo
from funnel.demo import services as s
from funnel.pipeline import STEPS, Request, make, request_for
from funnel.store import Store

pytestmark = pytest.mark.slow

STUBBORN = ("/bin/sh", "-c", "trap '' TERM; sleep 300 & while :; do sleep 1; done")


@pytest.fixture
def services(tmp_path: Path) -> Iterator[s.Services]:
    (tmp_path / "airflow").mkdir()
    defaults = s.Defaults(source="simulated", data=tmp_path / "data")
    yield s.Services(home=tmp_path, defaults=defaults, airflow_port=1, mlflow_port=2)
    s.stop(tmp_path)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with closing(socket.create_server((s.LOOPBACK, 0))) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with closing(socket.create_server((s.LOOPBACK, 0))) as server:
        port: int = server.getsockname()[1]
    return port


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def started(pid: int) -> float:
    return float(psutil.Process(pid).create_time())


def test_a_started_process_is_in_the_state_file_and_is_stopped_by_it(services: s.Services) -> None:
    services = s.spawn(services, "sleeper", ["sleep", "300"])
    found = s.state(services.home)
    assert found is not None
    assert found.processes == services.processes
    assert found.processes[0].alive()
    assert s.stop(services.home) == ["sleeper"]
    assert not found.processes[0].alive()
    assert s.state(services.home) is None


def test_a_process_leads_a_session_of_its_own_and_its_children_end_with_it(
    services: s.Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s, "GRACE_SECONDS", 0.5)
    process = s.spawn(services, "stubborn", STUBBORN).processes[0]
    deadline = time.monotonic() + 5
    while len(process.session()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    members = process.session()
    assert os.getsid(process.pid) == process.pid
    s.stop(services.home)
    assert len(members) >= 3
    assert not any(
        member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members
    )


def test_children_whose_leader_was_killed_are_found_by_their_session(services: s.Services) -> None:
    process = s.spawn(services, "leader", ["/bin/sh", "-c", "sleep 300 & wait"]).processes[0]
    deadline = time.monotonic() + 5
    while len(process.session()) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    os.waitpid(process.pid, 0)
    (orphan,) = process.session()
    assert s.stop(services.home) == ["leader"]
    assert not orphan.is_running()


def test_a_later_process_with_the_number_of_an_old_one_is_left_alone(services: s.Services) -> None:
    stranger = subprocess.Popen(["sleep", "300"], start_new_session=True)
    try:
        forgotten = s.Process(name="old", pid=stranger.pid, started=started(stranger.pid) - 3600)
        services.model_copy(update={"processes": (forgotten,)}).save()
        assert not forgotten.alive()
        assert s.stop(services.home) == []
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_child_whose_parent_dies_before_writing_it_down_never_begins(tmp_path: Path) -> None:
    mark = tmp_path / "begun"
    subprocess.run([*s.GATE, "touch", str(mark)], stdin=subprocess.DEVNULL, check=False)
    assert not mark.exists()
    subprocess.run([*s.GATE, "touch", str(mark)], input=b"go\n", check=True)
    assert mark.exists()


def test_what_a_killed_start_has_left_behind_is_found_and_stopped(services: s.Services) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from funnel.demo import services as s\n"
        "services = s.Services.model_validate_json(sys.argv[1])\n"
        "s.spawn(services, 'sleeper', ['sleep', '300'])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, services.model_dump_json()])
    assert killed.returncode == -signal.SIGKILL
    left = s.state(services.home)
    assert left is not None
    assert left.processes[0].alive()
    assert s.running(services.home) is None
    assert s.stop(services.home) == ["sleeper"]
    assert not left.processes[0].alive()


def test_stopping_twice_or_where_nothing_runs_does_nothing(tmp_path: Path) -> None:
    assert s.stop(tmp_path) == []
    assert s.stop(tmp_path / "never made") == []


def test_the_scheduler_is_stopped_first_and_mlflow_last(services: s.Services) -> None:
    for name in (s.MLFLOW, s.API, "simulation", s.TRIGGERER, s.DAG_PROCESSOR, s.SCHEDULER):
        services = s.spawn(services, name, ["sleep", "300"])
    assert s.stop(services.home) == ["simulation", *s.LASTING]


def test_a_port_that_was_asked_for_and_is_taken_is_refused(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHFUNNEL_AIRFLOW_PORT", str(taken))
    with pytest.raises(InputError, match=f"WATCHFUNNEL_AIRFLOW_PORT names port {taken}"):
        s._port("AIRFLOW")


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1"])
def test_a_port_that_is_no_port_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHFUNNEL_MLFLOW_PORT", text)
    with pytest.raises(InputError, match="not a port number"):
        s._port("MLFLOW")


def test_where_the_usual_port_is_taken_the_next_free_one_is_used_and_told(
    taken: int, services: s.Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHFUNNEL_MLFLOW_PORT", raising=False)
    monkeypatch.setitem(s.DEFAULT_PORTS, "MLFLOW", taken)
    port = s._port("MLFLOW")
    assert taken < port < taken + s.PORTS_TRIED
    assert services.model_copy(update={"mlflow_port": port}).moved_ports()["MLFLOW"] == port


def test_the_environment_is_on_the_loopback_and_lets_python_keep_its_bytecode(
    services: s.Services,
) -> None:
    environment = s.environment(
        services, s.SCHEDULER, {"PATH": "/bin", "PYTHONDONTWRITEBYTECODE": "1", "KEPT": "yes"}
    )
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["KEPT"] == "yes"
    assert environment["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:1/execution/"
    assert len(environment["AIRFLOW__API_AUTH__JWT_SECRET"]) == 64


def test_the_secret_is_kept_with_the_home_and_readable_by_its_owner_only(
    services: s.Services,
) -> None:
    first, second = (
        s.environment(services, s.API)["AIRFLOW__API_AUTH__JWT_SECRET"] for _ in range(2)
    )
    assert first == second
    assert mode(services.home / "airflow" / "jwt_secret") == 0o600


def test_only_airflow_knows_its_settings_its_secret_and_who_is_told(services: s.Services) -> None:
    inherited = {"AIRFLOW__CORE__EXECUTOR": "another's", "WATCHFUNNEL_WEBHOOK_URL": "http://a/b"}
    known = {
        name: s.environment(services, name, inherited)
        for name in (s.SCHEDULER, s.MLFLOW, "simulation")
    }
    assert "AIRFLOW__CORE__EXECUTOR" not in known[s.SCHEDULER]
    assert known[s.SCHEDULER]["WATCHFUNNEL_WEBHOOK_URL"] == "http://a/b"
    for name in (s.MLFLOW, "simulation"):
        told = [key for key in known[name] if key.startswith(("AIRFLOW", "WATCHFUNNEL"))]
        assert told == [], name


def test_what_a_process_writes_is_its_owner_s_alone(services: s.Services) -> None:
    services = s.spawn(services, "writer", ["/bin/sh", "-c", "mkdir -p deep && touch deep/log.db"])
    s.wait_for_the_end_of(services, "writer")
    written = services.home / "deep"
    assert (mode(written), mode(written / "log.db")) == (0o700, 0o600)


def test_a_home_of_before_is_closed_to_others(tmp_path: Path) -> None:
    database = tmp_path / "mlflow" / "mlflow.db"
    database.parent.mkdir()
    database.touch(mode=0o644)
    tmp_path.chmod(0o755)
    s._prepared(tmp_path, s.Defaults(source="simulated", data=tmp_path / "data"))
    assert (mode(tmp_path), mode(database)) == (0o700, 0o600)


def test_every_airflow_setting_exists_in_this_airflow(services: s.Services) -> None:
    import airflow

    template = Path(airflow.__file__).parent / "config_templates" / "config.yml"
    known = yaml.safe_load(template.read_text())
    for variable in s.environment(services, s.SCHEDULER, {}):
        if variable.startswith("AIRFLOW__"):
            _, section, option = variable.lower().split("__")
            assert option in known.get(section, {"options": ()})["options"], variable


def test_a_process_that_fails_is_reported_with_the_end_of_its_log(services: s.Services) -> None:
    services = s.spawn(services, "migration", ["/bin/sh", "-c", "echo no such table; exit 3"])
    with pytest.raises(InputError, match="no such table"):
        s.wait_for_the_end_of(services, "migration")


def test_a_second_demo_in_the_same_home_is_refused(tmp_path: Path) -> None:
    with (
        demo._alone(tmp_path),
        pytest.raises(InputError, match="another demo"),
        demo._alone(tmp_path),
    ):
        pass
    with demo._alone(tmp_path):
        pass


@pytest.mark.parametrize(
    ("source", "data", "words"),
    [
        ("kuairand", None, "needs data"),
        ("kuairand", Path("no such folder"), "no such file or folder"),
        ("canonical", "oracle://u@h:x/db", "no address of a database"),
    ],
)
def test_a_demo_without_its_data_is_refused_before_anything_starts(
    tmp_path: Path, source: str, data: Path | str | None, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        demo.demo(source, data, tmp_path / "home")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("interruption", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(
    services: s.Services, interruption: signal.Signals
) -> None:
    script = (
        "import signal, sys, time\n"
        "from funnel.demo import demo, services as s\n"
        # What a shell starts in the background is born deaf to Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "services = s.Services.model_validate_json(sys.argv[1])\n"
        "with demo._nothing_left_behind(services.home):\n"
        "    s.spawn(services, 'sleeper', ['sleep', '300'])\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, services.model_dump_json()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        left = s.state(services.home)
        running.send_signal(interruption)
        assert running.wait(timeout=50) != 0
    assert left is not None
    assert not left.processes[0].alive()
    assert s.state(services.home) is None


def listened_at(process: psutil.Process) -> list[Any]:
    """Addresses that a process listens at; the scheduler's workers come and go, and one that is
    gone has none.
    """
    try:
        return [address for address in process.net_connections() if address.status == "LISTEN"]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[s.Services]:
    """The real services, on a data folder without a log; stopped, they have left nothing behind."""
    home = tmp_path_factory.mktemp("stack")
    defaults = s.Defaults(source="canonical", data=home / "log")
    defaults.data.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AIRFLOW", "MLFLOW"):
            patch.setenv(f"WATCHFUNNEL_{name}_PORT", str(free_port()))
        try:
            services = s.wait_until_healthy(s.launch(home, defaults))
            chain(services)._wait_for_the_dags()
            yield services
        finally:
            last = s.state(home)
            members = last and [each for process in last.processes for each in process.session()]
            assert set(s.stop(home)) == set(s.LASTING)
    assert members
    assert not any(member.is_running() for member in members)
    assert s.running(home) is None


def chain(services: s.Services) -> demo._Chain:
    return demo._Chain(Airflow(services.airflow), services, Console(width=120))


def wait_until(happens: Callable[[], Any], seconds: float = 90) -> Any:
    """What comes of it as soon as something does."""
    patience = time.monotonic() + seconds
    while not (found := happens()):
        assert time.monotonic() < patience
        time.sleep(0.1)
    return found


def runs(airflow: Airflow, dag: str) -> list[dict[str, Any]]:
    """The runs of a DAG, the oldest in front."""
    return list(airflow.get(f"dags/{dag}/dagRuns", order_by="run_after")["dag_runs"])


def ended(airflow: Airflow, dag: str, run: str) -> str:
    """The state of a run once it has ended, or nothing."""
    state = airflow.state(dag, run)
    return state if state in demo.DONE else ""


def test_the_services_are_up_and_listen_on_the_loopback_alone(stack: s.Services) -> None:
    assert s.running(stack.home) == stack
    members = [member for process in stack.processes for member in process.session()]
    listening = [address for member in members for address in listened_at(member)]
    assert {listener.laddr.ip for listener in listening} == {"127.0.0.1"}
    ports = {stack.airflow_port, stack.mlflow_port}
    assert {listener.laddr.port for listener in listening} == ports
    databases = list(stack.home.glob("*/*.db"))
    assert len(databases) == 2
    assert {mode(database) for database in databases} == {0o600}
    assert mode(stack.home) == 0o700


@pytest.fixture
def wrong(stack: s.Services) -> Iterator[Path]:
    """A table in the data folder that lacks two of its columns."""
    path = stack.defaults.data / "interactions.csv"
    path.write_text("user_id\n1\n")
    yield path
    path.unlink()


def test_a_refusal_ends_the_demo_with_its_sentence(stack: s.Services, wrong: Path) -> None:
    with pytest.raises(InputError, match=rf"{wrong.name}: .*item_id"):
        chain(stack).run({"source": "canonical", "data": str(stack.defaults.data)})


@pytest.mark.usefixtures("wrong")
def test_a_flag_in_the_data_folder_starts_a_run_whose_refusal_is_its_note_and_ends_its_log(
    stack: s.Services,
) -> None:
    airflow, flag = Airflow(stack.airflow), stack.defaults.data / "_READY"
    before = len(runs(airflow, "ingest"))
    flag.touch()
    run = str(wait_until(lambda: runs(airflow, "ingest")[before:])[0]["dag_run_id"])
    assert run.startswith("asset_triggered__")
    assert not flag.exists()
    assert wait_until(lambda: ended(airflow, "ingest", run)) == "failed"
    (task,) = (t for t in airflow.tasks("ingest", run) if t["task_id"] == "interactions")
    assert task["try_number"] == 1
    log = airflow.log(task)
    assert not any(entry.get("error_detail") for entry in log)
    (sentence,) = (entry["exit_code"] for entry in log if "exit_code" in entry)
    assert sentence.startswith("interactions.csv: column item_id is missing")
    assert sentence in wait_until(lambda: airflow.note("ingest", run))


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("dags/ingest/dagRuns", {"logical_date": None, "conf": {"recall_k": 0}}, "recall_k"),
        (
            "backfills",
            {"dag_id": "ingest", "from_date": "2026-01-01T00:00Z", "to_date": "2026-01-02T00:00Z"},
            "does not allow backfill runs",
        ),
    ],
)
def test_rest_refuses_a_wrong_field_by_its_name_and_a_backfill(
    stack: s.Services, path: str, body: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=rf"answered 400 .*{words}"):
        Airflow(stack.airflow).post(path, body)


def test_the_menu_leads_to_mlflow(stack: s.Services) -> None:
    plugins = Airflow(stack.airflow).get("plugins")["plugins"]
    views = [view for plugin in plugins for view in plugin["external_views"]]
    assert [view["href"].split("#")[0] for view in views] == [f"{stack.mlflow}/"]


class Announced:
    """The event of an asset, as a task fills it."""

    extra: dict[str, Any]


def announced(request: Request) -> dict[str, Any]:
    """What the event of `histories` carries for a request whose log is there."""
    event = Announced()
    for name in (name for name, step in STEPS.items() if step.stage in ("ingest", "features")):
        make(name, request, tell=lambda _: None)
    unseen = request.model_copy(update={"tracking": None}).model_dump(mode="json")
    airflow_tasks.announce(unseen, "features", event)
    return event.extra | {"request": event.extra["request"] | {"tracking": request.tracking}}


def killed(airflow: Airflow, run: str, attempt: int) -> bool:
    """Whether that attempt of `towers` has been killed, once it was seen in MLflow."""
    (towers,) = (task for task in airflow.tasks("recall", run) if task["task_id"] == "towers")
    if (towers["state"], towers["try_number"]) != ("running", attempt) or not towers["pid"]:
        return False
    path = f"dags/recall/dagRuns/{run}/taskInstances/towers/links"
    if not airflow.get(path)["extra_links"].get("MLflow run"):
        return False
    os.kill(towers["pid"], signal.SIGKILL)
    return True


def restarted(stack: s.Services, name: str) -> None:
    """End one of the services, and start it anew."""
    services = s.state(stack.home)
    assert services is not None
    (process,) = (each for each in services.processes if each.name == name)
    command = psutil.Process(process.pid).cmdline()
    s._end(process)
    s.spawn(services, name, [sys.executable, s._tool("airflow"), *command[-2:]])


def test_three_events_a_kill_on_the_last_try_and_a_restart_end_in_one_training_on_the_newest(
    stack: s.Services, tiny_log: Path, tiny_models: tuple[str, ...]
) -> None:
    airflow = Airflow(stack.airflow)
    airflow.patch("dags/ranking?update_mask=is_paused", {"is_paused": True})
    requests = [
        request_for(
            *("simulated", str(tiny_log), str(stack.home), f"night {seed}", stack.mlflow),
            (*tiny_models, f"seed={seed}"),
        )
        for seed in (1, 2, 3)
    ]
    extras = [announced(request) for request in requests]
    (asset,) = airflow.get("assets", name_pattern="histories")["assets"]
    for extra in extras:
        airflow.post("assets/events", {"asset_id": asset["id"], "extra": extra})
    first = str(wait_until(lambda: runs(airflow, "recall"))[0]["dag_run_id"])
    for attempt in (1, 2):
        wait_until(lambda attempt=attempt: killed(airflow, first, attempt))
    restarted(stack, s.SCHEDULER)
    assert wait_until(lambda: ended(airflow, "recall", first)) == "failed"
    assert "its process was killed" in wait_until(lambda: airflow.note("recall", first))
    # As the next night does, which finds the towers missing.
    airflow.post("assets/events", {"asset_id": asset["id"], "extra": extras[-1]})
    second = str(wait_until(lambda: runs(airflow, "recall")[1:])[0]["dag_run_id"])
    assert wait_until(lambda: ended(airflow, "recall", second)) == "success"
    wait_until(lambda: all(run["state"] in demo.DONE for run in runs(airflow, "recall")))
    (trained,) = Store(stack.home / "artefacts").made("towers")
    assert trained.config["seed"] == 3
    client = MlflowClient(stack.mlflow)
    experiment = client.get_experiment_by_name("recall")
    states = {
        run.data.tags["watchfunnel.run"]: run.info.status
        for run in client.search_runs([experiment.experiment_id])
    }
    assert states.pop("night 3") == "FINISHED"
    assert set(states.values()) <= {"FAILED"}
