"""Rankers for benchmarks: trained on the rows that the pipeline makes, evaluated on every
impression of its test window.
"""

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from features.arrays import Flags, Float64
from features.asof_features import Block
from funnel.context import StepContext, in_test, watched
from funnel.pipeline import STEPS, Request, context_of, make, request_for
from funnel.steps.ranking_steps import exposures_of
from ranking import metrics
from ranking.config import RankingConfig
from ranking.examples import RankingRows, blocks_of
from ranking.model import Ranker

Row = dict[str, Any]
Blocks = dict[str, Block]

SPREAD = ("XAUC", "loss", "MAE")


@dataclass(frozen=True)
class GroundTruth:
    """What became of impressions [n]: T is 0 where not clicked."""

    users: npt.NDArray[Any]
    clicked: Flags
    seconds: Float64


@dataclass(frozen=True)
class Contest:
    """Training rows, and the test window's impressions as blocks of features [n] with what became
    of them.
    """

    config: RankingConfig
    unit: str
    rows: RankingRows
    blocks: Blocks
    truth: GroundTruth


def add_log_options(parser: ArgumentParser) -> None:
    """The options that say which log the pipeline is run on, and where its artefacts are kept."""
    parser.add_argument("--source", default="simulated")
    parser.add_argument("--data", required=True, help="folder of the log")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="stage.field=value"
    )
    parser.add_argument(
        "--out", type=Path, help="keep the artefacts here, and take those that are there already"
    )


@contextmanager
def folder_of(options: Namespace) -> Iterator[Path]:
    """Where artefacts go: the folder of `--out`, else a temporary one."""
    if options.out:
        yield options.out.resolve()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def ranking_context(
    options: Namespace, home: Path, last: str = "ranking_rows"
) -> tuple[Request, StepContext]:
    """The line of `source`, `data` and `overrides`, walked up to an artefact, and a work that may
    read its parents.
    """
    data = str(Path(options.data).resolve())
    request = request_for(options.source, data, str(home), "benchmark", None, options.overrides)
    for name in list(STEPS)[: list(STEPS).index(last) + 1]:
        make(name, request, lambda _: None)
    return request, context_of(last, request, home)


def training_rows(request: Request) -> RankingRows:
    """The rows that the pipeline trains its ranker on."""
    return RankingRows.load(request.store.path("ranking_rows") / "ranking_rows.parquet")


def contest_of(request: Request, context: StepContext) -> Contest:
    """The pipeline's training rows and its test window, features as of each impression's
    instant.
    """
    log = context.impressions
    shown = log.take(np.flatnonzero(in_test(log, context.split)))
    blocks = blocks_of(context.features, exposures_of(context, shown))
    truth = GroundTruth(shown.users, shown.clicked, watched(context, shown))
    return Contest(request.config.ranking, context.unit, training_rows(request), blocks, truth)


def switched(config: RankingConfig, **fields: Any) -> RankingConfig:
    """The configuration with some fields of other values, checked."""
    return RankingConfig.model_validate(config.model_dump() | fields)


def ours(contest: Contest, seed: int, **fields: Any) -> Ranker:
    """Our ranker, trained as the pipeline does, with some fields of its configuration switched."""
    from ranking.train import train_ranker

    return train_ranker(contest.rows, contest.unit, switched(contest.config, **fields), seed).ranker


def scores(ranker: Ranker, blocks: Blocks) -> Float64:
    """Expected seconds of impressions [n]."""
    return ranker.scores(blocks["user"], blocks["item"], blocks["pair"])


def figures(truth: GroundTruth, predicted: Float64, in_seconds: bool = True) -> Row:
    """How well a prediction [n] orders and, where it is one of seconds, how true it is.

    XAUC with half credit and strict, the paper's weighted per-user loss, MAE in seconds, predicted
    over true seconds (`ratio`), AUC, and GAUC by rows.
    """
    pairs = metrics.xauc(truth.seconds, predicted)
    loss = metrics.weighted_user_loss(truth.users, truth.clicked, truth.seconds, predicted)
    row: Row = {"XAUC": pairs.half_credit, "strict": pairs.strict, "loss": loss}
    row["MAE"] = metrics.mae(truth.seconds, predicted) if in_seconds else None
    row["ratio"] = metrics.calibration_ratio(truth.seconds, predicted) if in_seconds else None
    row["AUC"] = metrics.auc(truth.clicked, predicted)
    return row | {"GAUC": metrics.gauc_by_rows(truth.users, truth.clicked, predicted)}


def summary(seeds: Sequence[Mapping[str, Any]], spread: Sequence[str] = SPREAD) -> Row:
    """Means of rows over their seeds, four digits; of some columns the standard deviation too, of
    several seeds.
    """
    known = [name for name in seeds[0] if seeds[0][name] is not None]
    row: Row = {name: round(float(np.mean([each[name] for each in seeds])), 4) for name in known}
    if len(seeds) > 1:
        row |= {
            f"sd {n}": round(float(np.std([each[n] for each in seeds])), 4)
            for n in spread
            if n in known
        }
    return row
