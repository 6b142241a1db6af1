"""Starting, finding again and stopping: with small real processes throughout, and once with the
real services.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from rich.console import Console

from features.errors import InputError
from funnel.demo import demo
from funnel.demo import services as s

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
    for name in (s.MLFLOW, s.API, "simulation", s.DAG_PROCESSOR, s.SCHEDULER):
        services = s.spawn(services, name, ["sleep", "300"])
    assert s.stop(services.home) == ["simulation", s.SCHEDULER, s.DAG_PROCESSOR, s.API, s.MLFLOW]


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
        services, {"PATH": "/bin", "PYTHONDONTWRITEBYTECODE": "1", "KEPT": "yes"}
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
    first, second = (s.environment(services)["AIRFLOW__API_AUTH__JWT_SECRET"] for _ in range(2))
    assert first == second
    assert (services.home / "airflow" / "jwt_secret").stat().st_mode & 0o777 == 0o600


def test_every_airflow_setting_exists_in_this_airflow(services: s.Services) -> None:
    import airflow

    template = Path(airflow.__file__).parent / "config_templates" / "config.yml"
    known = yaml.safe_load(template.read_text())
    for variable in s.environment(services, {}):
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


def test_the_services_start_run_a_dag_on_request_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real ones: a run on a folder without data ends with the sentence of the task that refused
    it.
    """
    for name in ("AIRFLOW", "MLFLOW"):
        monkeypatch.setenv(f"WATCHFUNNEL_{name}_PORT", str(free_port()))
    defaults = s.Defaults(source="simulated", data=tmp_path / "empty")
    defaults.data.mkdir()
    try:
        services = s.wait_until_healthy(s.launch(tmp_path, defaults))
        assert s.running(tmp_path) == services
        members = [member for process in services.processes for member in process.session()]
        listening = [address for member in members for address in listened_at(member)]
        assert {listener.laddr.ip for listener in listening} == {"127.0.0.1"}
        assert {listener.laddr.port for listener in listening} == {
            services.airflow_port,
            services.mlflow_port,
        }
        chain = demo._Chain(demo.Airflow(services.airflow), services, Console(width=120))
        with pytest.raises(InputError, match=r"interactions"):
            chain.run({"source": "canonical", "data": str(defaults.data)})
    finally:
        assert set(s.stop(tmp_path)) == {s.SCHEDULER, s.DAG_PROCESSOR, s.API, s.MLFLOW}
    assert not [member for process in services.processes for member in process.session()]
    assert not any(member.is_running() for member in members)
    assert s.running(tmp_path) is None
