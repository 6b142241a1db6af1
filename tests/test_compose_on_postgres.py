"""The composed stack without an engine: its own commands and environments, on a native PostgreSQL
of this machine.
"""

import base64
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import pytest
import requests
import sqlalchemy as sa
from cryptography.fernet import Fernet

from funnel.airflow_api import Airflow
from funnel.maintenance.chores import maintain
from funnel.maintenance.old_runs import collect_garbage
from funnel.maintenance.places import places_here
from funnel.store import Store
from funnel.tracking import client_at

LOOPBACK: Final = "127.0.0.1"
ROOT: Final = Path(__file__).parent.parent
BINARIES: Final = max(
    Path("/usr/lib/postgresql").glob("*/bin/initdb"),
    key=lambda file: int(file.parts[-3]),
    default=Path("absent"),
).parent
SECRETS: Final = {
    "POSTGRES_PASSWORD": secrets.token_hex(24),
    "AIRFLOW_SECRET_KEY": secrets.token_hex(24),
    "AIRFLOW_ADMIN_PASSWORD": secrets.token_hex(24),
    "AIRFLOW_JWT_SECRET": secrets.token_hex(32),
    "AIRFLOW_FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (BINARIES / "initdb").exists(),
        reason="PostgreSQL's initdb is not installed below /usr/lib/postgresql",
    ),
]


def free_port() -> int:
    with closing(socket.create_server((LOOPBACK, 0))) as server:
        port: int = server.getsockname()[1]
    return port


@dataclass(frozen=True)
class Stack:
    """The services of docker-compose.yml, their network names and folders replaced by this
    machine's.
    """

    services: dict[str, Any]
    configs: dict[str, Any]
    folder: Path
    postgres: int
    mlflow: int
    airflow: int

    def moved(self, text: str) -> str:
        """A value of the file, pointing to this machine."""
        places = {
            "@postgres/": f"@{LOOPBACK}:{self.postgres}/",
            "http://mlflow:5000": self.mlflow_url,
            "http://airflow-apiserver:8080": self.airflow_url,
            "http://localhost:8080": self.airflow_url,
            "http://localhost:5000": self.mlflow_url,
            "--host=0.0.0.0": f"--host={LOOPBACK}",
            "--port=5000": f"--port={self.mlflow}",
            "/opt/watchfunnel/dags": str(ROOT / "dags"),
            "/opt/": f"{self.folder}/",
        }
        for there, here in places.items():
            text = text.replace(there, here)
        return text

    @property
    def mlflow_url(self) -> str:
        return f"http://{LOOPBACK}:{self.mlflow}"

    @property
    def airflow_url(self) -> str:
        return f"http://{LOOPBACK}:{self.airflow}"

    def environment(self, service: str) -> dict[str, str]:
        """What the service sees: its own block, what the Dockerfile sets, and nothing of this
        process but the path.
        """
        block = {
            name: self.moved(value) for name, value in self.services[service]["environment"].items()
        }
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        ports = {"AIRFLOW__API__HOST": LOOPBACK, "AIRFLOW__API__PORT": str(self.airflow)}
        return (
            {"PATH": path, "HOME": str(self.folder), "AIRFLOW_HOME": self.moved("/opt/airflow")}
            | ports
            | block
        )

    def command(self, service: str) -> list[str]:
        return [self.moved(word) for word in self.services[service]["command"]]

    def is_healthy(self, service: str, environment: Mapping[str, str]) -> bool:
        """One run of the service's own health check."""
        how, *words = self.services[service]["healthcheck"]["test"]
        assert how == "CMD"
        done = subprocess.run(
            [self.moved(word) for word in words], env=environment, capture_output=True, timeout=30
        )
        return done.returncode == 0

    def airflow_rows(self, query: str) -> list[tuple[Any, ...]]:
        return rows(self.environment("airflow-init")["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"], query)

    def mlflow_rows(self, query: str) -> list[tuple[Any, ...]]:
        return rows(self.environment("mlflow")["MLFLOW_BACKEND_STORE_URI"], query)


def rows(address: str, query: str) -> list[tuple[Any, ...]]:
    engine = sa.create_engine(address, poolclass=sa.NullPool)
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


