"""MLflow and an embedded Airflow on this machine: started together, found again, stopped together.

Everything listens on 127.0.0.1 and lives under one home folder. Every process is written to the
state file before it may begin its work, so that no interruption, not even `kill -9`, leaves one
behind that cannot be found.

Everything is its owner's alone: the home and what is written into it, and no process is told what
it does not need.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import requests
from pydantic import BaseModel, ConfigDict

from features.errors import InputError
from funnel.airflow_api import Airflow

LOOPBACK = "127.0.0.1"
MLFLOW, MIGRATION, API, SCHEDULER, DAG_PROCESSOR, TRIGGERER = (
    "mlflow",
    "migration",
    "api-server",
    "scheduler",
    "dag-processor",
    "triggerer",
)
AIRFLOW_PROCESSES = (MIGRATION, API, SCHEDULER, DAG_PROCESSOR, TRIGGERER)
LASTING = (SCHEDULER, TRIGGERER, DAG_PROCESSOR, API, MLFLOW)
STOPPING_ORDER = (*LASTING[:-1], MIGRATION, MLFLOW)
TRAINING_POOL = "training"
DEFAULT_PORTS = {"AIRFLOW": 8080, "MLFLOW": 5000}
PORTS_TRIED = 20
GRACE_SECONDS, POLL_SECONDS, HEALTHY_WITHIN_SECONDS = 10.0, 0.25, 240.0
# A process's start time is read back through the clock, which may be corrected by a little in
# between.
CLOCK_TOLERANCE_SECONDS = 2.0
# The child waits for a line on its standard input: it begins only once the state file names it.
GATE = ("/bin/sh", "-c", 'read -r _ && exec "$@" </dev/null', "gate")
# Our own children by process id: only their parent can ask how they ended.
_children: dict[int, subprocess.Popen[bytes]] = {}


class Process(BaseModel):
    """One process that we started: the leader of a session of its own."""

    model_config = ConfigDict(frozen=True)

    name: str
    pid: int
    started: float

    def alive(self) -> bool:
        """Whether this very process still runs; a later one that got the same number is another."""
        try:
            found = psutil.Process(self.pid)
            return found.status() != psutil.STATUS_ZOMBIE and self._same(found.create_time())
        except psutil.NoSuchProcess:
            return False

    def session(self) -> list[psutil.Process]:
        """The live processes of its session, whether it lives or not; none once its number is
        another's.
        """
        if psutil.pid_exists(self.pid) and not self._same(_created(self.pid)):
            return []
        return [
            process for process in psutil.process_iter() if _session_of(process.pid) == self.pid
        ]

    def _same(self, created: float | None) -> bool:
        return created is not None and abs(created - self.started) < CLOCK_TOLERANCE_SECONDS


class Defaults(BaseModel):
    """The log that the nightly run reads, and that the trigger form proposes."""

    model_config = ConfigDict(frozen=True)

    source: str
    data: Path | str


class Services(BaseModel):
    """What the state file says: where the two services listen, what runs them, and whether they got
    ready.
    """

    model_config = ConfigDict(frozen=True)

    home: Path
    defaults: Defaults
    airflow_port: int
    mlflow_port: int
    processes: tuple[Process, ...] = ()
    ready: bool = False

    @property
    def airflow(self) -> str:
        """Address of Airflow's UI and REST interface."""
        return f"http://{LOOPBACK}:{self.airflow_port}"

    @property
    def mlflow(self) -> str:
        """Address of MLflow's UI and tracking interface."""
        return f"http://{LOOPBACK}:{self.mlflow_port}"

    def moved_ports(self) -> dict[str, int]:
        """The ports, by service, that are not the usual ones and were not asked for."""
        ports = {"AIRFLOW": self.airflow_port, "MLFLOW": self.mlflow_port}
        return {
            name: port
            for name, port in ports.items()
            if port != DEFAULT_PORTS[name] and not _asked(name)
        }

    def log(self, name: str) -> Path:
        """Where the process called `name` writes its output."""
        return self.home / "logs" / f"{name}.log"

    def save(self) -> "Services":
        """Write the state file in one rename."""
        partial = _state_file(self.home).with_suffix(".partial")
        partial.write_text(self.model_dump_json(indent=1))
        partial.replace(_state_file(self.home))
        return self


def launch(home: Path, defaults: Defaults) -> Services:
    """Both services on their way: those that run already, else new ones. Leftovers of a killed
    start are stopped.

    InputError when a port that was asked for is taken or the database cannot be prepared.
    """
    found = running(home)
    if found and found.defaults == defaults:
        return found
    stop(home)
    services = _prepared(home.resolve(), defaults)
    services = spawn(services, MLFLOW, _mlflow_command(services))
    services = spawn(services, MIGRATION, [_tool("airflow"), "db", "migrate"])
    wait_for_the_end_of(services, MIGRATION)
    services = spawn(services, API, [_tool("airflow"), "api-server"])
    services = spawn(services, SCHEDULER, [_tool("airflow"), "scheduler", "--skip-serve-logs"])
    services = spawn(services, DAG_PROCESSOR, [_tool("airflow"), "dag-processor"])
    return spawn(services, TRIGGERER, [_tool("airflow"), "triggerer", "--skip-serve-logs"])


