"""A database as a data set: what SQLite and a real PostgreSQL hold is read as the same rows in files
would be, nothing is written, and no password is ever told.
"""

import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from features.config import CleaningConfig
from features.data.database import PASSWORD, Database, address_without_password
from features.data.ingest import ingest
from features.data.sources import opened
from features.errors import InputError, NotReady, ServiceUnavailable
from funnel.pipeline import data_digest, request_for, stale_steps
from funnel.run import run_pipeline

NOW = datetime(2024, 6, 1, tzinfo=UTC)
LOOPBACK: Final = "127.0.0.1"
SECRET: Final = secrets.token_hex(8) + "@/:"
BINARIES: Final = max(
    Path("/usr/lib/postgresql").glob("*/bin/initdb"),
    key=lambda file: int(file.parts[-3]),
    default=Path("absent"),
).parent
needs_postgresql = pytest.mark.skipif(
    not (BINARIES / "initdb").exists(),
    reason="PostgreSQL's initdb is not installed below /usr/lib/postgresql",
)

LOG = [
    (1, 7, "2024-05-01 10:00:00", 1, 12.5),
    (1, 8, "2024-05-02 10:00:00", 0, 0.0),
    (2, 8, "2024-05-03 10:00:00", 1, None),
]
COLUMNS = "user_id BIGINT, item_id BIGINT, timestamp TIMESTAMP, clicked BOOLEAN, watch_seconds REAL"


@pytest.fixture(autouse=True)
def no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD, "")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    return place


