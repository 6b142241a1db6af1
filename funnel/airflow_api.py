"""The few words of Airflow's REST interface that the demo and the notes of runs speak."""

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests

from features.errors import InputError

Json = dict[str, Any]

# Airflow refuses a longer note.
LONGEST_NOTE = 1_000
TIMEOUT_SECONDS = 30


class Airflow:
    """Airflow at an address: as the administrator that everybody is on an embedded one, or as the
    user who is named.

    InputError where Airflow refuses, `requests.RequestException` where nobody answers.
    """

    def __init__(self, address: str, user: str | None = None, password: str | None = None) -> None:
        self._api = f"{address}/api/v2"
        self._session = requests.Session()
        login = {"username": user, "password": password}
        method = "POST" if user else "GET"
        token = self._ask(method, f"{address}/auth/token", json=login if user else None)
        self._session.headers["Authorization"] = f"Bearer {token['access_token']}"

    def get(self, path: str, **query: str) -> Json:
        """The answer to GET `path`."""
        return self._ask("GET", f"{self._api}/{path}", params=query)

    def post(self, path: str, body: Json) -> Json:
        """The answer to POST `path`."""
        return self._ask("POST", f"{self._api}/{path}", json=body)

    def patch(self, path: str, body: Json) -> Json:
        """The answer to PATCH `path`."""
        return self._ask("PATCH", f"{self._api}/{path}", json=body)

    def trigger(self, dag: str, params: Json) -> str:
        """Start a run with these Params: its id."""
        body = {"logical_date": None, "conf": params}
        return str(self.post(f"dags/{dag}/dagRuns", body)["dag_run_id"])

    def state(self, dag: str, run: str) -> str:
        """queued, running, success or failed."""
        return str(self.get(f"dags/{dag}/dagRuns/{run}")["state"])

    def tasks(self, dag: str, run: str) -> list[Json]:
        """The run's task instances, those that ended first in front."""
        tasks = self.get(f"dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return sorted(tasks, key=lambda task: task["end_date"] or "9")

    def follower(self, dag: str, run: str, next_dag: str) -> str | None:
        """The run of `next_dag` that an asset event of this run has started, once it has begun."""
        # Asked about an event whose run has not begun, Airflow 3.3.2 answers with an error: begun
        # runs are asked.
        begun = self.get(f"dags/{next_dag}/dagRuns", order_by="-run_after", limit="5")["dag_runs"]
        for candidate in (
            str(found["dag_run_id"]) for found in begun if found["state"] != "queued"
        ):
            events = self.get(f"dags/{next_dag}/dagRuns/{candidate}/upstreamAssetEvents")[
                "asset_events"
            ]
            if any(
                (event["source_dag_id"], event["source_run_id"]) == (dag, run) for event in events
            ):
                return candidate
        return None

    def returned(self, task: Json) -> Any:
        """What a task returned, None where it returned nothing."""
        entries = self.get(f"{_path(task)}/xcomEntries")["xcom_entries"]
        if not any(entry["key"] == "return_value" for entry in entries):
            return None
        return self.get(f"{_path(task)}/xcomEntries/return_value", deserialize="true")["value"]

    def log(self, task: Json) -> list[Json]:
        """The log of a task's last try, an entry an event."""
        return list(
            self.get(f"{_path(task)}/logs/{task['try_number']}", full_content="true")["content"]
        )

    def note(self, dag: str, run: str) -> str | None:
        """The note on a run, None where there is none."""
        found = self.get(f"dags/{dag}/dagRuns/{quote(run, safe='')}")["note"]
        return None if found is None else str(found)

    def write_note(self, dag: str, run: str, text: str) -> None:
        """Put a note (Markdown) on a run, in place of the one that was there."""
        note = text if len(text) <= LONGEST_NOTE else f"{text[: LONGEST_NOTE - 1]}…"
        self.patch(f"dags/{dag}/dagRuns/{quote(run, safe='')}?update_mask=note", {"note": note})

    def make_pool(self, name: str, slots: int, description: str) -> None:
        """Make a pool, where there is none of this name."""
        pools = self.get("pools", limit="1000")["pools"]
        if not any(pool["name"] == name for pool in pools):
            self.post("pools", {"name": name, "slots": slots, "description": description})

    def _ask(self, method: str, url: str, **options: Any) -> Json:
        response = self._session.request(method, url, timeout=TIMEOUT_SECONDS, **options)
        if not response.ok:
            raise InputError(
                f"Airflow answered {response.status_code} at {response.url}: {response.text[:500]}"
            )
        return dict(response.json())


def write_note(
    dag: str, run: str, text: str, environment: Mapping[str, str] = os.environ
) -> str | None:
    """Put a note on a DAG run from inside a task: None where it is there, else why it is not.

    Airflow is where tasks report to (AIRFLOW__CORE__EXECUTION_API_SERVER_URL); where it has logins,
    WATCHFUNNEL_AIRFLOW_USER and WATCHFUNNEL_AIRFLOW_PASSWORD are used.
    """
    # The SDK has no call for it (3.3.2).
    tasks_report_to = environment.get("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "")
    if not tasks_report_to:
        return "AIRFLOW__CORE__EXECUTION_API_SERVER_URL names no Airflow"
    user, password = (
        environment.get(name)
        for name in ("WATCHFUNNEL_AIRFLOW_USER", "WATCHFUNNEL_AIRFLOW_PASSWORD")
    )
    try:
        airflow = Airflow(
            tasks_report_to.rstrip("/").removesuffix("/execution"), user or None, password
        )
        airflow.write_note(dag, run, text)
    except (InputError, requests.RequestException) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _path(task: Json) -> str:
    return f"dags/{task['dag_id']}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}"