@pytest.fixture(scope="module")
def stack(
    composed: Callable[[Mapping[str, str]], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Stack:
    loaded = composed(SECRETS)
    folder = tmp_path_factory.mktemp("opt")
    return Stack(
        loaded["services"], loaded["configs"], folder, free_port(), free_port(), free_port()
    )


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The command in a session of its own; at the end the session gets SIGTERM, and after 20 s
    SIGKILL.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True, **options
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def until(happens: Callable[[], bool]) -> None:
    end_of_patience = time.monotonic() + 300
    while not happens():
        assert time.monotonic() < end_of_patience
        time.sleep(0.5)


def wait_until(happens: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end_of_patience = time.monotonic() + 120
    while not happens():
        assert process.poll() is None, f"it has ended: {log.read_text()[-2000:]}"
        assert time.monotonic() < end_of_patience, f"it is not up: {log.read_text()[-2000:]}"
        time.sleep(0.5)


class Database:
    """PostgreSQL in a folder outside root's own, as a user who is not root, in the steps of the
    `postgres` image.
    """

    def __init__(self, folder: Path, stack: Stack) -> None:
        self.folder, self.stack = folder, stack
        self.block = stack.services["postgres"]["environment"]
        # PostgreSQL refuses to run as root.
        self.owner: dict[str, Any] = (
            {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
        )
        self.log = stack.folder / "postgres.log"
        self.healthy_too_early = False
        self.inside = {
            "PATH": f"{BINARIES}:{os.environ['PATH']}",
            "PGHOST": str(folder),
            "PGPORT": str(stack.postgres),
        }

    def create(self) -> None:
        if self.owner:
            shutil.chown(self.folder, self.owner["user"])
        password = self.folder / "password"
        password.write_text(self.block["POSTGRES_PASSWORD"])
        login = [
            "--username",
            self.block["POSTGRES_USER"],
            "--pwfile",
            str(password),
            "--auth-host=scram-sha-256",
        ]
        self.run(
            "initdb",
            "--pgdata",
            str(self.folder / "data"),
            "--auth-local=trust",
            "--no-sync",
            *self.block["POSTGRES_INITDB_ARGS"].split(),
            *login,
        )

    def run(self, command: str, *words: str) -> None:
        call = [str(BINARIES / command), *words]
        done = subprocess.run(
            call, env=self.inside, cwd=self.folder, capture_output=True, text=True, **self.owner
        )
        assert done.returncode == 0, done.stderr

    @contextmanager
    def listening(self, address: str) -> Iterator[None]:
        """The server on its socket and on the address; an empty one is none."""
        words = [
            "-D",
            str(self.folder / "data"),
            "-k",
            str(self.folder),
            "-p",
            str(self.stack.postgres),
            "-F",
        ]
        command = [str(BINARIES / "postgres"), *words, "-c", f"listen_addresses={address}"]
        with running(command, self.log, cwd=self.folder, **self.owner) as server:
            ready = [str(BINARIES / "pg_isready"), "--quiet"]
            wait_until(
                lambda: subprocess.run(ready, env=self.inside).returncode == 0, server, self.log
            )
            yield

    def fill(self) -> bool:
        """The first database and the scripts that the file mounts, with no address but the socket.

        Returns whether the health check passes too early, that is before them.
        """
        with self.listening(""):
            too_early = self.is_healthy()
            self.make_databases()
        return too_early

    def make_databases(self) -> None:
        user, database = self.block["POSTGRES_USER"], self.block["POSTGRES_DB"]
        self.run("createdb", "--username", user, database)
        for config in self.stack.services["postgres"]["configs"]:
            script = self.stack.configs[config["source"]]["content"]
            self.run("psql", "--username", user, "--dbname", database, "--command", script)

    def is_healthy(self) -> bool:
        return self.stack.is_healthy("postgres", self.inside)


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[Database]:
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        database = Database(Path(folder), stack)
        database.create()
        database.healthy_too_early = database.fill()
        with database.listening(LOOPBACK):
            yield database


@contextmanager
def up(stack: Stack, service: str) -> Iterator[None]:
    """The service as the file starts it, from the moment its own health check passes."""
    log, environment = stack.folder / f"{service}.log", stack.environment(service)
    with running(stack.command(service), log, env=environment, cwd=stack.folder) as process:
        wait_until(lambda: stack.is_healthy(service, environment), process, log)
        yield


@pytest.fixture(scope="module")
def mlflow(database: Database) -> Iterator[str]:
    """MLflow's address."""
    with up(database.stack, "mlflow"):
        yield database.stack.mlflow_url


@pytest.fixture(scope="module")
def initialised(database: Database) -> Stack:
    stack = database.stack
    environment, command = stack.environment("airflow-init"), stack.command("airflow-init")
    done = subprocess.run(
        command, env=environment, cwd=stack.folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return stack


@pytest.fixture(scope="module")
def airflow(initialised: Stack) -> Iterator[str]:
    """Airflow's address."""
    with up(initialised, "airflow-apiserver"):
        yield initialised.airflow_url


@pytest.fixture(scope="module")
def token(airflow: str) -> str:
    login = {"username": "admin", "password": SECRETS["AIRFLOW_ADMIN_PASSWORD"]}
    answer = requests.post(f"{airflow}/auth/token", json=login, timeout=60)
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["access_token"]
    return found


def test_the_database_is_not_healthy_before_its_scripts_have_run(database: Database) -> None:
    assert not database.healthy_too_early


def test_the_database_is_healthy_and_holds_the_databases_of_both(database: Database) -> None:
    assert database.is_healthy()
    assert database.stack.airflow_rows("SELECT current_database()") == [("airflow",)]
    assert database.stack.mlflow_rows("SELECT current_database()") == [("mlflow",)]


def test_the_database_wants_the_password(database: Database) -> None:
    address = f"postgresql+psycopg2://airflow:another@{LOOPBACK}:{database.stack.postgres}/mlflow"
    with pytest.raises(sa.exc.OperationalError, match="password authentication failed"):
        rows(address, "SELECT 1")


def test_airflow_makes_its_tables_and_its_administrator(initialised: Stack) -> None:
    assert initialised.airflow_rows("SELECT count(*) FROM dag_run") == [(0,)]
    query = (
        "SELECT ab_user.username, ab_role.name FROM ab_user "
        "JOIN ab_user_role ON ab_user_role.user_id = ab_user.id JOIN ab_role ON ab_role.id = "
        "ab_user_role.role_id"
    )
    assert initialised.airflow_rows(query) == [("admin", "Admin")]


def test_the_administrator_logs_in_and_the_token_is_signed_with_the_jwt_secret(token: str) -> None:
    key = SECRETS["AIRFLOW_JWT_SECRET"]
    assert jwt.decode(token, key, algorithms=["HS512"], options={"verify_aud": False})["sub"]


def test_the_pool_of_trainings_is_there_for_the_login_that_writes_notes(
    stack: Stack, airflow: str
) -> None:
    told = stack.environment("airflow-scheduler")
    login = (told["WATCHFUNNEL_AIRFLOW_USER"], told["WATCHFUNNEL_AIRFLOW_PASSWORD"])
    pool = Airflow(airflow, *login).get(f"pools/{told['WATCHFUNNEL_TRAINING_POOL']}")
    assert (pool["name"], pool["slots"]) == ("training", 1)
    assert told["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == f"{airflow}/execution/"


def test_a_backfill_of_days_is_one_refresh_and_skipped_runs(
    stack: Stack, airflow: str, mlflow: str, tiny_log: Path, tiny_models: tuple[str, ...]
) -> None:
    assert mlflow == stack.mlflow_url
    told = stack.environment("airflow-scheduler")
    rest = Airflow(airflow, told["WATCHFUNNEL_AIRFLOW_USER"], told["WATCHFUNNEL_AIRFLOW_PASSWORD"])
    days = {
        "dag_id": "ingest",
        "from_date": "2026-01-01T00:00Z",
        "to_date": "2026-01-04T00:00Z",
        "max_active_runs": 1,
        "dag_run_conf": {
            "source": "simulated",
            "data": str(tiny_log),
            "overrides": list(tiny_models),
        },
    }

    def runs(dag: str) -> list[dict[str, Any]]:
        # After a backfill the tick of today runs too, on a folder that is not there.
        found = rest.get(f"dags/{dag}/dagRuns", order_by="run_after")["dag_runs"]
        return [run for run in found if run["run_type"] != "scheduled"]

    def successes(dag: str) -> int:
        states = [run["state"] for run in runs(dag)]
        assert "failed" not in states
        return states.count("success")

    with up(stack, "airflow-dag-processor"), up(stack, "airflow-scheduler"):
        known = {"ingest", "features", "recall", "ranking"}
        until(lambda: {dag["dag_id"] for dag in rest.get("dags")["dags"]} >= known)
        rest.post("backfills", days)
        until(lambda: successes("ingest") == 3 and successes("recall") == 1)
    first, *others = (run["note"] for run in runs("ingest"))
    assert first.startswith("Rows ")
    assert all(note.startswith("Skipped. ") for note in others)
    assert [len(runs(dag)) for dag in ("features", "recall")] == [1, 1]
    assert len(Store(stack.folder / "artefacts" / "artefacts").made("towers")) == 1


def test_another_password_is_refused(airflow: str) -> None:
    login = {"username": "admin", "password": "another"}
    assert requests.post(f"{airflow}/auth/token", json=login, timeout=60).status_code == 401


def test_passwords_of_connections_are_kept_under_the_fernet_key(stack: Stack, token: str) -> None:
    body = {"connection_id": "kept", "conn_type": "generic", "password": "open sesame"}
    header, address = (
        {"Authorization": f"Bearer {token}"},
        f"{stack.airflow_url}/api/v2/connections",
    )
    assert requests.post(address, json=body, headers=header, timeout=60).status_code == 201
    ((kept,),) = stack.airflow_rows("SELECT password FROM connection WHERE conn_id = 'kept'")
    assert Fernet(SECRETS["AIRFLOW_FERNET_KEY"]).decrypt(kept.encode()) == b"open sesame"


def test_mlflow_answers_under_its_name_in_the_network_and_under_no_stranger(mlflow: str) -> None:
    query = f"{mlflow}/api/2.0/mlflow/experiments/search?max_results=1"
    answers = [
        requests.get(query, headers={"Host": host}, timeout=60).status_code
        for host in ("mlflow:5000", "other")
    ]
    assert answers == [200, 403]


def test_mlflow_keeps_experiments_in_postgresql_and_artefacts_in_its_volume(
    stack: Stack, mlflow: str
) -> None:
    made = requests.post(
        f"{mlflow}/api/2.0/mlflow/experiments/create", json={"name": "proof"}, timeout=60
    )
    assert made.status_code == 200, made.text
    ((place,),) = stack.mlflow_rows(
        "SELECT artifact_location FROM experiments WHERE name = 'proof'"
    )
    assert place.startswith("mlflow-artifacts:/")
    note = f"{mlflow}/api/2.0/mlflow-artifacts/artifacts/note.txt"
    assert requests.put(note, data=b"kept", timeout=60).status_code == 200
    assert (stack.folder / "mlflow" / "note.txt").read_bytes() == b"kept"


def restore(dump: Path, address: str) -> None:
    target = address.replace("+psycopg2", "")
    command = ["pg_restore", "--clean", "--if-exists", "--no-owner", "--dbname", target]
    subprocess.run([*command, str(dump)], check=True)


def test_maintenance_copies_cleans_and_restores_both_databases(
    initialised: Stack, mlflow: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the environment of a task, from which Airflow takes the address of its database."""
    blocked = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "airflow-db-not-allowed:///"}
    for name, value in (initialised.environment("airflow-scheduler") | blocked).items():
        monkeypatch.setenv(name, value)
    (home := initialised.folder / "artefacts").mkdir(exist_ok=True)
    client = client_at(mlflow)
    experiment = client.create_experiment("to be restored")
    gone = client.create_run(experiment).info.run_id
    client.log_text(gone, "weights", "tower.h5")
    client.delete_run(gone)
    told: list[str] = []
    assert maintain(places_here(), told.append), told
    dumps = {path.name.split("-")[0]: path for path in (home / "backups").iterdir()}
    assert set(dumps) == {"airflow", "mlflow"}
    states = f"SELECT lifecycle_stage FROM runs WHERE run_uuid = '{gone}'"
    assert initialised.mlflow_rows(states) == [("deleted",)]
    assert len(list(initialised.folder.rglob("tower.h5"))) == 1
    address = os.environ["WATCHFUNNEL_MLFLOW_DATABASE"]
    assert collect_garbage(mlflow, address, days=0) == 1
    assert initialised.mlflow_rows(states) == []
    assert list(initialised.folder.rglob("tower.h5")) == []
    # As docs/operate.md says it.
    restore(dumps["mlflow"], address)
    assert initialised.mlflow_rows(states) == [("deleted",)]
    database.run("createdb", "--username", "airflow", "restored")
    beside = os.environ["WATCHFUNNEL_AIRFLOW_DATABASE"].removesuffix("airflow") + "restored"
    restore(dumps["airflow"], beside)
    known = "SELECT username FROM ab_user"
    assert rows(beside, known) == initialised.airflow_rows(known) == [("admin",)]
