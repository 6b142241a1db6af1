"""Who is told, and of what: failures, a log that grows old, lists that are not fit to serve."""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from features.errors import InputError
from funnel import airflow_tasks
from funnel.airflow_api import LONGEST_NOTE, write_note
from funnel.airflow_tasks import TaskRefused
from funnel.freshness import stale_log
from funnel.notify import notify
from funnel.store import ArtefactKey, Store

NOON = datetime(2026, 11, 29, 12, tzinfo=UTC)


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        host, port = server.server_address[:2]
        yield f"{host!s}:{port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The texts that a web address in the environment received."""
    received: list[str] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(json.loads(body)["text"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with serving(HTTPServer(("127.0.0.1", 0), Receiver)) as address:
        monkeypatch.setenv("WATCHFUNNEL_WEBHOOK_URL", f"http://{address}/hook")
        yield received


class MailServer(socketserver.StreamRequestHandler):
    """As much of SMTP as sending one mail takes; its lines go to the server's list."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        inside = False
        for line in self.rfile:
            text = line.decode().rstrip("\r\n")
            if inside:
                self.server.lines.append(text)  # type: ignore[attr-defined]
                inside = text != "."
                if not inside:
                    self.wfile.write(b"250 taken\r\n")
            elif text.upper() == "DATA":
                inside = True
                self.wfile.write(b"354 go on\r\n")
            elif text.upper() == "QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                self.wfile.write(b"250 yes\r\n")


def test_the_web_address_of_the_environment_receives_the_text(webhook: list[str]) -> None:
    assert notify("it failed", "because") == ["WATCHFUNNEL_WEBHOOK_URL"]
    assert webhook == ["it failed\nbecause"]


def test_mail_goes_to_whom_the_environment_names() -> None:
    server = socketserver.TCPServer(("127.0.0.1", 0), MailServer)
    server.lines = []  # type: ignore[attr-defined]
    with serving(server) as address:
        environment = {
            "WATCHFUNNEL_MAIL_TO": "duty@example.org",
            "WATCHFUNNEL_SMTP_HOST": address,
        }
        assert notify("it failed", "because", environment) == ["WATCHFUNNEL_MAIL_TO"]
    lines = server.lines  # type: ignore[attr-defined]
    assert {"To: duty@example.org", "Subject: it failed", "because"} <= set(lines)


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHFUNNEL_WEBHOOK_URL": "http://127.0.0.1:1/nobody"},
        {"WATCHFUNNEL_WEBHOOK_URL": "ftp://127.0.0.1/"},
        {"WATCHFUNNEL_MAIL_TO": "a@example.org", "WATCHFUNNEL_SMTP_HOST": "127.0.0.1:1"},
    ],
)
def test_a_channel_that_fails_is_said_and_fails_nothing(
    environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert notify("it failed", "because", environment) == []
    assert f"Nobody was told by {next(iter(environment))}" in capsys.readouterr().out
    assert notify("it failed", "because", {}) == []


def log_until(root: Path, newest: str) -> Store:
    store = Store(root)
    summary = json.dumps({"last_timestamp": newest})
    store.make(
        ArtefactKey("interactions", {}, newest, {}),
        lambda out: (out / "summary.json").write_text(summary) and None,
    )
    return store


def test_a_log_is_stale_from_the_hours_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = log_until(tmp_path, "2026-11-28T00:00:00+00:00")
    monkeypatch.delenv("WATCHFUNNEL_STALE_HOURS", raising=False)
    assert stale_log(store, NOON) is None
    monkeypatch.setenv("WATCHFUNNEL_STALE_HOURS", "36")
    assert stale_log(store, NOON) is None
    monkeypatch.setenv("WATCHFUNNEL_STALE_HOURS", "35.5")
    assert str(stale_log(store, NOON)).startswith(
        "The newest row of the log is 36 hours old (2026-11-28 00:00 UTC), more than 35.5 hours"
    )
    monkeypatch.setenv("WATCHFUNNEL_STALE_HOURS", "a day")
    with pytest.raises(InputError, match=r"WATCHFUNNEL_STALE_HOURS = a day is no number"):
        stale_log(store, NOON)


class FailedTask:
    """As Airflow gives it to a callback, with the XComs of its task."""

    dag_id, run_id, task_id, log_url = "recall", "r", "towers", "http://127.0.0.1:8080/log"

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def xcom_push(self, key: str, value: str) -> None:
        self.kept[key] = value

    def xcom_pull(self, task_ids: str, key: str = "return_value") -> str | None:
        return self.kept.get(key) if task_ids == self.task_id else None


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (TaskRefused("No such column."), "No such column."),
        (ValueError("two"), "ValueError: two."),
        (None, "its process was killed."),
    ],
)
def test_a_failed_run_is_told_with_the_reason_that_its_task_has_kept(
    webhook: list[str], error: BaseException | None, why: str
) -> None:
    """The callback of a task knows the exception, the one of the DAG does not; a task that was
    killed has none.
    """
    task = FailedTask()
    if error:
        airflow_tasks.close_as_failed({"ti": task, "exception": error})
    airflow_tasks.tell_of_failure({"ti": task})
    (text,) = webhook
    link = "[Its log](http://127.0.0.1:8080/log)"
    assert text == f"watchfunnel: recall failed\nTask `towers` failed: {why} {link} Run r"


def test_a_run_whose_time_is_up_says_so(webhook: list[str]) -> None:
    airflow_tasks.tell_of_failure({"ti": FailedTask(), "reason": "timed_out"})
    assert "Task `towers` failed: the time of the run was up." in webhook[0]


class Airflow(BaseHTTPRequestHandler):
    """As much of Airflow's REST interface as a note takes; the server's `notes` are by path."""

    def do_GET(self) -> None:
        self.answer({"access_token": "open to all"})

    def do_POST(self) -> None:
        login = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer({"access_token": login["username"]})

    def do_PATCH(self) -> None:
        note = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["note"]
        self.server.notes.append((self.headers["Authorization"], self.path, note))  # type: ignore[attr-defined]
        self.answer({})

    def answer(self, content: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("login", "bearer"),
    [
        ({}, "open to all"),
        ({"WATCHFUNNEL_AIRFLOW_USER": "duty", "WATCHFUNNEL_AIRFLOW_PASSWORD": "p"}, "duty"),
    ],
)
def test_a_note_is_put_on_a_run_by_rest_with_the_login_of_the_environment(
    login: dict[str, str], bearer: str
) -> None:
    server = HTTPServer(("127.0.0.1", 0), Airflow)
    server.notes = []  # type: ignore[attr-defined]
    with serving(server) as address:
        where = {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{address}/execution/"}
        assert write_note("ingest", "a+b", "n" * 2_000, where | login) is None
    ((token, path, note),) = server.notes  # type: ignore[attr-defined]
    assert (token, path) == (
        f"Bearer {bearer}",
        "/api/v2/dags/ingest/dagRuns/a%2Bb?update_mask=note",
    )
    assert len(note) == LONGEST_NOTE
    assert note.endswith("n…")


def test_where_no_airflow_answers_a_note_is_said_to_be_missing() -> None:
    assert "names no Airflow" in str(write_note("ingest", "r", "text", {}))
    nobody = {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:1/execution/"}
    assert "ConnectionError" in str(write_note("ingest", "r", "text", nobody))
