"""The pipeline: which step makes which artefact from which others, and how a step is run.

`funnel run` runs all of it in one process; the DAGs run one step a task. Both come through
`make`, which tells an `Observer` what happens: a stage starts, an epoch ends, an artefact is there,
a stage ends, something fails.
"""

import ctypes
import gc
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from features.errors import InputError
from funnel.code_digest import ROOT, code_digest
from funnel.config import FunnelConfig, config_of
from funnel.epochs import epoch_text
from funnel.store import (
    ArtefactKey,
    Purpose,
    Store,
    is_linked,
    is_published,
    link,
    publish,
)

if TYPE_CHECKING:
    from funnel.context import StepContext

Stage = Literal["ingest", "features", "recall", "ranking"]
LOG = "interactions"
# Bytes by which a step has let its process grow before they are given back.
WORTH_RELEASING = 128 << 20


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Request(BaseModel):
    """What one run of the pipeline was asked to do; it travels from DAG to DAG in the asset
    events.

    `started` is when it was asked for, `follows` the run whose evaluation it follows, "" none, and
    `versions` are those of the artefacts of earlier stages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    data: str
    home: str
    run: str
    started: str = Field(default_factory=_now)
    follows: str = ""
    tracking: str | None = None
    config: FunnelConfig = FunnelConfig()
    versions: dict[str, str] = {}

    @property
    def purpose(self) -> Purpose:
        """What its artefacts are for: where nothing is held out, the lists as of now."""
        return "serving" if self.config.split.mode == "none" else "evaluation"

    @property
    def store(self) -> Store:
        root = Path(self.home) / "artefacts"
        return Store(root, self.versions, self.purpose, self.run, self.started)

    @property
    def shown(self) -> Path:
        """The folder that shows its files."""
        return Path(self.home) / self.purpose

    def serving(self) -> "Request":
        """The request for the lists as of now, for everybody, of the log that is in force: nothing
        is held out.
        """
        log = {n: v for n, v in (self.store.versions() | self.versions).items() if n == LOG}
        split = self.config.split.model_copy(
            update={"mode": "none", "label_start": None, "test_start": None, "test_end": None}
        )
        features = self.config.features
        if self.config.split.mode == "last":
            # Where each user's last watch is the test, only the order of watches counts.
            features = features.model_copy(update={"clock": "order"})
        return self.model_copy(
            update={
                "config": self.config.model_copy(update={"split": split, "features": features}),
                "run": f"{self.run} serving",
                "follows": self.run,
                "versions": log,
            }
        )


@dataclass(frozen=True)
class Step:
    """One artefact: who makes it, from what, which sections of the configuration it reads but for
    what is `unread`.

    `figures` is the JSON file whose numbers the artefact says of itself.
    """

    stage: Stage
    parents: tuple[str, ...]
    sections: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    figures: str = ""

    def read_of(self, config: FunnelConfig) -> dict[str, Any]:
        """What the step reads of a configuration, as plain values by section."""
        values = config.sections(self.sections)
        for name in self.unread:
            section, field = name.split(".")
            del values[section][field]
        return values


# What is known of the log once its ids are indexes.
_LOG = ("interactions", "split", "vocabulary", "impressions")
# What every step after features reads of them.
_FEATURES = ("split", "vocabulary", "impressions", "histories", "profiles")
# What of recall no tower is trained with: more candidates, or other generators, train none anew.
_RETRIEVED = tuple(
    f"recall.{name}"
    for name in (
        *("k", "label_users", "index", "index_overlap", "generators", "generator_items"),
        *("blend", "expected_watch_share", "blend_users"),
    )
)
# What of ranking no ranker is trained with: another length of the lists trains nothing anew.
_SERVED = ("ranking.top_k", "ranking.chance_weight")

STEPS: dict[str, Step] = {
    "interactions": Step("ingest", (), ("cleaning",), figures="figures.json"),
    "split": Step("features", ("interactions",), ("split", "features")),
    "vocabulary": Step("features", ("interactions", "split")),
    "impressions": Step("features", ("interactions", "split", "vocabulary"), ("features",)),
    "histories": Step("features", _LOG),
    "samples": Step("features", ("histories",)),
    "profiles": Step("features", _LOG),
    "towers": Step("recall", (*_FEATURES, "samples"), ("recall", "seed"), _RETRIEVED),
    "item_vectors": Step("recall", ("towers",)),
    "index": Step("recall", (*_FEATURES, "towers", "item_vectors"), ("recall", "seed")),
    "candidates": Step("recall", (*_FEATURES, "towers", "index"), ("recall", "seed")),
    "ranking_rows": Step(
        "ranking",
        (*_FEATURES, "towers", "candidates"),
        ("ranking", "seed"),
        _SERVED,
    ),
    "ranker": Step("ranking", ("ranking_rows",), ("ranking", "seed"), _SERVED),
    "list_order": Step(
        "ranking",
        (*_FEATURES, "towers", "candidates", "ranking_rows", "ranker"),
        ("recall", "ranking", "off_policy", "seed"),
    ),
    "pre_ranker": Step(
        "ranking",
        (*_FEATURES, "towers", "candidates", "ranker"),
        ("pre_rank", "ranking", "seed"),
    ),
    "recommendations": Step(
        "ranking",
        (*_FEATURES, "towers", "item_vectors", "candidates", "ranker", "list_order", "pre_ranker"),
        ("recall", "pre_rank", "ranking", "re_rank"),
    ),
    "report": Step(
        "ranking",
        (
            *("interactions", *_FEATURES, "towers", "candidates"),
            *("ranking_rows", "ranker", "list_order", "pre_ranker", "recommendations"),
        ),
        tuple(FunnelConfig.model_fields),
        figures="report.json",
    ),
}

PUBLISHED = {
    "candidates": ("candidates.parquet",),
    "recommendations": ("recommendations.parquet", "scored.parquet"),
    "report": ("report.json",),
}


def writer_of(name: str) -> Callable[["StepContext"], None]:
    """What makes an artefact: `write_NAME` of its stage's steps.

    It is imported when it is needed: what reads a log must not load what trains towers.
    """
    module = import_module(_module_of(name))
    return cast(Callable[["StepContext"], None], getattr(module, f"write_{name}"))


def _module_of(name: str) -> str:
    stage = STEPS[name].stage
    return f"funnel.steps.{'features' if stage == 'ingest' else stage}_steps"


def figures_of(name: str, folder: Path) -> dict[str, float]:
    """What an artefact in a folder says of itself in numbers: those at the top of a JSON file."""
    file = STEPS[name].figures
    values = json.loads((folder / file).read_text()) if file else {}
    return {name: float(value) for name, value in values.items() if type(value) in (int, float)}


@dataclass(frozen=True)
class Outcome:
    """What making an artefact came to: which it is and where it lies; `made` is False where it was
    up to date.
    """

    name: str
    stage: Stage
    version: str
    content: str
    made: bool
    seconds: float
    folder: Path

    @property
    def line(self) -> str:
        text = f"made in {self.seconds:.1f} s" if self.made else "up to date, nothing done"
        return f"{self.name} {self.version}: {text}"

    @property
    def figures(self) -> Mapping[str, float]:
        """What the artefact says of itself in numbers."""
        return figures_of(self.name, self.folder)

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """A row for each epoch of its training, in order; none where nothing was trained."""
        path = self.folder / "epochs.json"
        rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        return rows


class Observer:
    """Who is told how a run of the pipeline goes; this one keeps it to itself.

    Airflow runs each artefact in a process of its own, so what one call needs of another must not
    rest in memory.
    """

    def on_stage_start(self, stage: Stage) -> None:
        """Told before each artefact: the stage's first one starts it, the others and retries go on
        with it.
        """

    def on_epoch(self, name: str, row: Mapping[str, Any]) -> None:
        """An epoch of the training of an artefact has ended."""

    def on_artefact(self, outcome: Outcome) -> None:
        """An artefact is there: made, or found up to date."""

    def on_stage_end(self, stage: Stage) -> None:
        """The last artefact of a stage is there."""

    def on_failure(self, stage: Stage, error: BaseException | None) -> None:
        """A stage failed, with None where its process was killed; it may be tried again."""

    def on_end(self) -> None:
        """All artefacts are there and shown."""

    def url(self, stage: Stage) -> str:  # noqa: ARG002
        """Where a person can look at the stage; "" nowhere."""
        return ""


def request_for(
    source: str,
    data: str,
    home: str,
    run: str,
    tracking: str | None = None,
    overrides: Sequence[str] = (),
) -> Request:
    """A request with a configuration of defaults and overrides; InputError where one of them is
    wrong, or where a password stands in the address of a database: a request is seen by many.
    """
    if "://" in data:
        from features.data.database import require_no_password

        require_no_password(data)
    return Request(
        source=source,
        data=data,
        home=home,
        run=run,
        tracking=tracking,
        config=config_of(None, overrides),
    )


def make(
    name: str,
    request: Request,
    tell: Callable[[str], None] = print,
    observer: Observer | None = None,
) -> Outcome:
    """Make one artefact, or find it up to date, and tell the observer. Its parents have been
    made.
    """
    stage, observer = STEPS[name].stage, observer or Observer()
    try:
        observer.on_stage_start(stage)
        # The artefact is made of the very rows that its key is of.
        with _opened(request) if name == "interactions" else nullcontext():
            outcome = _make(name, request, tell, observer)
        observer.on_artefact(outcome)
        if name == _names_of(stage)[-1]:
            observer.on_stage_end(stage)
    except BaseException as error:
        # A tracking server that is gone must not hide what went wrong first.
        with suppress(Exception):
            observer.on_failure(stage, error)
        raise
    return outcome


def _opened(request: Request) -> AbstractContextManager[object]:
    from features.data.sources import opened

    return opened(request.source, request.data, request.config.cleaning.since)


def _make(name: str, request: Request, tell: Callable[[str], None], observer: Observer) -> Outcome:
    store, began = _store_before(name, request), time.monotonic()
    artefact_key = _key_of(name, request, store)
    made, held = not store.holds(artefact_key), resident_bytes()
    manifest = store.make(
        artefact_key,
        lambda out: writer_of(name)(
            _context_of(artefact_key, request, store, out, tell, partial(observer.on_epoch, name))
        ),
    )
    # To look through all objects takes the better part of a second.
    if made and resident_bytes() - held > WORTH_RELEASING:
        release_memory()
    seconds = time.monotonic() - began
    return Outcome(
        name, STEPS[name].stage, manifest.version, manifest.content, made, seconds, store.path(name)
    )


def _store_before(name: str, request: Request) -> Store:
    """The store with the artefacts that a step reads of its own stage pinned: they are those of the
    request, whatever other runs have made since. InputError where they are not there.
    """
    store, stage = request.store, STEPS[name].stage
    for parent in _parents_within(stage, name):
        artefact_key = _key_of(parent, request, store)
        if not store.holds(artefact_key):
            raise InputError(
                f"`{name}` of the run {request.run} reads `{parent}`, which is not there: it was "
                f"never made, or data, settings or code are others now. Make `{parent}` first."
            )
        store.pinned[parent] = artefact_key.version
    return store


def _parents_within(stage: Stage, name: str) -> list[str]:
    """The artefacts of a stage that one of them is made of, directly or not, in order."""
    found = {name}
    for earlier in reversed(_names_of(stage)):
        if earlier in found:
            found |= {each for each in STEPS[earlier].parents if STEPS[each].stage == stage}
    return [each for each in _names_of(stage) if each in found - {name}]


def resident_bytes() -> int:
    """Memory that this process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def release_memory() -> None:
    """Give back what a step held, so that the peak of a process that makes all artefacts is that of
    the largest step.
    """
    # The as-of log and the rows read from it refer to each other.
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _names_of(stage: str) -> list[str]:
    """The artefacts of a stage, the last of which comes after all others in Airflow too."""
    return [name for name, step in STEPS.items() if step.stage == stage]


