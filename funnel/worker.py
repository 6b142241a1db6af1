"""Who works on an MLflow run: a process of some machine, and its run of a DAG where Airflow started
it.
"""

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import TypeAdapter

# A process's start time is read back through the clock, which may be corrected by a little in
# between.
CLOCK_TOLERANCE_SECONDS = 2.0


@dataclass(frozen=True)
class Worker:
    """A process: its machine, its number there and when it began, in seconds since 1970; when it
    took up the run; the DAG and the DAG run that it is a task of, if any.
    """

    machine: str
    pid: int
    began: float
    opened: float
    dag: str = ""
    dag_run: str = ""

    @classmethod
    def this_process(cls) -> "Worker":
        """The process that asks, as of now."""
        dag, run = (os.environ.get(f"AIRFLOW_CTX_{name}", "") for name in ("DAG_ID", "DAG_RUN_ID"))
        began = psutil.Process().create_time()
        return cls(this_machine(), os.getpid(), began, time.time(), dag, run)

    @classmethod
    def parse(cls, text: str) -> "Worker":
        """The worker that `text` describes."""
        return TypeAdapter(cls).validate_json(text)

    @property
    def text(self) -> str:
        """The worker as JSON."""
        return TypeAdapter(Worker).dump_json(self).decode()

    @property
    def here(self) -> bool:
        """Whether this machine can say if it lives."""
        return self.machine == this_machine()

    @property
    def alive(self) -> bool:
        """Whether this very process still runs here; a later one that got its number is another."""
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.began) < CLOCK_TOLERANCE_SECONDS
            return self.here and same and found.status() != psutil.STATUS_ZOMBIE
        return False


def this_machine() -> str:
    """The host's name and, where there are several on one host, the space that numbers processes:
    a container numbers its own.
    """
    space = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {space.readlink()}" if space.exists() else socket.gethostname()