def wait_until_healthy(services: Services) -> Services:
    """Wait until both services say that they are well; InputError, with a log's end, when a process
    gives up.
    """
    deadline = time.monotonic() + HEALTHY_WITHIN_SECONDS
    while not healthy(services):
        refuse_if_one_ended(services)
        if time.monotonic() > deadline:
            raise InputError(
                f"The services were not healthy after {HEALTHY_WITHIN_SECONDS:.0f} s; "
                f"see the logs in {services.home / 'logs'}, then try again."
            )
        time.sleep(POLL_SECONDS)
    Airflow(services.airflow).make_pool(TRAINING_POOL, 1, "One training at a time.")
    return services.model_copy(update={"ready": True}).save()


def healthy(services: Services) -> bool:
    """Whether MLflow answers, and Airflow calls its parts healthy and is ready to answer tasks."""
    report = _json(f"{services.airflow}/api/v2/monitor/health")
    parts = ("metadatabase", "scheduler", "dag_processor")
    well = all(report.get(part, {}).get("status") == "healthy" for part in parts)
    # Airflow builds what tasks talk to when first asked, which takes seconds: here, not in the
    # first task.
    return (
        well
        and _answers(f"{services.mlflow}/health")
        and _answers(f"{services.airflow}/execution/health")
    )


def wait_for_the_end_of(services: Services, name: str) -> None:
    """Wait for a process of ours that ends by itself; InputError, with the end of its log, when it
    fails.
    """
    process = next(process for process in services.processes if process.name == name)
    if _children[process.pid].wait() != 0:
        raise InputError(
            f"`{name}` failed; the end of {services.log(name)}:\n{tail(services.log(name))}"
        )


def refuse_if_one_ended(services: Services) -> None:
    """InputError, with the end of its log, when a process that should last has ended."""
    for process in services.processes:
        if process.name in LASTING and not process.alive():
            log = services.log(process.name)
            raise InputError(
                f"`{process.name}` has ended by itself; the end of {log}:\n{tail(log)}"
            )


def running(home: Path) -> Services | None:
    """The services of this home, where all of them run and were once healthy."""
    services = state(home)
    if services is None or not services.ready:
        return None
    alive = {process.name for process in services.processes if process.alive()}
    return services if alive.issuperset(LASTING) else None


def state(home: Path) -> Services | None:
    """What the state file of this home says, if there is one."""
    path = _state_file(home.resolve())
    return Services.model_validate_json(path.read_text()) if path.exists() else None


def stop(home: Path) -> list[str]:
    """End every process of this home, the scheduler first, and forget them: the names of those that
    lived.
    """
    services = state(home)
    if services is None:
        return []
    ended = [process.name for process in _in_stopping_order(services.processes) if _end(process)]
    _state_file(services.home).unlink(missing_ok=True)
    return ended


def spawn(services: Services, name: str, command: Sequence[str]) -> Services:
    """Start one process in a session of its own, its output in a log file, and write it to the
    state file.
    """
    log = services.log(name)
    log.parent.mkdir(parents=True, exist_ok=True)
    gate, opener = os.pipe()
    with log.open("ab") as output:
        child = subprocess.Popen(
            [*GATE, *command],
            stdin=gate,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment(services, name),
            cwd=services.home,
            umask=0o077,
            start_new_session=True,
        )
    _children[child.pid] = child
    os.close(gate)
    process = Process(name=name, pid=child.pid, started=psutil.Process(child.pid).create_time())
    others = tuple(other for other in services.processes if other.name != name)
    services = services.model_copy(update={"processes": (*others, process)}).save()
    os.write(opener, b"go\n")
    os.close(opener)
    return services


