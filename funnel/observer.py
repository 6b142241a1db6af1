"""What MLflow is told of a run of the pipeline: one observer, for `funnel run` and for the tasks of
Airflow alike.
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, get_args
from urllib.parse import quote

from features.split import Split
from funnel.config import flat
from funnel.headline import changes_text, headline, markdown_table, metrics_table
from funnel.pipeline import STEPS, Observer, Outcome, Request, Stage, figures_of
from funnel.store import MEASURED
from funnel.tracking import NOTE_TAG, SUMMARY, MlflowTracker

STAGES = get_args(Stage)
VERDICT_TAG, MADE_TAG, AIRFLOW_TAG = (
    "watchfunnel.verdict",
    "watchfunnel.made",
    "watchfunnel.airflow",
)
FAILED = "Failed"
# What MLflow keeps a copy of: descriptions, pictures, trained weights; the tables stay in the
# store.
LOGGED_FILES, LARGEST_LOGGED = ("*.json", "*.png", "*.h5", f"{MEASURED}/*"), 20_000_000
# Timestamps that the log decides where nobody else does: only those in force are told.
_INSTANTS = ("split.label_start", "split.test_start", "split.test_end")


@dataclass(frozen=True)
class RunObserver(Observer):
    """Logs what one run of the pipeline does: a summary run and below it a run a stage, open while
    the stage runs.
    """

    request: Request
    tracker: MlflowTracker
    _begun: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    def on_stage_start(self, stage: Stage) -> None:
        if stage in self._begun:
            return
        request, config = self.request, self.request.config
        for run in (SUMMARY, stage):
            self.tracker.open(run)
        chosen = {"source": request.source, "seed": config.seed, **config.changed()}
        self.tracker.log_params(SUMMARY, _without_instants(chosen))
        for step in (step for step in STEPS.values() if step.stage == stage):
            self.tracker.log_params(stage, _without_instants(flat(step.read_of(config))))
        if stage != "ingest":
            self._log_data(stage)
        if stage in ("recall", "ranking"):
            self._log_split(stage)
        for run in (SUMMARY, stage):
            if self.tracker.data(run).tags.get(NOTE_TAG, FAILED).startswith(FAILED):
                self._describe(run, "Running.")
        self._begun.add(stage)

    def on_epoch(self, name: str, row: Mapping[str, Any]) -> None:
        # No training ends because a server is away for a moment: the artefact brings what is
        # missing.
        with suppress(Exception):
            self.tracker.log_epochs(STEPS[name].stage, name, [row])

    def on_artefact(self, outcome: Outcome) -> None:
        stage, name, folder = outcome.stage, outcome.name, outcome.folder
        run = SUMMARY if name == "report" else stage
        self.tracker.log_dict(
            run, json.loads((folder / "manifest.json").read_text()), f"manifests/{name}.json"
        )
        if outcome.made:
            self.tracker.log_metrics(stage, {f"{name}.seconds": outcome.seconds})
        for path in sorted(path for pattern in LOGGED_FILES for path in folder.glob(pattern)):
            if path.name != "manifest.json" and path.stat().st_size <= LARGEST_LOGGED:
                self.tracker.log_file(run, path, name)
        self.tracker.log_epochs(stage, name, outcome.epochs)
        if name == "interactions":
            self._log_data(stage)
            self._log_data(SUMMARY)
        elif name == "split":
            self._log_split(stage)
            self._log_split(SUMMARY)
        elif name == "report":
            self._log_report(outcome)

    def on_stage_end(self, stage: Stage) -> None:
        made = [name for name, seconds in self._seconds(stage).items() if seconds is not None]
        self.tracker.log_tags(stage, {MADE_TAG: ", ".join(made) or "nothing"})
        self._describe(stage, self._made_text(stage))
        self.tracker.close(stage)

    def on_failure(self, stage: Stage, error: BaseException | None) -> None:
        self._begun.discard(stage)
        text = f"{type(error).__name__}: {error}" if error else "its process was killed"
        for run in (stage, SUMMARY):
            if self.tracker.exists(run):
                self._describe(run, f"{FAILED} in `{stage}`: {text}")
                self.tracker.close(run, failed=True)

    def on_end(self) -> None:
        # Recall's figures come with the report, when its run has long ended.
        for stage in STAGES:
            if self.tracker.exists(stage):
                self._describe(stage, self._made_text(stage))
        self._describe(SUMMARY, self.tracker.data(SUMMARY).tags.get(VERDICT_TAG, ""))
        self.tracker.close(SUMMARY)

    def url(self, stage: Stage) -> str:
        return self.tracker.url(stage)

    def _log_data(self, run: str) -> None:
        """The log as the run's data set; its counts as figures where the log is what the stage
        works on.
        """
        store = self.request.store
        folder, digest = store.path("interactions"), store.manifest("interactions").parents["data"]
        summary = json.loads((folder / "summary.json").read_text())
        # Sentences about odd data quote an id; what is forgotten must not stay in a database.
        profile = {name: value for name, value in summary.items() if name != "odd"}
        self.tracker.log_dataset(run, self.request.source, digest, self.request.data, profile)
        if run in ("ingest", "features"):
            self.tracker.log_metrics(run, figures_of("interactions", folder))

    def _log_split(self, run: str) -> None:
        described = Split.load(self.request.store.path("split")).described()
        self.tracker.log_params(run, {f"split.{name}": text for name, text in described.items()})

    def _log_report(self, outcome: Outcome) -> None:
        from funnel.steps.list_validation import choice_text

        figures, told = (
            headline(outcome.figures),
            json.loads((outcome.folder / "report.json").read_text())["run"],
        )
        for run in (SUMMARY, "recall", "ranking"):
            of_run = {
                name: value
                for name, value in figures.items()
                if run in (SUMMARY, name.split(".")[0])
            }
            self.tracker.log_metrics(run, of_run)
        self.tracker.log_table(SUMMARY, metrics_table(outcome.figures), "report/metrics.csv")
        self.tracker.log_dict(SUMMARY, told["config"], "config.json")
        sentence = f"{told['verdict']['sentence']}\n\n{choice_text(told['list_order'])}"
        self.tracker.log_tags(
            SUMMARY, {VERDICT_TAG: sentence, "watchfunnel.fit": str(told["verdict"]["fit"])}
        )

    def _describe(self, run: str, lead: str) -> None:
        """The run's description: a sentence, its figures as far as they are known, and where to
        read on.
        """
        data = self.tracker.data(run)
        figures = {
            k: v for k, v in data.metrics.items() if "/" not in k and not k.endswith(".seconds")
        }
        links = {
            other: self.tracker.page(other)
            for other in (SUMMARY, *STAGES)
            if self.tracker.exists(other)
        }
        links |= {"Airflow": data.tags[AIRFLOW_TAG]} if AIRFLOW_TAG in data.tags else {}
        links |= (
            {"report": f"{links[SUMMARY]}/artifacts/report/report.json"}
            if VERDICT_TAG in data.tags
            else {}
        )
        onward = " · ".join(
            f"[{name}]({address})" for name, address in links.items() if name != run
        )
        self.tracker.describe(
            run, "\n\n".join(part for part in (lead, markdown_table(figures), onward) if part)
        )

    def _made_text(self, stage: Stage) -> str:
        """What the stage made and in how many seconds, and what it found up to date."""
        seconds = self._seconds(stage)
        made = [
            f"`{name}` in {taken:,.1f} s" for name, taken in seconds.items() if taken is not None
        ]
        rest = [f"`{name}`" for name, taken in seconds.items() if taken is None]
        texts = {"Made": made, "Up to date": rest}
        return " ".join(f"{what}: {', '.join(names)}." for what, names in texts.items() if names)

    def _seconds(self, stage: Stage) -> dict[str, float | None]:
        """In how many seconds each artefact of the stage was made; None where it was up to date."""
        metrics = self.tracker.data(stage).metrics
        return {
            name: metrics.get(f"{name}.seconds")
            for name, step in STEPS.items()
            if step.stage == stage
        }


def observe(request: Request) -> Observer:
    """Who logs a run to the request's MLflow address; without one nobody does.

    Its runs are called `day · source · what was changed`, by the day on which the run was started.
    """
    if request.tracking is None:
        return Observer()
    day = re.search(r"\d{4}-\d{2}-\d{2}", request.run)
    started = day[0] if day else f"{datetime.now(UTC):%Y-%m-%d}"
    name = f"{started} · {request.source} · {changes_text(request.config.changed())}"
    tags = {"watchfunnel.source": request.source} | _origin()
    return RunObserver(request, MlflowTracker(request.tracking, request.run, name, tags))


def _origin() -> dict[str, str]:
    """Tags that say who runs this process: Airflow, with the page of the DAG run where it is known,
    or a person.
    """
    dag, run = (os.environ.get(f"AIRFLOW_CTX_{name}") for name in ("DAG_ID", "DAG_RUN_ID"))
    base = os.environ.get("AIRFLOW__API__BASE_URL")
    page = (
        {AIRFLOW_TAG: f"{base.rstrip('/')}/dags/{dag}/runs/{quote(run)}"}
        if base and dag and run
        else {}
    )
    return {"mlflow.source.name": f"Airflow, {dag}" if dag else "funnel run"} | page


def _without_instants(settings: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in settings.items() if name not in _INSTANTS}
