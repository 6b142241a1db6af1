"""Everything that talks to MLflow: one summary run a pipeline run, and one run for each stage it went through.

Experiments are flat, so that the UI compares runs of one stage at once: `funnel` holds the summary runs, `features`,
`recall` and `ranking` their children; runs of `benchmarks` have no parent. A run is found again by its tag
`watchfunnel.run`, the key of the pipeline run: retries and separate processes go on with the run that is there, and
nothing rests on MLflow's active run.
"""

import json
import logging
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

import requests

from features.errors import Refused, Unreachable

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.tracking import MlflowClient

SUMMARY = "funnel"
BENCHMARKS = "benchmarks"
RUN_TAG = "watchfunnel.run"
DATA_TAG = "watchfunnel.data"

_PACKAGES = ("apache-airflow", "deepctr", "deepmatch", "duckdb", "faiss-cpu", "mlflow", "numpy", "pandas", "tensorflow")
_LONGEST_DIGEST = 36
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}


class Tracker:
    """What a pipeline run says about itself, stage by stage; this one keeps it to itself.

    A stage is the name of its experiment: `funnel` for the summary run, else `features`, `recall` or `ranking`.
    """

    def open(self, stage: str) -> str:  # noqa: ARG002
        """Start the stage's run, or go on with the one that is there; returns its run id ("" where none is kept)."""
        return ""

    def log_params(self, stage: str, params: Mapping[str, object]) -> None:
        """Settings of the stage. The same value again is fine, another value for the same run is refused."""

    def log_metrics(self, stage: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Figures by name; `hr@50` is kept as `hr_at_50`, and what is NaN or infinite is left out."""

    def log_epochs(self, stage: str, prefix: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Figures of each epoch, the first row being epoch 1, as metrics named `prefix.name`."""

    def log_tags(self, stage: str, tags: Mapping[str, str]) -> None:
        """Words to find the run by."""

    def describe(self, stage: str, text: str) -> None:
        """What the UI shows above the run's figures; its first line is what there is to know."""
        self.log_tags(stage, {"mlflow.note.content": text})

    def log_file(self, stage: str, path: Path, folder: str | None = None) -> None:
        """A copy of the file, kept with the run, in a folder of its artefacts."""

    def log_dict(self, stage: str, content: Mapping[str, object], name: str) -> None:
        """A nested mapping as a JSON or YAML file, by the ending of its name."""

    def log_table(self, stage: str, table: "pd.DataFrame", name: str) -> None:
        """A small table as a CSV file, which the UI shows as a table."""

    def log_dataset(self, stage: str, name: str, digest: str, source: str, profile: Mapping[str, object]) -> None:
        """The data the stage read: its name, the digest of its content, where it lies, and counts that describe it."""

    def close(self, stage: str, failed: bool = False) -> None:
        """End the stage's run, if there is one, as finished or failed; `open` takes it up again."""

    def url(self, stage: str) -> str:  # noqa: ARG002
        """Where the UI shows the run; "" where no server does."""
        return ""


@dataclass(frozen=True)
class MlflowTracker(Tracker):
    """Tracks in the MLflow store at `uri`: a server (`http://..`) or a file (`sqlite:////absolute/mlflow.db`).

    `run` is the key of the pipeline run. A file's artefacts lie in the folder `artifacts` beside it. Two processes
    that open the same stage in the same instant may both create a run; all that come later use the older.
    """

    uri: str
    run: str
    _found: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.run or "'" in self.run:
            raise ValueError(f"the key of a run is a name without quotes, found {self.run!r}")

    def open(self, stage: str) -> str:
        run_id = self._run_id(stage)
        if self._client.get_run(run_id).info.status != "RUNNING":
            self._client.update_run(run_id, status="RUNNING")
        return run_id

    def log_params(self, stage: str, params: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        named = {_allowed(name): str(value) for name, value in params.items()}
        known = self._client.get_run(self._run_id(stage)).data.params
        for name in named.keys() & known.keys():
            if named[name] != known[name]:
                raise Refused(
                    f"MLflow, experiment {stage}, run {self.run}: parameter {name} is {named[name]} but was logged as "
                    f"{known[name]}; a run keeps its configuration, so start a new one."
                )
        new = [Param(name, value) for name, value in named.items() if name not in known]
        self._client.log_batch(self._run_id(stage), params=new)

    def log_metrics(self, stage: str, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._log_steps(stage, [(step or 0, metrics)])

    def log_epochs(self, stage: str, prefix: str, rows: Sequence[Mapping[str, float]]) -> None:
        named = [{f"{prefix}.{name}": value for name, value in row.items()} for row in rows]
        self._log_steps(stage, enumerate(named, start=1))

    def log_tags(self, stage: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        named = [RunTag(_allowed(name), value) for name, value in tags.items()]
        self._client.log_batch(self._run_id(stage), tags=named)

    def log_file(self, stage: str, path: Path, folder: str | None = None) -> None:
        self._client.log_artifact(self._run_id(stage), str(path), folder)

    def log_dict(self, stage: str, content: Mapping[str, object], name: str) -> None:
        self._client.log_dict(self._run_id(stage), dict(content), name)

    def log_table(self, stage: str, table: "pd.DataFrame", name: str) -> None:
        # Not MLflow's own log_table, which appends: a retry would double the rows.
        self._client.log_text(self._run_id(stage), table.to_csv(index=False), name)

    def log_dataset(self, stage: str, name: str, digest: str, source: str, profile: Mapping[str, object]) -> None:
        from mlflow.entities import Dataset, DatasetInput

        short = digest[:_LONGEST_DIGEST]
        where, counts = json.dumps({"uri": source}), json.dumps(dict(profile), default=str)
        dataset = Dataset(name, short, source_type="local", source=where, profile=counts)
        self._client.log_inputs(self._run_id(stage), datasets=[DatasetInput(dataset)])
        self.log_tags(stage, {DATA_TAG: digest})

    def close(self, stage: str, failed: bool = False) -> None:
        experiment = self._client.get_experiment_by_name(stage)
        run = self._found.get(stage) or (experiment and self._find(experiment.experiment_id))
        if run:
            self._client.set_terminated(run, "FAILED" if failed else "FINISHED")

    def url(self, stage: str) -> str:
        if not self.uri.startswith("http"):
            return ""
        info = self._client.get_run(self._run_id(stage)).info
        page = f"#/experiments/{info.experiment_id}/runs/{info.run_id}"
        return f"{self.uri.rstrip('/')}/{page}?workflowType=machine_learning"

    @property
    def _client(self) -> "MlflowClient":
        return _client(self.uri)

    def _run_id(self, stage: str) -> str:
        if stage not in self._found:
            experiment = _experiment(self._client, self.uri, stage)
            self._found[stage] = self._find(experiment) or self._create(experiment, stage)
        return self._found[stage]

    def _find(self, experiment: str) -> str | None:
        mine = f"tags.`{RUN_TAG}` = '{self.run}'"
        runs = self._client.search_runs([experiment], mine, max_results=1, order_by=["start_time ASC"])
        return runs[0].info.run_id if runs else None

    def _create(self, experiment: str, stage: str) -> str:
        parent = {} if stage in (SUMMARY, BENCHMARKS) else {"mlflow.parentRunId": self._run_id(SUMMARY)}
        tags = {RUN_TAG: self.run, **parent, **environment()}
        run_id: str = self._client.create_run(experiment, tags=tags, run_name=self.run).info.run_id
        return run_id

    def _log_steps(self, stage: str, steps: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        from mlflow.entities import Metric

        now = int(time() * 1000)
        metrics = [
            Metric(_allowed(name), float(value), now, step)
            for step, row in steps
            for name, value in row.items()
            if math.isfinite(value)
        ]
        self._client.log_batch(self._run_id(stage), metrics=metrics)


def track(uri: str | None, run: str) -> Tracker:
    """The tracker of the pipeline run with this key in the store at `uri`; without a uri it keeps nothing."""
    return Tracker() if uri is None else MlflowTracker(uri, run)


@cache
def environment() -> dict[str, str]:
    """Tags that say what ran: versions of Python and of the packages that matter, and the commit in a checkout."""
    tags = {"watchfunnel.version.python": platform.python_version()}
    for package in _PACKAGES:
        try:
            tags[f"watchfunnel.version.{package}"] = version(package)
        except PackageNotFoundError:
            continue
    commit = _commit(Path(__file__).parents[1])
    return tags | ({"mlflow.source.git.commit": commit} if commit else {})


def _commit(root: Path) -> str | None:
    # Only the project's own repository: an installed copy may lie inside somebody else's.
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


@cache
def _client(uri: str) -> "MlflowClient":
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


def _ask_for_life(uri: str) -> None:
    """Unreachable at once where no server answers; MLflow itself would go on trying for minutes."""
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=10)
        answer.raise_for_status()
    except requests.RequestException as fault:
        raise Unreachable(
            f"no MLflow server answers at {uri} ({type(fault).__name__}); start it, or correct the tracking address."
        ) from fault


def _folder(uri: str) -> Path:
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not path.is_absolute():
        raise Refused(f"tracking address {uri}: expected http://host:port or sqlite:////absolute/path/mlflow.db.")
    return path.parent


def _experiment(client: "MlflowClient", uri: str, name: str) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(name)
    if known is None:
        try:
            created: str = client.create_experiment(name, _artifact_location(uri, name))
            return created
        except MlflowException:
            known = client.get_experiment_by_name(name)
            if known is None:
                raise
    if known.lifecycle_stage == "deleted":
        raise Refused(f"MLflow at {uri}: experiment {name} is deleted; restore it there or track elsewhere.")
    return str(known.experiment_id)


def _artifact_location(uri: str, name: str) -> str | None:
    """Beside a database file; a server decides for itself."""
    return None if uri.startswith("http") else (_folder(uri) / "artifacts" / name).as_uri()


def _allowed(name: str) -> str:
    """The name with what MLflow refuses replaced: `hr@50` is `hr_at_50`."""
    return re.sub(r"[^\w\-. /:]", "_", name.replace("@", "_at_"))