def stale_steps(request: Request) -> list[str]:
    """The artefacts that are not up to date for a request, or not shown, and all after them.

    None means that a run would do nothing.
    """
    store = request.store
    for number, name in enumerate(STEPS):
        if not (
            store.is_current(_key_of(name, request, store)) and _are_shown(name, request, store)
        ):
            return list(STEPS)[number:]
    return []


def verdict_of(report: Path) -> dict[str, Any]:
    """What a report says of the lists of its run, given the folder that it lies in: whether they
    are `fit` to serve (None: not evaluated), in a `sentence`.
    """
    verdict: dict[str, Any] = json.loads((report / "report.json").read_text())["run"]["verdict"]
    return verdict


def _are_shown(name: str, request: Request, store: Store) -> bool:
    folder, shown, home = store.path(name), request.shown, Path(request.home)
    return all(
        is_published(folder / file, shown / file)
        and (bool(request.follows) or is_linked(shown / file, home / file))
        for file in PUBLISHED.get(name, ())
    )


def advance(request: Request, stage: str) -> Request:
    """The request with the versions of a stage's artefacts pinned: what its last task hands to the
    next stage.
    """
    store = request.store
    made = {name: store.manifest(name).version for name in _names_of(stage)}
    return request.model_copy(update={"versions": {**request.versions, **made}})


