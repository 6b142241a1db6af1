"""The demo: both services, a refreshed log, the chain of DAGs on it, and what came out of it.

Interrupted at any point it leaves no process behind (after `kill -9`: none once it runs again or
`stop` is called), and running it again finishes. What is up to date is not made again.
"""

import fcntl
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

from features.errors import InputError, NotReady
from funnel.airflow_api import Airflow, Json
from funnel.airflow_tasks import STAGES
from funnel.demo import services as s
from funnel.demo import showcase

DAGS = tuple(stage.name for stage in STAGES)
SIMULATED, SIMULATION = "simulated", "simulation"
# About 1,500 users and 150,000 impressions in two weeks; `funnel simulate` writes larger worlds.
WORLD = {
    "users": 1_400,
    "users_a_day": 7,
    "items": 1_000,
    "items_a_day": 60,
    "impressions_a_day": 10_500,
}
POLL_SECONDS, PARSED_WITHIN_SECONDS, LOG_LINES = 0.3, 120.0, 25
DONE = ("success", "failed")


class ChainError(SystemExit):
    """A task failed for good; the message, for standard error, names it and ends with its log. Exit
    code 1.
    """


def demo(source: str, data: Path | str | None, home: Path) -> None:
    """Run the whole line under Airflow on this machine and leave both UIs up to look at.

    `data` may be left out for the simulated world only. InputError on bad input, or where a service
    cannot start; ChainError, with the UIs left up, where a task fails.
    """
    # Wide enough for the tables where the output is a file.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    home = home.resolve()
    folder = _folder(source, data, home)
    with _alone(home), _nothing_left_behind(home):
        services = _started(s.Defaults(source=source, data=folder), home, console)
        if data is None:
            _wait_for_the_world(services, console)
        chain = _Chain(Airflow(services.airflow), services, console)
        chain.run({"source": source, "data": str(folder)})
        showcase.show(home, console)
        _tell_addresses(services, console)


def write_world(folder: Path) -> None:
    """Simulate a small world and write its log to `folder`; the same world each time."""
    from features.simulation.simulated_log import simulate_into
    from features.simulation.world import WorldConfig

    simulate_into(folder, WorldConfig(**WORLD))


def _folder(source: str, data: Path | str | None, home: Path) -> Path | str:
    if data is None and source != SIMULATED:
        raise InputError(
            f"The source `{source}` needs data: name its folder, as in `make demo SOURCE={source} "
            "DATA=folder`."
        )
    if data is None:
        return home / "data" / SIMULATED
    if "://" in str(data):
        from features.data.database import address_without_password

        # The services inherit its password from the environment of this process.
        return address_without_password(str(data))
    if not Path(data).exists():
        raise InputError(
            f"{data}: there is no such file or folder; name the one that holds the log."
        )
    return Path(data).resolve()


def _started(defaults: s.Defaults, home: Path, console: Console) -> s.Services:
    """Healthy services; the world is being simulated while they start."""
    begun = time.monotonic()
    with console.status("Starting MLflow and Airflow"):
        services = s.launch(home, defaults)
        if defaults.source == SIMULATED and defaults.data == home / "data" / SIMULATED:
            command = [sys.executable, "-m", "funnel.demo.demo", str(defaults.data)]
            services = s.spawn(services, SIMULATION, command)
        services = s.wait_until_healthy(services)
    for service, port in services.moved_ports().items():
        console.print(
            f"Port {s.DEFAULT_PORTS[service]} is taken, so {service.title()} listens on {port}."
        )
    console.print(
        f"Airflow {services.airflow} and MLflow {services.mlflow} are up", _seconds(begun)
    )
    return services


def _wait_for_the_world(services: s.Services, console: Console) -> None:
    begun = time.monotonic()
    with console.status("Simulating the world"):
        s.wait_for_the_end_of(services, SIMULATION)
    console.print(f"The simulated log is in {services.home / 'data' / SIMULATED}", _seconds(begun))


