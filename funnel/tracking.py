"""Everything that talks to MLflow: one summary run a pipeline run, and one run for each stage it
went through.

Experiments are flat, so that the UI compares runs of one stage at once: `funnel` holds the summary
runs, `ingest`, `features`, `recall` and `ranking` their children; runs of `benchmarks` have no
parent. A run is found again by its tag `watchfunnel.run`, the key of the pipeline run: retries and
separate processes go on with the run that is there, and nothing rests on MLflow's active run.
"""

import json
import logging
import math
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

import requests

from features.errors import InputError, ServiceUnavailable
from funnel.epochs import curve_points
from funnel.worker import Worker

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run as Run
    from mlflow.entities import RunData
    from mlflow.tracking import MlflowClient

SUMMARY = "funnel"
BENCHMARKS = "benchmarks"
RUN_TAG = "watchfunnel.run"
DATA_TAG, NOTE_TAG = "watchfunnel.data", "mlflow.note.content"
# Who works on a run, and why one was closed that nobody worked on any more.
WORKER_TAG, CLOSED_TAG = "watchfunnel.worker", "watchfunnel.closed"

# What a run keeps that holds no rows and no weights.
AGGREGATES = ("manifests", "report", "config.json")

_PACKAGES = (
    "apache-airflow",
    "deepctr",
    "deepmatch",
    "duckdb",
    "faiss-cpu",
    "mlflow",
    "numpy",
    "pandas",
    "tensorflow",
)
_LONGEST_DIGEST = 36
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}