def sqlite(path: Path, columns: str = COLUMNS, rows: list[tuple[Any, ...]] = LOG) -> str:
    """A database with a log; returns its address."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE interactions ({columns})")
        places = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO interactions VALUES ({places})", rows)
    return f"sqlite:///{path}"


def execute(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def read(address: str, out: Path, **cleaning: Any) -> dict[str, Any]:
    return ingest("canonical", address, out, CleaningConfig(**cleaning), NOW)


def rows(out: Path, name: str = "interactions") -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in pq.read_table(out / f"{name}.parquet").to_pylist()]


def at(day: int) -> datetime:
    return datetime(2024, 5, day, 10, tzinfo=UTC)


READ = [
    (1, 7, at(1), True, 12.5, True),
    (1, 8, at(2), False, 0.0, False),
    (2, 8, at(3), True, None, True),
]


def test_the_tables_of_sqlite_are_read_as_files_would_be(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "log.db"
    address = sqlite(path)
    execute(
        path,
        "CREATE TABLE items (item_id INTEGER, title TEXT, topics JSON, duration_seconds NUMERIC, price REAL)",
        """INSERT INTO items VALUES (7, 'Seven', '["a", "b"]', 20, 1.5), (8, 'Eight', NULL, 30, 2)""",
        "CREATE VIEW users AS SELECT DISTINCT user_id, 'CH' AS country FROM interactions",
        "CREATE TABLE another (x INTEGER)",
    )
    summary = read(address, out)
    assert rows(out) == READ
    assert rows(out, "items") == [
        (7, "Seven", 20.0, ["a", "b"], 1.5),
        (8, "Eight", 30.0, None, 2.0),
    ]
    assert rows(out, "users") == [(1, "CH"), (2, "CH")]
    assert not (out / "searches.parquet").exists()
    assert (summary["rows_read"], summary["unread"], summary["unused"]) == (3, [], [])


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (
            "TEXT",
            ["2024-05-01T10:00:00Z", "2024-05-02T10:00:00+00:00", "2024-05-03 10:00:00.000000"],
        ),
        ("INTEGER", [int(at(day).timestamp()) for day in (1, 2, 3)]),
        ("REAL", [at(day).timestamp() for day in (1, 2, 3)]),
        ("DATETIME", [str(int(at(day).timestamp())) for day in (1, 2, 3)]),
    ],
)
@pytest.mark.parametrize("since", [None, at(2)])
def test_instants_are_text_or_seconds_and_the_bound_holds_for_both(
    tmp_path: Path, out: Path, kind: str, values: list[Any], since: datetime | None
) -> None:
    log = [
        (user, item, value, *rest)
        for (user, item, _, *rest), value in zip(LOG, values, strict=True)
    ]
    read(sqlite(tmp_path / "log.db", COLUMNS.replace("TIMESTAMP", kind), log), out, since=since)
    assert rows(out) == (READ if since is None else READ[1:])


def test_the_database_is_not_asked_for_rows_before_the_bound(tmp_path: Path, out: Path) -> None:
    old = [(1, n, "2023-01-01 10:00:00", 1, 1.0) for n in range(50)]
    summary = read(sqlite(tmp_path / "log.db", rows=[*LOG, *old]), out, since="2024-05-02T10:00")
    assert summary["rows_read"] == 3
    assert summary["dropped"] == {"since": 1}
    assert rows(out) == READ[1:]


def test_files_have_the_same_bound(tmp_path: Path, out: Path) -> None:
    text = "".join(f"{user},{item},{moment}\n" for user, item, moment, *_ in LOG)
    (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\n" + text)
    summary = ingest("canonical", tmp_path, out, CleaningConfig(since=at(2)), NOW)
    assert summary["dropped"] == {"since": 1}
    assert [row[2] for row in rows(out)] == [at(2), at(3)]


def test_rows_at_fault_are_set_aside_as_those_of_files(tmp_path: Path, out: Path) -> None:
    bad = [
        (None, 7, "2024-05-01 10:00:00", 1, 1.0),
        (1, 9, "soon", 1, 1.0),
        (1, 9, "2024-05-01", 2, 1.0),
    ]
    address = sqlite(tmp_path / "log.db", rows=[*LOG, *bad])
    summary = read(address, out, max_rejected_share=0.6)
    assert summary["rejected"] == {
        "interactions": {
            "clicked cannot be read": 1,
            "timestamp cannot be read": 1,
            "user_id is null": 1,
        }
    }
    assert {row[1] for row in rows(out, "rejected")} == {"table interactions"}
    with pytest.raises(InputError, match=r"^table interactions, column \w+: row \d holds"):
        read(address, out)


def test_sqlite_is_opened_to_be_read_only(tmp_path: Path) -> None:
    with (
        Database(sqlite(tmp_path / "log.db")) as database,
        pytest.raises(sa.exc.OperationalError, match="readonly"),
    ):
        database._connection.exec_driver_sql("DELETE FROM interactions")


def test_the_digest_of_sqlite_is_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    address = sqlite(path)
    before = data_digest("canonical", address)
    assert data_digest("canonical", address) == before
    execute(path, "UPDATE interactions SET watch_seconds = 12.75 WHERE item_id = 7")
    assert data_digest("canonical", address) != before


def test_a_file_of_sqlite_that_changes_while_it_is_read_is_waited_for(
    tmp_path: Path, out: Path
) -> None:
    path = tmp_path / "log.db"
    address = sqlite(path)

    def digest_change_and_read() -> None:
        with opened("canonical", address):
            data_digest("canonical", address)
            execute(path, "DELETE FROM interactions WHERE user_id = 2")
            read(address, out)

    with pytest.raises(NotReady, match=r"log\.db: the file changed while it was read"):
        digest_change_and_read()
    assert list(out.iterdir()) == []
    with pytest.raises(NotReady, match="there is no such file"):
        read(f"sqlite:///{tmp_path}/nowhere.db", out)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("postgresql://u:hush@@host:port/db", "no address of a database"),
        ("://", "no address of a database"),
        ("postgresql://u:h@hush@host/db", "no address of a database"),
        ("postgresql://u:h@h/hush@host/db", "no address of a database"),
        ("sqlite://", "names no file"),
        ("oracle9://host/db", "no such kind of database"),
        ("mysql+pymysql://user@host/db", "the driver pymysql is not installed"),
        ("postgresql://user@host/db?password=hush", "a password stands among the options"),
    ],
)
def test_a_wrong_address_is_refused_in_one_sentence(out: Path, address: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        read(address, out)
    assert "hush" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("columns", "rows", "sentence"),
    [
        ("user_id INTEGER, item_id INTEGER", [(1, 2)], "table interactions: column timestamp is missing \\(found: user_id, item_id\\)"),
        (COLUMNS.replace("REAL", "TEXT"), LOG, "table interactions, column watch_seconds: the type is string, expected numbers"),
        (COLUMNS, [("one", 7, "2024-05-01", 1, 1.0)], "table interactions, column user_id: a value is no int64"),
        (COLUMNS.replace("TIMESTAMP", "TEXT"), [(1, 7, sqlite3.Binary(b"2024\xff"), 1, 1.0)], "table interactions: the database refuses .*Could not decode"),
        (COLUMNS, [(1, 7, "2024-05-01", 1, "long")], "table interactions, column watch_seconds: a value is no double"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_in_one_sentence(
    tmp_path: Path, out: Path, columns: str, rows: list[tuple[Any, ...]], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        read(sqlite(tmp_path / "log.db", columns, rows), out)
    assert list(out.iterdir()) == []


def test_a_database_without_a_log_or_with_an_empty_one_is_refused(
    tmp_path: Path, out: Path
) -> None:
    execute(tmp_path / "log.db", "CREATE TABLE plays (user_id INTEGER)")
    with pytest.raises(InputError, match=r"no table interactions \(found: plays\)"):
        read(f"sqlite:///{tmp_path / 'log.db'}", out)
    execute(tmp_path / "log.db", f"CREATE TABLE interactions ({COLUMNS})")
    with pytest.raises(InputError, match="the table interactions is empty"):
        read(f"sqlite:///{tmp_path / 'log.db'}", out)
    (tmp_path / "no.db").write_text("user_id,item_id\n" * 100)
    with pytest.raises(InputError, match="file is not a database"):
        read(f"sqlite:///{tmp_path / 'no.db'}", out)


def test_a_layout_of_files_is_not_looked_for_in_a_database(tmp_path: Path, out: Path) -> None:
    with pytest.raises(InputError, match="source 'kuairand' is a layout of files"):
        ingest("kuairand", sqlite(tmp_path / "log.db"), out, CleaningConfig(), NOW)


def test_a_server_that_does_not_answer_is_unavailable(out: Path) -> None:
    with pytest.raises(ServiceUnavailable, match="does not answer") as refused:
        read(address_without_password(f"postgresql://user:hush@{LOOPBACK}:{free_port()}/db"), out)
    assert "hush" not in str(refused.value)


def test_a_password_in_an_address_is_taken_off_and_one_in_a_dag_s_form_is_refused() -> None:
    assert address_without_password("postgresql://u:h%40sh@host/db") == "postgresql://u@host/db"
    assert os.environ[PASSWORD] == "h@sh"
    with pytest.raises(InputError, match="everybody sees") as refused:
        request_for("canonical", "postgresql://u:hush@host/db", "/home", "run")
    assert "hush" not in str(refused.value)
    assert (
        request_for("canonical", "postgresql://u@host/db", "/home", "run").data
        == "postgresql://u@host/db"
    )


def test_the_command_line_refuses_in_one_line_without_the_password(tmp_path: Path) -> None:
    address = f"postgresql://user:hush@{LOOPBACK}:{free_port()}/db"
    words = ["run", "--source", "canonical", "--data", address, "--out", str(tmp_path / "home")]
    command = "from funnel.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", command, *words], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("ServiceUnavailable: postgresql://user@")
    assert "hush" not in done.stderr + done.stdout


def free_port() -> int:
    with closing(socket.create_server((LOOPBACK, 0))) as server:
        port: int = server.getsockname()[1]
    return port


@dataclass(frozen=True)
class Server:
    """A PostgreSQL of this machine: its port, and the owner whose password it wants."""

    port: int
    folder: Path

    def address(
        self, user: str = "owner", password: str | None = SECRET, database: str = "log"
    ) -> str:
        url = sa.URL.create("postgresql", user, password, LOOPBACK, self.port, database)
        return url.render_as_string(hide_password=False)

    def execute(self, *statements: str, database: str = "log") -> None:
        url = self.address(database=database).replace("postgresql:", "postgresql+psycopg2:")
        engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # PostgreSQL refuses to run as root.
    owner: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder, port = Path(name), free_port()
        (folder / "password").write_text(SECRET)
        if owner:
            shutil.chown(folder, owner["user"])
        first = ["--username=owner", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256"]
        subprocess.run(
            [BINARIES / "initdb", "--no-sync", "-D", folder / "data", *first],
            cwd=folder, capture_output=True, check=True, **owner,
        )  # fmt: skip
        words = ["-D", folder / "data", "-k", folder, "-p", str(port), "-F"]
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [BINARIES / "postgres", *words], stdout=log, stderr=log, cwd=folder, **owner
            )
        try:
            found, patience = Server(port, folder), time.monotonic() + 60
            while subprocess.run(
                [BINARIES / "pg_isready", "-q", "-h", LOOPBACK, "-p", str(port)]
            ).returncode:
                assert time.monotonic() < patience, (folder / "server.log").read_text()
                time.sleep(0.2)
            found.execute("CREATE DATABASE log", database="postgres")
            yield found
        finally:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


LOADED = """
DROP VIEW IF EXISTS users; DROP TABLE IF EXISTS interactions, items, searches;
CREATE TABLE interactions (user_id bigint, item_id integer, timestamp timestamptz, clicked boolean,
                           watch_seconds double precision, device text, position smallint);
