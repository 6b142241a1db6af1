"""What is done once a week for a home: each chore is a function of its places, independent of the
others, and ends in one sentence.

The DAG `maintenance` has a task for each; `funnel maintain` does them one after the other.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from features.errors import InputError
from funnel.maintenance.databases import back_up, clean_airflow
from funnel.maintenance.disk import report_disk
from funnel.maintenance.logs import tidy_logs
from funnel.maintenance.places import DATABASES, Places
from funnel.notify import notify


def back_up_databases(places: Places) -> str:
    """Copy the databases of Airflow and MLflow, and keep the newest copies."""
    if not places.databases:
        variables = " and ".join(DATABASES.values())
        return f"No database is known: none lies below {places.home}, {variables} name none."
    return back_up(places.databases, places.backups, _now())


def clean_airflow_database(places: Places) -> str:
    """Delete Airflow's rows of old runs."""
    address = places.databases.get("airflow")
    if address is None:
        return f"Airflow's database is not known; {DATABASES['airflow']} can name it."
    return clean_airflow(address, _before(places))


def close_stale_mlflow_runs(
    places: Places, state_of: Callable[[str, str], str] | None = None
) -> str:
    """Close the MLflow runs that nobody works on."""
    from funnel.maintenance.stale_runs import close_stale_runs

    closed = close_stale_runs(places.tracking, state_of)
    return f"{closed:,} MLflow runs that nobody worked on any more are closed."


def remove_old_mlflow_runs(places: Places) -> str:
    """Delete MLflow runs that are old, and remove for good those that were deleted a week ago."""
    from funnel.maintenance.old_runs import RESTORABLE_DAYS, collect_garbage, delete_old_runs

    if places.tracking is None:
        return f"{places.home}: there is no MLflow here."
    deleted = delete_old_runs(places.tracking, _before(places))
    text = f"{deleted:,} MLflow runs of more than {places.keep_days:,.0f} days are deleted"
    database = places.databases.get("mlflow")
    if database is None:
        return f"{text}; `mlflow gc` has to run where their database is: it is not known here."
    removed = collect_garbage(places.tracking, database)
    return f"{text}; {removed:,} that were deleted {RESTORABLE_DAYS} days ago are gone for good."


def rotate_all_logs(places: Places) -> str:
    """Pack the services' logs, remove old ones and those of old tasks."""
    return tidy_logs(places.home / "logs", places.airflow_logs, _now(), _before(places))


def remove_all_leftovers(places: Places) -> str:
    """Remove what killed runs left in the store."""
    from funnel.maintenance.leftovers import remove_leftovers

    return remove_leftovers(places.home, _now())


def tell_of_disk(places: Places) -> str:
    """Measure the home and its disk, and tell whom the environment names if it is full soon."""
    logs = places.airflow_logs
    elsewhere = {} if logs.is_relative_to(places.home) else {"Airflow's logs": logs}
    report = report_disk(places.home, elsewhere, _now())
    if report.days_left is not None and report.days_left < places.disk_days:
        notify("watchfunnel: the disk is full soon", f"{places.home}: {report.text}")
    return report.text


# The order in which they are done: first the copies, then what makes room, then how much there is.
CHORES: dict[str, Callable[[Places], str]] = {
    "backup": back_up_databases,
    "stale_runs": close_stale_mlflow_runs,
    "mlflow_runs": remove_old_mlflow_runs,
    "airflow_database": clean_airflow_database,
    "logs": rotate_all_logs,
    "leftovers": remove_all_leftovers,
    "disk": tell_of_disk,
}


def maintain(places: Places, tell: Callable[[str], None] = print) -> bool:
    """Do every chore and tell what came of each; whether all of them were done."""
    failed = False
    for name, chore in CHORES.items():
        try:
            tell(f"{name}: {chore(places)}")
        except (InputError, OSError) as error:
            failed = True
            tell(f"{name}: failed. {error}")
    return not failed


def _now() -> datetime:
    return datetime.now(UTC)


def _before(places: Places) -> datetime:
    return _now() - timedelta(days=places.keep_days)