@dataclass(frozen=True)
class MlflowTracker:
    """Runs in the MLflow store at `uri`: a server (`http://..`) or a file
    (`sqlite:////absolute/mlflow.db`).

    `run` is the key of the pipeline run, `name` what its runs are called and `tags` what they are
    found by. A stage is the name of its experiment. A file's artefacts lie in the folder
    `artifacts` beside it. Two processes that open the same stage in the same instant may both
    create a run; all that come later use the older.
    """

    uri: str
    run: str
    name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    _found: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.run or "'" in self.run:
            raise ValueError(f"the key of a run is a name without quotes, found {self.run!r}")

    def open(self, stage: str) -> str:
        """Start the stage's run, or go on with the one that is there, failed or not, as the process
        that works on it; returns its run id.
        """
        run_id = self._run_id(stage)
        known = self._client.get_run(run_id)
        if known.info.status in ("FAILED", "KILLED"):
            self._client.update_run(run_id, status="RUNNING")
        if CLOSED_TAG in known.data.tags:
            self._client.delete_tag(run_id, CLOSED_TAG)
        self.log_tags(stage, {WORKER_TAG: Worker.this_process().text})
        return run_id

    def exists(self, stage: str) -> bool:
        """Whether the stage has a run, open or closed."""
        if stage not in self._found:
            experiment = self._client.get_experiment_by_name(stage)
            run_id = self._find(experiment.experiment_id) if experiment else None
            self._found.update({stage: run_id} if run_id else {})
        return stage in self._found

    def data(self, stage: str) -> "RunData":
        """Tags, params and metrics of the stage's run."""
        return self._client.get_run(self._run_id(stage)).data

    def log_params(self, stage: str, params: Mapping[str, object]) -> None:
        """Settings of the stage. The same value again is fine, another value for the same run is
        refused.
        """
        from mlflow.entities import Param

        named = {_allowed(name): str(value) for name, value in params.items()}
        known = self.data(stage).params
        for name in named.keys() & known.keys():
            if named[name] != known[name]:
                raise InputError(
                    f"MLflow, experiment {stage}, run {self.run}: parameter {name} is "
                    f"{named[name]} but was logged as "
                    f"{known[name]}; a run keeps its configuration, so start a new one."
                )
        new = [Param(name, value) for name, value in named.items() if name not in known]
        self._client.log_batch(self._run_id(stage), params=new)

    def log_metrics(self, stage: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Figures by name; `hr@50` is kept as `hr_at_50`, and what is NaN or infinite is left
        out.
        """
        from mlflow.entities import Metric

        now = int(time() * 1000)
        named = [
            Metric(_allowed(k), float(v), now, step) for k, v in metrics.items() if math.isfinite(v)
        ]
        self._client.log_batch(self._run_id(stage), metrics=named)

    def log_epochs(self, stage: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Curves of a training by epoch, those of each tower for themselves; what is logged already
        stays as it is.
        """
        curves: dict[str, dict[int, float]] = {}
        for row in rows:
            of_tower = f"/tower_{row['tower']}" if "tower" in row else ""
            for figure, value in curve_points(row).items():
                curves.setdefault(f"{name}.{figure}{of_tower}", {})[row["epoch"]] = value
        for curve, points in curves.items():
            known = {
                point.step
                for point in self._client.get_metric_history(self._run_id(stage), _allowed(curve))
            }
            for epoch in points.keys() - known:
                self.log_metrics(stage, {curve: points[epoch]}, epoch)

    def log_tags(self, stage: str, tags: Mapping[str, str]) -> None:
        """Words to find the run by."""
        from mlflow.entities import RunTag

        named = [RunTag(_allowed(name), value) for name, value in tags.items()]
        self._client.log_batch(self._run_id(stage), tags=named)

    def describe(self, stage: str, text: str) -> None:
        """What the UI shows above the run's figures, in Markdown; its first line is what there is
        to know.
        """
        self.log_tags(stage, {NOTE_TAG: text})

    def log_file(self, stage: str, path: Path, folder: str | None = None) -> None:
        """A copy of the file, kept with the run, in a folder of its artefacts."""
        self._client.log_artifact(self._run_id(stage), str(path), folder)

    def log_dict(self, stage: str, content: Mapping[str, object], name: str) -> None:
        """A nested mapping as a JSON or YAML file, by the ending of its name."""
        self._client.log_dict(self._run_id(stage), dict(content), name)

    def log_table(self, stage: str, table: "pd.DataFrame", name: str) -> None:
        """A table as a CSV file, which the UI shows as a table."""
        # Not MLflow's own log_table, which appends: a retry would double the rows.
        self._client.log_text(self._run_id(stage), table.to_csv(index=False), name)

    def log_dataset(
        self, stage: str, name: str, digest: str, source: str, profile: Mapping[str, object]
    ) -> None:
        """The data the stage read: its name, the digest of its content, where it lies, and counts
        that describe it.
        """
        from mlflow.entities import Dataset, DatasetInput

        short = digest[:_LONGEST_DIGEST]
        where, counts = json.dumps({"uri": source}), json.dumps(dict(profile), default=str)
        dataset = Dataset(name, short, source_type="local", source=where, profile=counts)
        self._client.log_inputs(self._run_id(stage), datasets=[DatasetInput(dataset)])
        self.log_tags(stage, {DATA_TAG: digest})

    def close(self, stage: str, failed: bool = False) -> None:
        """End the stage's run, if there is one, as finished or failed; `open` takes a failed one up
        again.
        """
        if self.exists(stage):
            self._client.set_terminated(self._run_id(stage), "FAILED" if failed else "FINISHED")

    def page(self, stage: str) -> str:
        """Where the UI shows the run, below the UI's own address."""
        info = self._client.get_run(self._run_id(stage)).info
        return f"#/experiments/{info.experiment_id}/runs/{info.run_id}"

    def url(self, stage: str) -> str:
        """Where the UI shows the run; "" where no server does."""
        if not self.uri.startswith("http"):
            return ""
        return f"{self.uri.rstrip('/')}/{self.page(stage)}?workflowType=machine_learning"

    @property
    def _client(self) -> "MlflowClient":
        return client_at(self.uri)

    def _run_id(self, stage: str) -> str:
        if stage not in self._found:
            experiment = _experiment(self._client, self.uri, stage)
            self._found[stage] = self._find(experiment) or self._create(experiment, stage)
        return self._found[stage]

    def _find(self, experiment: str) -> str | None:
        mine = f"tags.`{RUN_TAG}` = '{self.run}'"
        runs = self._client.search_runs(
            [experiment], mine, max_results=1, order_by=["start_time ASC"]
        )
        return runs[0].info.run_id if runs else None

    def _create(self, experiment: str, stage: str) -> str:
        parent = (
            {} if stage in (SUMMARY, BENCHMARKS) else {"mlflow.parentRunId": self._run_id(SUMMARY)}
        )
        tags = {RUN_TAG: self.run, **parent, **environment(), **self.tags}
        run_id: str = self._client.create_run(
            experiment, tags=tags, run_name=self.name or self.run
        ).info.run_id
        return run_id


@cache
def environment() -> dict[str, str]:
    """Tags that say what ran: versions of Python and of the packages that matter, and the commit in
    a checkout.
    """
    tags = {"watchfunnel.version.python": platform.python_version()}
    for package in _PACKAGES:
        try:
            tags[f"watchfunnel.version.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    commit = _commit(Path(__file__).parents[1])
    # MLflow's own tag is not among those that its UI shows.
    return tags | (
        {"mlflow.source.git.commit": commit, "watchfunnel.commit": commit} if commit else {}
    )


def _commit(root: Path) -> str | None:
    # Only the project's own repository: an installed copy may lie inside somebody else's.
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True
        )
    except FileNotFoundError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


@cache
def client_at(uri: str) -> "MlflowClient":
    """MLflow's own client of a store; InputError on an address that is none, ServiceUnavailable
    where no server answers.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for chatty in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if uri.startswith("http"):
        _ask_for_life(uri)
    else:
        _folder(uri).mkdir(parents=True, exist_ok=True)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri)


def all_runs(uri: str, which: str = "") -> "Iterator[Run]":
    """The runs of every experiment of a store that a filter of MLflow's lets through, but those
    that were deleted.
    """
    client, experiments = client_at(uri), list(experiment_names(uri))
    token: str | None = ""
    while token is not None:
        page = client.search_runs(experiments, which, max_results=1000, page_token=token or None)
        yield from page
        token = page.token or None


def experiment_names(uri: str) -> dict[str, str]:
    """The names of a store's experiments by their ids."""
    found = client_at(uri).search_experiments(max_results=1000)
    return {str(each.experiment_id): each.name for each in found}


def remove_files(uri: str | None, concerned: Callable[[str], bool]) -> int:
    """Remove what runs keep of artefacts, weights, tables and pictures, where the digest of their
    data is concerned; returns of how many runs. Manifests and the report's figures stay. Without
    an address there are none.
    """
    if uri is None:
        return 0
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    number = 0
    for run in all_runs(uri):
        data = run.data.tags.get(DATA_TAG)
        if data is None or not concerned(data):
            continue
        files: Any = get_artifact_repository(_reachable(uri, run.info.artifact_uri), uri)
        learnt = [file.path for file in files.list_artifacts() if file.path not in AGGREGATES]
        for path in learnt:
            files.delete_artifacts(path)
        number += bool(learnt)
    return number


def _reachable(uri: str, artifacts: str) -> str:
    """Where the files of a run lie: those that a server keeps for others, when it is not asked,
    beside its database.
    """
    served = "mlflow-artifacts:/"
    if uri.startswith("http") or not artifacts.startswith(served):
        return artifacts
    return (_folder(uri) / "artifacts" / artifacts.removeprefix(served).lstrip("/")).as_uri()


def _ask_for_life(uri: str) -> None:
    """ServiceUnavailable at once where no server answers; MLflow itself would go on trying for
    minutes.
    """
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=10)
        answer.raise_for_status()
    except requests.RequestException as fault:
        raise ServiceUnavailable(
            f"no MLflow server answers at {uri} ({type(fault).__name__}); start it, or correct the "
            "tracking address."
        ) from fault


def _folder(uri: str) -> Path:
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not path.is_absolute():
        raise InputError(
            f"tracking address {uri}: expected http://host:port or "
            "sqlite:////absolute/path/mlflow.db."
        )
    return path.parent


def _experiment(client: "MlflowClient", uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            # Artifacts lie beside a database file; a server decides for itself.
            own = None if uri.startswith("http") else _folder(uri) / "artifacts" / name
            created: str = client.create_experiment(name, own.as_uri() if own else None)
            return created
        except MlflowException:
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    if known.lifecycle_stage == "deleted":
        raise InputError(
            f"MLflow at {uri}: experiment {name} is deleted; restore it there or track elsewhere."
        )
    return str(known.experiment_id)


def _allowed(name: str) -> str:
    """The name with what MLflow refuses replaced: `hr@50` is `hr_at_50`."""
    return re.sub(r"[^\w\-. /:]", "_", name.replace("@", "_at_"))