INSERT INTO interactions VALUES (1, 7, '2024-05-01 12:00+02', true, 12.5, 'tv', 1), (1, 8, '2024-05-02 10:00Z', false, 0, 'tv', 2),
                                (2, 8, '2024-05-03 10:00Z', true, NULL, NULL, 1)
"""


@pytest.fixture
def address(server: Server) -> str:
    """The address, without the password, of a database that holds the log anew."""
    server.execute(LOADED)
    return address_without_password(server.address())


@needs_postgresql
def test_the_tables_of_postgresql_are_read_as_files_would_be(
    server: Server, address: str, out: Path
) -> None:
    server.execute(
        """CREATE TABLE items (item_id integer, published_at timestamp, duration_seconds numeric(8, 2), topics text[],
                               language char(2), tags jsonb, launched date, code uuid)""",
        """INSERT INTO items VALUES (7, '2024-04-01', 20.5, '{a,b}', 'de', '["x"]', '2024-04-01', gen_random_uuid()),
                                    (8, NULL, NULL, NULL, NULL, NULL, NULL, NULL)""",
        "CREATE VIEW users AS SELECT DISTINCT user_id, 'CH' AS country FROM interactions",
        "CREATE TABLE searches (user_id bigint, timestamp timestamptz, query text)",
        "INSERT INTO searches VALUES (1, '2024-05-01Z', 'cats')",
    )
    summary = read(address, out)
    found = [(*row[:5], row[-1]) for row in rows(out)]
    assert found == READ
    assert [row[5:7] for row in rows(out)] == [("tv", 1.0), ("tv", 2.0), (None, 1.0)]
    assert rows(out, "items")[0][:5] == (
        7,
        datetime(2024, 4, 1, tzinfo=UTC),
        20.5,
        ["a", "b"],
        "de",
    )
    assert rows(out, "users") == [(1, "CH"), (2, "CH")]
    assert rows(out, "searches") == [(1, datetime(2024, 5, 1, tzinfo=UTC), "cats")]
    assert summary["rows_read"] == 3


@needs_postgresql
def test_postgresql_is_asked_with_a_bound_and_can_not_be_written(
    server: Server, address: str, out: Path
) -> None:
    server.execute(
        "INSERT INTO interactions SELECT 1, n, '2023-01-01Z', true, 1 FROM generate_series(1, 60) n"
    )
    summary = read(address, out, since=at(2))
    assert (summary["rows_read"], summary["dropped"]) == (2, {"since": 0})
    with (
        Database(address) as database,
        pytest.raises(sa.exc.InternalError, match="read-only transaction"),
    ):
        database._connection.exec_driver_sql("DELETE FROM interactions")


@needs_postgresql
def test_what_is_read_of_postgresql_is_what_the_digest_is_of(
    server: Server, address: str, out: Path
) -> None:
    with opened("canonical", address):
        before = data_digest("canonical", address)
        server.execute("INSERT INTO interactions VALUES (3, 7, '2024-05-04 10:00Z', true, 9)")
        assert read(address, out)["rows_read"] == 3
        assert data_digest("canonical", address) == before
    assert data_digest("canonical", address) != before


@needs_postgresql
@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ("UPDATE interactions SET watch_seconds = watch_seconds", False),
        ("UPDATE interactions SET item_id = 15 - item_id WHERE user_id = 1", True),
        ("UPDATE interactions SET device = 'vt' WHERE item_id = 7", True),
        ("DELETE FROM interactions WHERE user_id = 2", True),
        ("ALTER TABLE interactions RENAME position TO rank", True),
        ("CREATE TABLE items AS SELECT 7 AS item_id", True),
        ("UPDATE interactions SET watch_seconds = 1 WHERE timestamp < '2024-05-02'", True),
    ],
)
def test_the_digest_of_postgresql_is_of_every_value_and_of_no_order(
    server: Server, address: str, change: str, seen: bool
) -> None:
    before = data_digest("canonical", address)
    bounded = data_digest("canonical", address, at(2))
    server.execute(change)
    assert (data_digest("canonical", address) != before) == seen
    old = "timestamp <" in change or "item_id = 7" in change
    assert (data_digest("canonical", address, at(2)) != bounded) == (seen and not old)


@needs_postgresql
def test_counts_and_sums_are_the_digest_where_the_database_has_no_hash(
    server: Server, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from features.data import database

    monkeypatch.setattr(Database, "_measures", lambda _, columns: database._figures(columns))
    before = data_digest("canonical", address)
    server.execute("UPDATE interactions SET watch_seconds = watch_seconds")
    assert data_digest("canonical", address) == before
    server.execute("UPDATE interactions SET watch_seconds = 12.75 WHERE item_id = 7")
    assert data_digest("canonical", address) != before


@needs_postgresql
def test_more_rows_than_are_in_memory_at_once_are_read_whole(
    server: Server, address: str, out: Path
) -> None:
    server.execute(
        """INSERT INTO interactions SELECT mod(n, 1000), n, '2024-05-01Z'::timestamptz + n * interval '1 second', true, 12
           FROM generate_series(1, 120000) n"""
    )
    assert read(address, out)["rows"] == 120_003


@needs_postgresql
@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"password": "hush"}, "password authentication failed"),
        ({"user": "stranger"}, "password authentication failed"),
        ({"database": "nowhere"}, 'database "nowhere" does not exist'),
        ({"password": None}, "no password supplied"),
    ],
)
def test_what_postgresql_will_never_accept_is_refused_at_once(
    server: Server, out: Path, wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence) as refused:
        read(address_without_password(server.address(**wrong)), out)
    assert not isinstance(refused.value, NotReady)
    assert "hush" not in str(refused.value)
    assert SECRET not in str(refused.value)


@needs_postgresql
def test_a_table_that_may_not_be_read_is_refused(server: Server, address: str, out: Path) -> None:
    with suppress(sa.exc.ProgrammingError):
        server.execute("CREATE ROLE guest LOGIN PASSWORD 'let me in'")
    guest = address_without_password(server.address("guest", "let me in"))
    assert address.replace("owner", "guest") == guest
    with pytest.raises(
        InputError, match=r"table interactions: the database refuses .*permission denied"
    ):
        read(guest, out)


@needs_postgresql
def test_instants_that_no_clock_shows_are_set_aside_or_refused(
    server: Server, address: str, out: Path
) -> None:
    server.execute("INSERT INTO interactions VALUES (5, 5, 'infinity')")
    summary = read(address, out, max_rejected_share=0.3)
    assert summary["rejected"]["interactions"] == {"timestamp lies in the future": 1}
    server.execute("INSERT INTO interactions VALUES (5, 5, '20000-01-01Z')")
    with pytest.raises(
        InputError, match=r"table interactions: a value cannot be read .*year 20000"
    ):
        read(address, out)


@needs_postgresql
def test_the_password_may_come_from_the_client_s_own_file(
    address: str, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, "")
    kept = tmp_path / "pgpass"
    kept.write_text(f"*:*:*:owner:{SECRET.replace(':', chr(92) + ':')}\n")
    kept.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(kept))
    assert read(address, out)["rows"] == 3


@pytest.mark.slow
@needs_postgresql
def test_a_run_on_postgresql_tells_nobody_the_password_and_is_done_once(
    server: Server,
    tiny_log: Path,
    tiny_models: tuple[str, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    as_tables: Callable[[Server, Path], None],
) -> None:
    as_tables(server, tiny_log)
    overrides, home = [*tiny_models, "ranking.top_k=10"], tmp_path / "home"
    assert all(
        each.made
        for each in run_pipeline("canonical", server.address(), home, None, overrides, None)
    )
    assert not any(
        each.made
        for each in run_pipeline("canonical", server.address(), home, None, overrides, None)
    )
    server.execute(
        "DELETE FROM interactions WHERE user_id = (SELECT max(user_id) FROM interactions)"
    )
    asked = request_for(
        "canonical", address_without_password(server.address()), str(home), "r", None, overrides
    )
    assert stale_steps(asked)[0] == "interactions"
    printed = "".join(capsys.readouterr())
    told = [
        path for path in home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]
    assert (told, SECRET in printed) == ([], False)
    quoted = SECRET.replace("@", "%40")
    assert not [
        path for path in home.rglob("*") if path.is_file() and quoted.encode() in path.read_bytes()
    ]


@pytest.fixture
def as_tables() -> Callable[[Server, Path], None]:
    """Loads the files of a log into the tables of a server."""

    def load(server: Server, log: Path) -> None:
        server.execute(
            "DROP VIEW IF EXISTS users; DROP TABLE IF EXISTS interactions, items, searches"
        )
        url = server.address().replace("postgresql:", "postgresql+psycopg2:")
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        for path in sorted(log.glob("*.parquet")):
            table = pq.read_table(path)
            lists = {
                field.name: sa.ARRAY(sa.Text)
                for field in table.schema
                if pa.types.is_list(field.type)
            }
            frame = table.to_pandas()
            for name in lists:
                frame[name] = [None if each is None else list(each) for each in frame[name]]
            frame.to_sql(path.stem, engine, index=False, dtype=lists, method="multi", chunksize=500)

    return load
