"""# maintenance

Keeps the home and both databases small and copied: closes MLflow runs that nobody works on, removes
runs, rows and logs that are older than `WATCHFUNNEL_KEEP_DAYS` (90), and reports the disk.

Runs every Sunday, when no night's run should be going on. The tasks do not depend on one another:
one that fails stops no other. Each returns one sentence; `docs/operate.md` says what to do about
one that is red. Who `funnel.notify` names is told of a run that fails, and of a disk that is full
within `WATCHFUNNEL_DISK_DAYS` (14).
"""

from datetime import timedelta

from airflow.sdk import DAG, CronTriggerTimetable, task

from funnel import airflow_tasks
from funnel.maintenance import chores
from funnel.maintenance.places import places_here


# One at a time, so the weights are their order.
@task(priority_weight=7)
def backup() -> str:
    """Copies of both databases, in `backups/` of the home; the newest four of each are kept."""
    return chores.back_up_databases(places_here())


@task(priority_weight=6)
def stale_runs() -> str:
    """MLflow runs that a killed process left open are closed."""
    return chores.close_stale_mlflow_runs(places_here(), airflow_tasks.state_of_dag_run)


@task(priority_weight=5)
def mlflow_runs() -> str:
    """Old MLflow runs are deleted; a week later they are removed for good, with their files."""
    return chores.remove_old_mlflow_runs(places_here())


@task(priority_weight=4)
def airflow_database() -> str:
    """Rows of old runs are deleted from Airflow's database, by `airflow db clean`."""
    return chores.clean_airflow_database(places_here())


@task(priority_weight=3)
def logs() -> str:
    """The services' logs are packed and emptied, old logs of tasks removed."""
    return chores.rotate_all_logs(places_here())


@task(priority_weight=2)
def leftovers() -> str:
    """What killed runs left in the store is removed."""
    return chores.remove_all_leftovers(places_here())


@task(priority_weight=1)
def disk() -> str:
    """How large everything is, and in how many days the disk will be full."""
    return chores.tell_of_disk(places_here())


with DAG(
    "maintenance",
    dag_display_name="6 maintenance",
    description=" ".join(__doc__.split("\n\n")[1].split()),
    doc_md=__doc__,
    # A plain string would also run at once where it is put in place soon after its hour.
    schedule=CronTriggerTimetable("0 2 * * 0", timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    max_active_tasks=1,
    tags=["watchfunnel"],
    dagrun_timeout=timedelta(hours=6),
    on_failure_callback=[airflow_tasks.tell_of_failure],
    default_args={
        "owner": "watchfunnel",
        # A database may be locked for a moment.
        "retries": 1,
        "retry_delay": timedelta(minutes=5),
        "execution_timeout": timedelta(hours=1),
    },
):
    backup()
    stale_runs()
    mlflow_runs()
    airflow_database()
    logs()
    leftovers()
    disk()
