"""The databases of Airflow and MLflow: copied while they are in use, and rid of old rows.

SQLite's files are copied by its own online backup, PostgreSQL's databases by `pg_dump`. A copy of a
file is put back by copying it to its place, a dump by `pg_restore`; `docs/operate.md` says how.
"""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from features.errors import InputError
from funnel.maintenance.disk import size_text

SQLITE = "sqlite:///"
KEPT_BACKUPS = 4
# What grows with every run. Asset events stay: the DAGs take their request from the newest, however
# old.
AIRFLOW_TABLES = (
    *("callback", "dag_run", "dag_version", "deadline", "import_error", "job", "log"),
    *("task_instance", "task_instance_history", "task_reschedule", "trigger", "xcom"),
)
TIME_LIMIT_SECONDS = 1800


def back_up(
    databases: Mapping[str, str], folder: Path, now: datetime, kept: int = KEPT_BACKUPS
) -> str:
    """Copy each database, by name and address, into a folder that only its owner may read, keep the
    newest `kept` copies of each, and say so. InputError where a copy cannot be made, after the
    others were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    done, failed = [], []
    for name, address in databases.items():
        kind = "sqlite" if address.startswith(SQLITE) else "dump"
        partial = folder / f".{name}.{kind}"
        partial.unlink(missing_ok=True)
        try:
            _copy(address, partial)
        except (InputError, sqlite3.Error) as error:
            failed.append(f"{name}: {error}")
            continue
        partial.replace(folder / f"{name}-{now:%Y%m%dT%H%M%S}.{kind}")
        copies = sorted(folder.glob(f"{name}-*"))
        done.append(f"{name} ({size_text(copies[-1].stat().st_size)})")
        for old in copies[:-kept]:
            old.unlink()
    if failed:
        raise InputError(f"Not every database was copied. {' '.join(failed)}")
    return f"Copied to {folder}: {', '.join(done)}; the newest {kept} of each are kept."


def clean_airflow(address: str, before: datetime) -> str:
    """Delete Airflow's rows of before an instant, runs, tasks and their messages, by its own
    command, and say so; the newest scheduled run of each DAG stays. InputError where it fails.
    """
    command = (
        *(tool("airflow"), "db", "clean", "--yes", "--skip-archive", "--error-on-cleanup-failure"),
        *("--clean-before-timestamp", before.isoformat(), "--tables", ",".join(AIRFLOW_TABLES)),
    )
    # In a task, Airflow's own setting leads nowhere: tasks are kept away from its database.
    own = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": address}
    blocked = ("AIRFLOW__CORE__SQL_ALCHEMY_CONN", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC")
    run_tool(command, {k: v for k, v in os.environ.items() if k not in blocked} | own)
    return f"Airflow's rows of before {before:%Y-%m-%d} are deleted."


def tool(name: str) -> str:
    """The command that was installed into this Python's environment."""
    return str(Path(sys.executable).parent / name)


def run_tool(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What another program prints; InputError, with its last line, where it fails or takes more
    than half an hour.
    """
    name = " ".join([Path(command[0]).name, *command[1:3]])
    try:
        done = subprocess.run(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT_SECONDS,
        )
    except FileNotFoundError:
        raise InputError(f"`{Path(command[0]).name}` is not installed here.") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"`{name}` took more than {TIME_LIMIT_SECONDS} s.") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise InputError(f"`{name}` failed and said: {said}")
    return done.stdout


def _copy(address: str, target: Path) -> None:
    target.touch(mode=0o600)
    if address.startswith(SQLITE):
        source = Path(address.removeprefix(SQLITE))
        with (
            closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as database,
            closing(sqlite3.connect(target)) as copy,
        ):
            database.backup(copy)
            (verdict,) = copy.execute("PRAGMA quick_check").fetchone()
        if verdict != "ok":
            raise InputError(f"{source}: its copy is damaged ({verdict}).")
        return
    if shutil.which("pg_dump") is None:
        raise InputError(
            "PostgreSQL's pg_dump is not installed here; install its client, or copy the database "
            "where it runs."
        )
    # The password goes where other users of the machine do not see it.
    parts = urlsplit(address)
    place = parts.netloc.rpartition("@")
    bare = parts._replace(
        scheme="postgresql", netloc=f"{parts.username}@{place[2]}" if place[1] else place[2]
    )
    password = {"PGPASSWORD": unquote(parts.password)} if parts.password else {}
    command = ("pg_dump", "--format=custom", "--no-password", "--file", str(target))
    run_tool([*command, "--dbname", urlunsplit(bare)], os.environ | password)