def environment(
    services: Services, name: str, inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The environment of the process called `name`: what was inherited, but for the settings of
    another Airflow, and the settings of an embedded, quiet stack. Only Airflow's processes know its
    settings and secret, and whom the pipeline tells of failures.
    """
    # Where it is set, Python compiles TensorFlow and Airflow anew in every process: ten seconds
    # each.
    foreign = ["PYTHONDONTWRITEBYTECODE", "AIRFLOW__", "AIRFLOW_HOME"]
    foreign += [] if name in AIRFLOW_PROCESSES else ["WATCHFUNNEL_"]
    kept = {key: value for key, value in inherited.items() if not key.startswith(tuple(foreign))}
    path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    # Without the job runner the server starts in half the time and memory.
    mlflow = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    own = kept | {"PATH": path} | mlflow
    if name not in AIRFLOW_PROCESSES:
        return own
    return own | _funnel_settings(services) | _airflow_settings(services)


def _funnel_settings(services: Services) -> dict[str, str]:
    return {
        "WATCHFUNNEL_HOME": str(services.home),
        "WATCHFUNNEL_SOURCE": services.defaults.source,
        "WATCHFUNNEL_DATA": str(services.defaults.data),
        "WATCHFUNNEL_RETRY_SECONDS": "5",
        "WATCHFUNNEL_TRAINING_POOL": TRAINING_POOL,
        "MLFLOW_TRACKING_URI": services.mlflow,
        # A task's stderr is shown as errors; TensorFlow greets there.
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _airflow_settings(services: Services) -> dict[str, str]:
    settings = {
        "CORE__DAGS_FOLDER": str(dags_folder()),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        # Everyone is an administrator: the server listens on the loopback only.
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "CORE__PARALLELISM": "4",
        "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "CORE__EXECUTION_API_SERVER_URL": f"{services.airflow}/execution/",
        "API__HOST": LOOPBACK,
        "API__PORT": str(services.airflow_port),
        "API__BASE_URL": services.airflow,
        "API__WORKERS": "1",
        "API_AUTH__JWT_SECRET": _secret(services.home / "airflow" / "jwt_secret"),
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        # Each reading of the files is a line in the log, which nobody else rotates.
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
        "DAG_PROCESSOR__PRINT_STATS_INTERVAL": "0",
        "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        # A task whose process was killed is retried after half a minute, not after five.
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
    }
    prefixed = {f"AIRFLOW__{key}": value for key, value in settings.items()}
    return prefixed | {"AIRFLOW_HOME": str(services.home / "airflow")}


def dags_folder() -> Path:
    """The DAG files beside the packages; InputError where the packages are installed without the
    repository.
    """
    folder = Path(__file__).resolve().parents[2] / "dags"
    if not folder.is_dir():
        raise InputError(
            f"{folder}: the DAG files are not there; run from a checkout that was installed with "
            "`-e`."
        )
    return folder


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log."""
    return (
        "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""
    )


def _prepared(home: Path, defaults: Defaults) -> Services:
    (home / "airflow").mkdir(parents=True, exist_ok=True)
    (home / "mlflow").mkdir(exist_ok=True)
    home.chmod(0o700)
    for database in home.glob("*/*.db*"):
        database.chmod(0o600)
    airflow_port, mlflow_port = (_port(service) for service in ("AIRFLOW", "MLFLOW"))
    return Services(
        home=home, defaults=defaults, airflow_port=airflow_port, mlflow_port=mlflow_port
    )


def _port(service: str) -> int:
    """The port that was asked for, or else the first free one from the usual one up."""
    variable, asked, usual = _variable(service), _asked(service), DEFAULT_PORTS[service]
    if asked:
        return _port_asked_for(variable, asked)
    for port in range(usual, usual + PORTS_TRIED):
        if _free(port):
            return port
    raise InputError(
        f"Ports {usual} to {usual + PORTS_TRIED - 1} are all taken, so {service.title()} has "
        "nowhere to listen; "
        f"name a free one in {variable}."
    )


def _variable(service: str) -> str:
    return f"WATCHFUNNEL_{service}_PORT"


def _asked(service: str) -> str | None:
    return os.environ.get(_variable(service))


def _port_asked_for(variable: str, asked: str) -> int:
    if not (asked.isdecimal() and 0 < int(asked) < 65536):
        raise InputError(f"{variable} is {asked!r}, which is not a port number from 1 to 65535.")
    if not _free(int(asked)):
        raise InputError(
            f"{variable} names port {asked}, which another process is using; end it or name "
            "another port."
        )
    return int(asked)


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _mlflow_command(services: Services) -> list[str]:
    folder = services.home / "mlflow"
    return [
        *(
            _tool("mlflow"),
            "server",
            "--host",
            LOOPBACK,
            "--port",
            str(services.mlflow_port),
            "--workers",
            "1",
        ),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")),
    ]


def _tool(name: str) -> str:
    """The command that was installed into this Python's environment."""
    return str(Path(sys.executable).parent / name)


def _secret(path: Path) -> str:
    if not path.exists():
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.touch(mode=0o600)
        partial.write_text(secrets.token_hex(32))
        partial.replace(path)
    return path.read_text()


def _in_stopping_order(processes: Sequence[Process]) -> Iterator[Process]:
    """Whoever starts work goes first; whoever is asked by the others goes last."""
    known = [process for name in STOPPING_ORDER for process in processes if process.name == name]
    yield from (process for process in processes if process not in known)
    yield from known


def _end(process: Process) -> bool:
    """Ask the leader to end, wait a while, and kill what is left of its session: was there any?"""
    members = process.session()
    if process.alive():
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        psutil.wait_procs(members, timeout=GRACE_SECONDS)
    remaining = process.session()
    for member in remaining:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(remaining, timeout=GRACE_SECONDS)
    return bool(members)


def _created(pid: int) -> float | None:
    with suppress(psutil.NoSuchProcess):
        return float(psutil.Process(pid).create_time())
    return None


def _session_of(pid: int) -> int | None:
    with suppress(ProcessLookupError, PermissionError):
        return os.getsid(pid)
    return None


def _state_file(home: Path) -> Path:
    return home / "services.json"


def _json(url: str) -> dict[str, dict[str, str]]:
    try:
        return dict(requests.get(url, timeout=5).json())
    except (requests.RequestException, ValueError):
        return {}


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=30).ok
    except requests.RequestException:
        return False
