"""The line: which step makes which artefact from which others, and how a step is run.

`funnel run` walks the whole line in one process; the DAGs run one step a task. Both come through `make`.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from features.ingest import source_files
from features.tables import file_digest
from funnel import feature_steps, ranking_steps, recall_steps
from funnel.config import FunnelConfig, config_of
from funnel.store import MEASURED, Manifest, Recipe, Store, code_digest, is_published, publish
from funnel.tracking import SUMMARY, Tracker, environment, track
from funnel.work import Work

Stage = Literal["ingest", "features", "recall", "ranking"]


class Request(BaseModel):
    """What one run of the line was asked to do; it travels from DAG to DAG in the asset events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    data: str
    home: str
    run: str
    tracking: str | None = None
    config: FunnelConfig = FunnelConfig()
    versions: dict[str, str] = {}

    @property
    def store(self) -> Store:
        return Store(Path(self.home) / "artefacts", self.versions)

    @property
    def tracker(self) -> Tracker:
        return track(self.tracking, self.run)


@dataclass(frozen=True)
class Step:
    """One artefact: who makes it, from what, which sections of the configuration it reads but for what is `unread`."""

    stage: Stage
    write: Callable[[Work], None]
    parents: tuple[str, ...]
    sections: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    def read_of(self, config: FunnelConfig) -> dict[str, Any]:
        """What the step reads of a configuration, as plain values by section."""
        values = config.sections(self.sections)
        for name in self.unread:
            section, field = name.split(".")
            del values[section][field]
        return values


# What is known of the log once its ids are indexes.
_LOG = ("interactions", "windows", "vocabulary", "impressions")
# What every step after features reads of them.
_FEATURES = ("windows", "vocabulary", "impressions", "histories", "profiles")
# What of ranking no ranker is trained with: another length of the lists trains nothing anew.
_SERVED = ("ranking.top_k", "ranking.chance_weight", "ranking.streaming_hours")

STEPS: dict[str, Step] = {
    "interactions": Step("ingest", feature_steps.write_interactions, (), ("cleaning",)),
    "windows": Step("features", feature_steps.write_windows, ("interactions",), ("windows", "features")),
    "vocabulary": Step("features", feature_steps.write_vocabulary, ("interactions", "windows")),
    "impressions": Step("features", feature_steps.write_impressions, ("interactions", "windows", "vocabulary")),
    "histories": Step("features", feature_steps.write_histories, _LOG),
    "samples": Step("features", feature_steps.write_samples, ("histories",)),
    "profiles": Step("features", feature_steps.write_profiles, _LOG),
    "towers": Step("recall", recall_steps.write_towers, (*_FEATURES, "samples"), ("recall", "seed")),
    "item_vectors": Step("recall", recall_steps.write_item_vectors, ("towers",)),
    "index": Step("recall", recall_steps.write_index, (*_FEATURES, "towers", "item_vectors"), ("recall", "seed")),
    "candidates": Step("recall", recall_steps.write_candidates, (*_FEATURES, "towers", "index"), ("recall", "seed")),
    "ranking_rows": Step(
        "ranking", ranking_steps.write_ranking_rows, (*_FEATURES, "towers", "candidates"), ("ranking", "seed"), _SERVED
    ),
    "ranker": Step("ranking", ranking_steps.write_ranker, ("ranking_rows",), ("ranking", "seed"), _SERVED),
    "list_order": Step(
        "ranking",
        ranking_steps.write_list_order,
        (*_FEATURES, "towers", "candidates", "ranking_rows", "ranker"),
        ("recall", "ranking", "off_policy", "seed"),
    ),
    "pre_ranker": Step(
        "ranking",
        ranking_steps.write_pre_ranker,
        (*_FEATURES, "towers", "candidates", "ranker"),
        ("pre_rank", "ranking", "seed"),
    ),
    "recommendations": Step(
        "ranking",
        ranking_steps.write_recommendations,
        (*_FEATURES, "towers", "item_vectors", "candidates", "ranker", "list_order", "pre_ranker"),
        ("recall", "pre_rank", "ranking", "re_rank"),
    ),
    "report": Step(
        "ranking",
        ranking_steps.write_report,
        (
            *("interactions", *_FEATURES, "towers", "candidates"),
            *("ranking_rows", "ranker", "list_order", "pre_ranker", "recommendations"),
        ),
        tuple(FunnelConfig.model_fields),
    ),
}

# What MLflow keeps a copy of: descriptions, pictures, trained weights; the tables stay in the store.
LOGGED_FILES, LARGEST_LOGGED = ("*.json", "*.png", "*.h5", f"{MEASURED}/*"), 20_000_000

PUBLISHED = {
    "candidates": ("candidates.parquet",),
    "recommendations": ("recommendations.parquet", "scored.parquet"),
    "report": ("report.json",),
}


@dataclass(frozen=True)
class Outcome:
    """What making an artefact came to; `made` is False where it was up to date, `url` its run's page in MLflow."""

    name: str
    version: str
    content: str
    made: bool
    seconds: float
    url: str
    line: str


def request_for(
    source: str, data: str, home: str, run: str, tracking: str | None = None, overrides: Sequence[str] = ()
) -> Request:
    """A request with a configuration of defaults and overrides; Refused where one of them is wrong."""
    return Request(source=source, data=data, home=home, run=run, tracking=tracking, config=config_of(None, overrides))