def publish_files(request: Request) -> list[Path]:
    """Show the files that outsiders read (candidates, recommendations, scored, report) in the
    folder of their purpose; the home's top points to those of a run that follows no other. Returns
    where to look.
    """
    store, home = request.store, Path(request.home)
    for name, files in PUBLISHED.items():
        for file in files:
            publish(store.path(name) / file, request.shown / file)
            if not request.follows:
                link(request.shown / file, home / file)
    folder = request.shown if request.follows else home
    return [folder / file for files in PUBLISHED.values() for file in files]


def _key_of(name: str, request: Request, store: Store) -> ArtefactKey:
    step = STEPS[name]
    parents = {parent: store.manifest(parent).content for parent in step.parents}
    config = step.read_of(request.config)
    if name == "interactions":
        config |= {"source": request.source}
        since = request.config.cleaning.since
        parents = {"data": data_digest(request.source, request.data, since)}
    if name == "report":
        # It names the source, and evaluates a simulated world's lists by its truth.
        config |= {"source": request.source}
        truth = Path(request.data) / "truth"
        if truth.exists():
            from features.data.steady import digest_of

            parents |= {"truth": digest_of(truth.glob("*"), truth)}
    return ArtefactKey(name, config, step_code(name), parents)


def step_code(name: str, root: Path = ROOT) -> str:
    """The digest of the code that makes an artefact."""
    # The report's pictures are what it is read for.
    return code_digest(_module_of(name), f"write_{name}", name == "report", root)


def data_digest(source: str, data: Path | str, since: datetime | None = None) -> str:
    """Digest of the bytes of the files that a source reads, or of what a database says of its rows;
    NotReady where they are being written.
    """
    from features.data.sources import opened

    with opened(source, data, since) as view:
        return view.digest()


def context_of(
    name: str, request: Request, out: Path, tell: Callable[[str], None] = print
) -> "StepContext":
    """The context of one step, which is to fill a folder; its parents have been made."""
    store = request.store
    return _context_of(_key_of(name, request, store), request, store, out, tell)


def _context_of(
    artefact_key: ArtefactKey,
    request: Request,
    store: Store,
    out: Path,
    tell: Callable[[str], None],
    on_epoch: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> "StepContext":
    from funnel.context import StepContext

    inputs = {parent: store.path(parent) for parent in STEPS[artefact_key.name].parents}

    def tell_epoch(row: Mapping[str, Any]) -> None:
        tell(epoch_text(artefact_key.name, row))
        on_epoch(row)

    return StepContext(
        request.config,
        request.source,
        request.data,
        inputs,
        out,
        store.scratch(artefact_key),
        tell,
        tell_epoch,
        store.parts(artefact_key.name),
        artefact_key.choices,
    )
