"""Where the things of one home lie that maintenance looks after."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from features.errors import InputError

KEEP_DAYS, DISK_DAYS = "WATCHFUNNEL_KEEP_DAYS", "WATCHFUNNEL_DISK_DAYS"
# The addresses of both databases, where they are no files below the home or AIRFLOW_HOME. Airflow
# takes its own setting away from tasks.
DATABASES = {
    "airflow": "WATCHFUNNEL_AIRFLOW_DATABASE",
    "mlflow": "WATCHFUNNEL_MLFLOW_DATABASE",
}


@dataclass(frozen=True)
class Places:
    """A home; the address of MLflow, if there is one; SQLAlchemy's addresses of the databases
    `airflow` and `mlflow`, as far as they are known; the folder of Airflow's logs; for how many
    days runs, rows and logs are kept; in how many days the disk may be full before somebody is
    told.
    """

    home: Path
    tracking: str | None
    databases: Mapping[str, str]
    airflow_logs: Path
    keep_days: float
    disk_days: float

    @property
    def backups(self) -> Path:
        """Where copies of the databases go."""
        return self.home / "backups"


def places_of(
    home: Path, tracking: str | None = None, environment: Mapping[str, str] = os.environ
) -> Places:
    """The places of a home: what the environment names, else what lies below the home.

    AIRFLOW_HOME, MLFLOW_TRACKING_URI and the variables of this module are read. InputError where
    the home is no folder or a number is none.
    """
    if not home.is_dir():
        raise InputError(f"{home}: there is no such folder; name the home of a pipeline.")
    home = home.resolve()
    airflow = Path(environment.get("AIRFLOW_HOME") or home / "airflow")
    files = {"airflow": airflow / "airflow.db", "mlflow": home / "mlflow" / "mlflow.db"}
    found = {name: f"sqlite:///{file}" for name, file in files.items() if file.exists()}
    tracking = tracking or environment.get("MLFLOW_TRACKING_URI") or found.get("mlflow")
    if tracking and tracking.startswith("sqlite:///"):
        found["mlflow"] = tracking
    named = {name: environment.get(variable, "") for name, variable in DATABASES.items()}
    databases = found | {name: address for name, address in named.items() if address}
    logs = environment.get("AIRFLOW__LOGGING__BASE_LOG_FOLDER") or airflow / "logs"
    return Places(
        home,
        tracking,
        databases,
        Path(logs),
        _days(environment, KEEP_DAYS, "90"),
        _days(environment, DISK_DAYS, "14"),
    )


def places_here() -> Places:
    """The places of WATCHFUNNEL_HOME, for the worker that asks; InputError where it is not set."""
    home = os.environ.get("WATCHFUNNEL_HOME")
    if not home:
        raise InputError("WATCHFUNNEL_HOME is not set; it names the folder of the artefacts.")
    return places_of(Path(home))


def _days(environment: Mapping[str, str], name: str, default: str) -> float:
    text = environment.get(name) or default
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 < days < 36_500:
        raise InputError(f"{name} = {text}: expected a number of days, such as {default}.")
    return days