def make(name: str, request: Request, tell: Callable[[str], None] = print) -> Outcome:
    """Make one artefact, or find it up to date, and log it to MLflow. Its parents have been made."""
    store, began = request.store, time.monotonic()
    recipe = _recipe(name, request, store)
    made = not store.holds(recipe)
    manifest = store.make(recipe, lambda out: STEPS[name].write(work_of(name, request, out, tell)))
    seconds = time.monotonic() - began
    _log(name, request, manifest, seconds)
    text = f"made in {seconds:.1f} s" if made else "up to date, nothing done"
    url = request.tracker.url(_experiment(name))
    return Outcome(name, manifest.version, manifest.content, made, seconds, url, f"{name} {manifest.version}: {text}")


def stale_steps(request: Request) -> list[str]:
    """The artefacts that are not up to date for a request, or not shown at the home's top, and all after them.

    None means that a run would do nothing.
    """
    store = request.store
    for number, name in enumerate(STEPS):
        if not (store.is_current(_recipe(name, request, store)) and _are_shown(name, request, store)):
            return list(STEPS)[number:]
    return []


def _are_shown(name: str, request: Request, store: Store) -> bool:
    folder, home = store.path(name), Path(request.home)
    return all(is_published(folder / file, home / file) for file in PUBLISHED.get(name, ()))


def advance(request: Request, stage: str) -> Request:
    """The request with the versions of a stage's artefacts pinned: what its last task hands to the next stage."""
    store = request.store
    made = {name: store.manifest(name).version for name, step in STEPS.items() if step.stage == stage}
    return request.model_copy(update={"versions": {**request.versions, **made}})


def finish(request: Request, failed: bool = False) -> None:
    """Close the runs in MLflow."""
    for stage in ("features", "recall", "ranking", SUMMARY):
        request.tracker.close(stage, failed=failed)


def publish_files(request: Request) -> list[Path]:
    """Show the files that outsiders read, at the home's top: candidates, recommendations, scored, report."""
    home, store = Path(request.home), request.store
    for name, files in PUBLISHED.items():
        for file in files:
            publish(store.path(name) / file, home / file)
    return [home / file for files in PUBLISHED.values() for file in files]


def _recipe(name: str, request: Request, store: Store) -> Recipe:
    step = STEPS[name]
    parents = {parent: store.manifest(parent).content for parent in step.parents}
    config = step.read_of(request.config)
    if name == "interactions":
        config |= {"source": request.source}
        parents = {"data": data_digest(request.source, Path(request.data))}
    if name == "report":
        # It names the source, and judges a simulated world's lists by its truth.
        config |= {"source": request.source}
        truth = Path(request.data) / "truth"
        parents |= {"truth": _digest_of(truth.glob("*"), truth)} if truth.exists() else {}
    return Recipe(name, config, code_digest(), parents)


def data_digest(source: str, data: Path) -> str:
    """Digest of the bytes of the files that a source reads."""
    return _digest_of(source_files(source, data), data)


def _digest_of(paths: Iterable[Path], folder: Path) -> str:
    files = {os.path.relpath(path, folder): file_digest(path) for path in paths}
    return sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def work_of(name: str, request: Request, out: Path, tell: Callable[[str], None] = print) -> Work:
    """The work of one step, to be done in a folder; its parents have been made."""
    store = request.store
    inputs = {parent: store.path(parent) for parent in STEPS[name].parents}
    scratch = store.scratch(_recipe(name, request, store))
    return Work(request.config, request.source, Path(request.data), inputs, out, scratch, tell)


def _experiment(name: str) -> Any:
    """The MLflow experiment a step logs to: ingest belongs to features."""
    stage = STEPS[name].stage
    return "features" if stage == "ingest" else stage


def _log(name: str, request: Request, manifest: Manifest, seconds: float) -> None:
    """Log an artefact: its manifest, its pictures and tables, what it was made with, how its epochs went."""
    tracker, stage, folder = request.tracker, _experiment(name), request.store.path(name)
    tracker.open(SUMMARY)
    tracker.open(stage)
    tracker.log_dict(stage, asdict(manifest), f"manifests/{name}.json")
    tracker.log_params(stage, _flat(STEPS[name].read_of(request.config)))
    tracker.log_metrics(stage, {f"{name}.seconds": seconds})
    for path in sorted(path for pattern in LOGGED_FILES for path in folder.glob(pattern)):
        if path.name != "manifest.json" and path.stat().st_size <= LARGEST_LOGGED:
            tracker.log_file(stage, path, name)
    if (folder / "epochs.json").exists():
        tracker.log_epochs(stage, name, json.loads((folder / "epochs.json").read_text()))
    if name in _LOGS:
        _LOGS[name](request, tracker, folder)


def _log_interactions(request: Request, tracker: Tracker, folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    digest = request.store.manifest("interactions").parents["data"]
    for stage in ("features", SUMMARY):
        tracker.log_dataset(stage, request.source, digest, request.data, summary)
    tracker.log_tags(SUMMARY, environment() | {"watchfunnel.source": request.source})


def _log_report(_: Request, tracker: Tracker, folder: Path) -> None:
    from funnel.list_validation import choice_text
    from funnel.report import flat_metrics

    report = json.loads((folder / "report.json").read_text())
    metrics = flat_metrics(report)
    tracker.log_metrics(SUMMARY, metrics)
    tracker.describe(SUMMARY, f"{report['run']['verdict']['sentence']}\n\n{choice_text(report['run']['list_order'])}")
    for stage in ("recall", "ranking"):
        own = {name: value for name, value in metrics.items() if name.startswith(f"{stage}.")}
        tracker.log_metrics(stage, own)
    tracker.log_file(SUMMARY, folder / "report.json", "report")


_LOGS: dict[str, Callable[[Request, Tracker, Path], None]] = {
    "interactions": _log_interactions,
    "report": _log_report,
}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