@dataclass(frozen=True)
class _Chain:
    """The DAGs in turn, shown on the console as they run."""

    airflow: Airflow
    services: s.Services
    console: Console

    def run(self, params: Json) -> None:
        """Start `ingest` and follow the asset events to the last DAG's end."""
        begun = time.monotonic()
        self._wait_for_the_dags()
        run = self.airflow.trigger(DAGS[0], params)
        tasks = self._follow(DAGS[0], run)
        if any(task["state"] == "skipped" for task in tasks):
            self.console.print(
                "Nothing has changed since the last run: every artefact is up to date."
            )
            return
        for dag, next_dag in pairwise(DAGS):
            run = self._next_run(dag, run, next_dag)
            self._follow(next_dag, run)
        self.console.print("The chain is through", _seconds(begun))

    def _wait_for_the_dags(self) -> None:
        """Wait until all are known: an asset event that nobody waits for starts nothing."""
        deadline = time.monotonic() + PARSED_WITHIN_SECONDS
        while not {dag["dag_id"] for dag in self.airflow.get("dags")["dags"]}.issuperset(DAGS):
            errors = self.airflow.get("importErrors")["import_errors"]
            if errors or time.monotonic() > deadline:
                stacks = "\n".join(error["stack_trace"] for error in errors)
                log = self.services.log(s.DAG_PROCESSOR)
                raise InputError(
                    f"Airflow cannot load the DAGs of {s.dags_folder()}; see {log}.\n{stacks}"
                )
            time.sleep(POLL_SECONDS)

    def _next_run(self, dag: str, run: str, next_dag: str) -> str:
        """Wait for the run of the next DAG that a run has started: its id."""
        while (follower := self.airflow.follower(dag, run, next_dag)) is None:
            s.refuse_if_one_ended(self.services)
            time.sleep(POLL_SECONDS)
        return follower

    def _follow(self, dag: str, run: str) -> list[Json]:
        """Show a run's tasks, one line as each ends, until the run does: the tasks."""
        told: set[str] = set()
        with self.console.status(dag) as status:
            while True:
                state, tasks = self.airflow.state(dag, run), self.airflow.tasks(dag, run)
                self._tell_ended(tasks, told)
                running = [task["task_id"] for task in tasks if task["state"] == "running"]
                status.update(f"{dag}: {', '.join(running) or 'between two tasks'}")
                if state in DONE:
                    break
                s.refuse_if_one_ended(self.services)
                time.sleep(POLL_SECONDS)
        if state == "failed":
            self._fail(tasks)
        return tasks

    def _tell_ended(self, tasks: list[Json], told: set[str]) -> None:
        for task in tasks:
            if task["state"] == "success" and task["task_id"] not in told:
                told.add(task["task_id"])
                outcome = self.airflow.returned(task)
                line = outcome.get("line", "") if isinstance(outcome, dict) else ""
                name = f"{task['dag_id']:9}{task['task_id']:16}"
                self.console.print(
                    f"  {name}{task['duration']:6.1f} s  {escape(line)}", soft_wrap=True
                )

    def _fail(self, tasks: list[Json]) -> NoReturn:
        """End with the failed task's own sentence where it refused its input, else with the end of
        its log.
        """
        task = next(task for task in tasks if task["state"] == "failed")
        log = self.airflow.log(task)
        for entry in log:
            if isinstance(entry.get("exit_code"), str):
                raise InputError(entry["exit_code"])
            for detail in entry.get("error_detail") or []:
                if detail["exc_type"] == NotReady.__name__:
                    raise NotReady(detail["exc_value"])
        told = [entry for entry in log if not str(entry.get("event", "")).startswith("::")]
        lines = "\n".join(_readable(entry) for entry in told[-LOG_LINES:])
        raise ChainError(
            f"The task `{task['task_id']}` of the DAG `{task['dag_id']}` failed; its log ends "
            f"with\n{lines}\n"
            f"All of it: {self.services.airflow}/dags/{task['dag_id']}/runs/{task['dag_run_id']}"
        )


def _readable(entry: Json) -> str:
    details = [
        f"{detail['exc_type']}: {detail['exc_value']}" for detail in entry.get("error_detail") or []
    ]
    return "\n".join([str(entry.get("event", "")), *details])


def _tell_addresses(services: s.Services, console: Console) -> None:
    console.print(f"Airflow: {services.airflow}/assets (the pipeline, drawn as assets)")
    console.print(f"MLflow:  {services.mlflow}/#/experiments?workflowType=machine_learning")
    console.print("Both stay up until `make stop`.")


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold the home for one demo; InputError while another runs there. A killed one lets go."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{home}: another demo is running here; wait for it or interrupt it."
            ) from None
        yield


@contextmanager
def _nothing_left_behind(home: Path) -> Iterator[None]:
    """Stop the services when what is inside is interrupted or refuses; leave them up when a task
    failed.
    """
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    except ChainError:
        raise
    except BaseException:
        # A second Ctrl-C must not cut the stopping short.
        impatient = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        s.stop(home)
        signal.signal(signal.SIGINT, impatient)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _seconds(begun: float) -> str:
    return f"[dim]({time.monotonic() - begun:.1f} s)[/dim]"


if __name__ == "__main__":
    write_world(Path(sys.argv[1]))
