"""The weekly chores, each on real files, databases and processes: what goes, what stays, what is
said.
"""

import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from features.errors import InputError
from funnel.maintenance import disk
from funnel.maintenance.chores import CHORES, maintain, tell_of_disk
from funnel.maintenance.databases import back_up, run_tool
from funnel.maintenance.leftovers import remove_leftovers
from funnel.maintenance.logs import remove_old_logs, rotate_logs, tidy_logs
from funnel.maintenance.places import places_here, places_of
from funnel.store import LONGEST_STEP_SECONDS, Store

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


def aged(path: Path, days: float, text: str = "x") -> Path:
    """A file that was last written some days before noon."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    when = (NOON - timedelta(days=days)).timestamp()
    os.utime(path, (when, when))
    return path


def database(path: Path, rows: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(rows)])
        connection.commit()
    return f"sqlite:///{path}"


def rows_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (number,) = connection.execute("SELECT count(*) FROM t").fetchone()
    return int(number)


def test_what_lies_below_a_home_is_found(tmp_path: Path) -> None:
    database(tmp_path / "airflow" / "airflow.db", 1)
    mlflow = database(tmp_path / "mlflow" / "mlflow.db", 1)
    places = places_of(tmp_path, environment={})
    assert (set(places.databases), places.tracking) == ({"airflow", "mlflow"}, mlflow)
    assert places.airflow_logs == tmp_path / "airflow" / "logs"
    assert (places.keep_days, places.disk_days) == (90, 14)


def test_the_environment_names_what_lies_elsewhere(tmp_path: Path) -> None:
    environment = {
        "AIRFLOW_HOME": "/opt/airflow",
        "MLFLOW_TRACKING_URI": "http://mlflow:5000",
        "WATCHFUNNEL_AIRFLOW_DATABASE": "postgresql://airflow@postgres/airflow",
        "WATCHFUNNEL_KEEP_DAYS": "30",
    }
    places = places_of(tmp_path, environment=environment)
    assert places.databases == {"airflow": "postgresql://airflow@postgres/airflow"}
    assert places.tracking == "http://mlflow:5000"
    assert places.airflow_logs == Path("/opt/airflow/logs")
    assert places.keep_days == 30


@pytest.mark.parametrize("days", ["soon", "0", "-1", "nan"])
def test_a_number_of_days_that_is_none_is_refused(tmp_path: Path, days: str) -> None:
    with pytest.raises(InputError, match=f"WATCHFUNNEL_KEEP_DAYS = {days}: expected a number"):
        places_of(tmp_path, environment={"WATCHFUNNEL_KEEP_DAYS": days})


def test_a_home_that_is_not_there_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        places_of(tmp_path / "nowhere")
    monkeypatch.delenv("WATCHFUNNEL_HOME", raising=False)
    with pytest.raises(InputError, match="WATCHFUNNEL_HOME is not set"):
        places_here()


def test_a_database_is_copied_while_somebody_writes_and_restored_by_copying_it_back(
    tmp_path: Path,
) -> None:
    """The restore is the one of docs/operate.md: a copy in the place of the file."""
    file = tmp_path / "airflow.db"
    address = database(file, 1000)
    with closing(sqlite3.connect(file)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute("INSERT INTO t VALUES (1)")
        said = back_up({"airflow": address}, tmp_path / "backups", NOON)
        writer.commit()
    (copy,) = (tmp_path / "backups").iterdir()
    assert copy.name == "airflow-20261129T120000.sqlite"
    assert re.search(r"airflow \(\d+\.\d kB\); the newest 4 of each are kept", said)
    assert (copy.stat().st_mode & 0o777, copy.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert rows_of(file) == 1001
    for path in tmp_path.glob("airflow.db*"):
        path.unlink()
    file.write_bytes(copy.read_bytes())
    assert rows_of(file) == 1000


def test_the_newest_copies_are_kept(tmp_path: Path) -> None:
    address, folder = database(tmp_path / "m.db", 1), tmp_path / "backups"
    for week in range(6):
        back_up({"mlflow": address}, folder, NOON + timedelta(days=7 * week))
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 4
    assert names[0] == f"mlflow-{NOON + timedelta(days=14):%Y%m%dT%H%M%S}.sqlite"


def test_a_database_that_cannot_be_copied_is_told_after_the_others_were(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_text("no database at all, but long enough to be taken for one" * 100)
    databases = {
        "airflow": f"sqlite:///{broken}",
        "mlflow": database(tmp_path / "mlflow.db", 3),
    }
    with pytest.raises(InputError, match=r"Not every database was copied. airflow: .*database"):
        back_up(databases, tmp_path / "backups", NOON)
    copies = [path.name for path in (tmp_path / "backups").glob("[!.]*")]
    assert copies == ["mlflow-20261129T120000.sqlite"]


def test_another_program_that_fails_is_told_by_its_last_line() -> None:
    failing = (sys.executable, "-c", "import sys; sys.exit('first\\nthe reason')")
    with pytest.raises(InputError, match="failed and said: the reason"):
        run_tool(failing, os.environ)
    with pytest.raises(InputError, match="`no-such-tool` is not installed here"):
        run_tool(("no-such-tool",), os.environ)


def test_a_log_that_a_process_holds_open_is_packed_and_goes_on_from_its_beginning(
    tmp_path: Path,
) -> None:
    large, small = tmp_path / "dag-processor.log", tmp_path / "mlflow.log"
    small.write_text("little\n")
    with large.open("ab") as output:
        writer = subprocess.Popen(
            ["sh", "-c", "yes line | head -n 300000; read -r _; echo later"],
            stdin=subprocess.PIPE,
            stdout=output,
        )
        while large.stat().st_size < 1_500_000:
            assert writer.poll() is None
        assert rotate_logs(tmp_path, NOON) == 1_500_000
        assert large.stat().st_size == 0
        writer.communicate(b"go\n")
    assert large.read_text() == "later\n"
    (packed,) = tmp_path.glob("*.gz")
    assert gzip.decompress(packed.read_bytes()) == b"line\n" * 300_000
    assert small.read_text() == "little\n"
    assert rotate_logs(tmp_path, NOON) == 0


def test_old_logs_go_with_the_folders_that_they_leave_empty(tmp_path: Path) -> None:
    old = aged(tmp_path / "dag_id=recall" / "run_id=1" / "task_id=index" / "attempt=1.log", 91)
    young = aged(tmp_path / "dag_id=recall" / "run_id=2" / "task_id=index" / "attempt=1.log", 89)
    (fresh := tmp_path / "dag_id=recall" / "run_id=3").mkdir()
    assert remove_old_logs(tmp_path, NOON - timedelta(days=90)) == (1, 1)
    assert not old.parents[1].exists()
    assert young.exists()
    assert fresh.exists()
    assert remove_old_logs(tmp_path / "nowhere", NOON) == (0, 0)


def test_what_was_done_to_the_logs_is_one_sentence(tmp_path: Path) -> None:
    aged(tmp_path / "logs" / "mlflow.log.20260101T000000.gz", 100, "x" * 2000)
    said = tidy_logs(tmp_path / "logs", tmp_path / "none", NOON, NOON - timedelta(days=90))
    assert said.startswith("0.0 kB of the services' logs are packed; 1 log files of before 2026-08")
    assert said.endswith("are removed (2.0 kB).")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artefacts")


LONG = LONGEST_STEP_SECONDS / 86_400 + 1


def test_what_killed_runs_left_goes_once_nobody_can_be_at_it(store: Store) -> None:
    home, root = store.root.parent, store.root
    kept = [
        aged(root / "towers" / "0123456789abcdef" / "manifest.json", LONG),
        aged(root / "towers" / "evaluation", LONG),
        aged(root / "towers" / ".parts" / "key" / "tower.json", LONG),
        aged(root / "towers" / ".scratch-1" / "progress.json", 1),
        aged(home / "report.json", LONG),
        aged(root / "made_by_others" / "table.parquet", LONG),
    ]
    aged(root / "towers" / ".scratch-1" / "slot_a.npz", LONG)
    gone = [
        aged(root / "towers" / ".partial-2" / "half.npy", LONG).parent,
        aged(root / "towers" / ".scratch-2" / "progress.json", LONG).parent,
        aged(root / "towers" / ".parts" / ".key.4711" / "tower.json", LONG).parent,
        aged(root / "towers" / ".evaluation.4711", LONG),
        aged(root / "ledger" / "serving", LONG).parent,
        aged(home / ".verify-x" / "artefacts" / "split" / "evaluation", LONG).parents[2],
        aged(home / ".report.json.4711", LONG),
        aged(home / "serving" / ".report.json.4711", LONG),
    ]
    for folder in (path for path in gone if path.is_dir()):
        for each in (folder, *folder.rglob("*")):
            when = (NOON - timedelta(days=LONG)).timestamp()
            os.utime(each, (when, when))
    said = remove_leftovers(home, NOON)
    assert [path for path in gone if path.exists()] == []
    assert [path for path in kept if not path.exists()] == []
    assert said == f"{len(gone)} leftovers of killed or older runs are removed (0.0 kB)."


def test_nothing_is_removed_while_a_run_holds_the_store(store: Store) -> None:
    left = aged(store.root / "towers" / ".evaluation.4711", LONG)
    with store.locked():
        assert "another run is writing here" in remove_leftovers(store.root.parent, NOON)
    assert left.exists()
    assert "no artefacts here" in remove_leftovers(store.root / "towers", NOON)


def test_the_disk_is_full_when_the_pace_of_the_last_report_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(tmp_path / "artefacts" / "towers" / "v" / "tower.npy", 0, "x" * 3_000_000)
    aged(tmp_path / "mlflow" / "mlflow.db", 0, "x" * 1_000)
    free = iter([80e9, 75e9, 70e9, 71e9])

    def usage(_: Path) -> object:
        return type("Usage", (), {"free": int(next(free))})

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    first = disk.report_disk(tmp_path, {}, NOON)
    assert first.text == "80.0 GB free; artefacts/towers 3.0 MB, mlflow 1.0 kB."
    # Hours say nothing of days; then the newest report that is a day old counts.
    assert disk.report_disk(tmp_path, {}, NOON + timedelta(hours=5)).days_left is None
    later = disk.report_disk(tmp_path, {}, NOON + timedelta(days=5, hours=5))
    assert later.days_left == pytest.approx(70)
    assert later.text.startswith("70.0 GB free, full in 70 days; ")
    assert disk.report_disk(tmp_path, {}, NOON + timedelta(days=9)).days_left is None
    assert len(json.loads((tmp_path / "disk.json").read_text())) == 4


def test_the_small_parts_of_a_home_are_told_as_one() -> None:
    parts = {f"part_{size}": 1000 * size for size in range(1, 12)}
    text = disk.DiskReport(parts, 10**10, None).text
    assert text.startswith("10.0 GB free; part_11 11.0 kB, part_10 10.0 kB, ")
    assert text.endswith("part_4 4.0 kB, others 6.0 kB.")


def test_somebody_is_told_of_a_disk_that_is_full_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Nobody listens there: what would have been sent is told instead.
    monkeypatch.setenv("WATCHFUNNEL_WEBHOOK_URL", "http://127.0.0.1:9/hook")
    places = places_of(tmp_path, environment={})
    tell_of_disk(places)
    assert capsys.readouterr().out == ""
    then = datetime.now(UTC) - timedelta(days=7)
    earlier = [{"at": then.isoformat(), "free": 10**17, "parts": {}}]
    (tmp_path / "disk.json").write_text(json.dumps(earlier))
    tell_of_disk(places)
    assert "Nobody was told by WATCHFUNNEL_WEBHOOK_URL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0.0 kB"),
        (1_000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (1_234_567, "1.2 MB"),
        (5e15, "5,000.0 TB"),
    ],
)
def test_sizes_are_told_in_the_largest_unit_there_is_one_of(size: float, text: str) -> None:
    assert disk.size_text(size) == text


def test_one_chore_that_fails_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "disk.json").write_text("{")
    (tmp_path / "airflow").mkdir()
    (tmp_path / "airflow" / "airflow.db").write_text("no database" * 1000)
    told: list[str] = []
    assert not maintain(places_of(tmp_path, environment={}), told.append)
    assert [sentence.split(":")[0] for sentence in told] == list(CHORES)
    failed = {sentence.split(":")[0] for sentence in told if ": failed. " in sentence}
    assert failed == {"backup", "airflow_database", "disk"}


def test_a_home_of_nothing_is_maintained_too(tmp_path: Path) -> None:
    told: list[str] = []
    assert maintain(places_of(tmp_path, environment={}), told.append)
    assert len(told) == len(CHORES)
