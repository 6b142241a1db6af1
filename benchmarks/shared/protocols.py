"""Published splits of public logs: the ranker is trained on one part of the rows and evaluated on
the other.

Features are as of each row's own instant, and no row of the test is among what they tell of: like
the models it is compared with, ours learns nothing after its training rows.
"""

from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.shared.options import Options
from benchmarks.shared.rankers import Contest, GroundTruth, Row, ours, scores, summary, switched
from features.errors import InputError
from funnel.context import StepContext, watched
from funnel.pipeline import STEPS, context_of, make, request_for
from ranking.examples import Exposures, RankingRows, blocks_of

MICROSECONDS = 1_000_000


@dataclass(frozen=True)
class Layout:
    """A published layout: its source, the file that rows are written to, its side tables, and its
    clock's tick.
    """

    source: str
    log: str
    sides: tuple[str, ...]
    time: str
    tick: float


KUAIRAND = Layout(
    "kuairand",
    "log_standard_split.csv",
    ("video_features_basic_*.csv", "user_features_*.csv"),
    "time_ms",
    1e-3,
)
KUAIREC = Layout(
    "kuairec",
    "big_matrix.csv",
    (
        "item_daily_features.csv",
        "item_categories.csv",
        "kuairec_caption_category.csv",
        "user_features.csv",
    ),
    "timestamp",
    1.0,
)


@dataclass(frozen=True)
class Split:
    """Rows in their published layout: those to learn from, of which a share is for validation, and
    those to be evaluated on.

    `clicked` and `seconds` [n] are the labels of the test rows, in their order.
    """

    fitted: pd.DataFrame
    validation: float
    test: pd.DataFrame
    clicked: Any
    seconds: Any


def options_of(
    description: str | None, arguments: Sequence[str], objectives: Sequence[str] = ("exact",)
) -> Namespace:
    """The options that every protocol has; `objectives` are those of ours, unless others are asked
    for.
    """
    parser = Options(description)
    parser.add_argument("--data", type=Path, required=True, help="folder of the published files")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="stage.field=value"
    )
    parser.add_argument(
        "--objectives",
        nargs="+",
        default=objectives,
        help="of ours: exact, paper, click, multi_task",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.set_defaults(out=None)
    return parser.parse_args(arguments)


def rows_in(data: Path, pattern: str, columns: Sequence[str]) -> pd.DataFrame:
    """The rows of all files of a name, all columns; InputError where there is no such file or a
    column is missing.
    """
    paths = sorted(data.glob(pattern))
    if not paths:
        raise InputError(
            f"{data}: there is no {pattern} here; --data names the folder of the published files."
        )
    rows = pd.concat([pd.read_csv(path) for path in paths], ignore_index=True)
    missing = [name for name in columns if name not in rows]
    if missing:
        raise InputError(
            f"{paths[0].name}: no column {', '.join(missing)}; the published file has it."
        )
    return rows


def some(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """The rows; InputError where there are none."""
    if rows.empty:
        raise InputError(
            f"The log has no rows of {what}; this protocol needs the whole published log."
        )
    return rows


def contest_of(layout: Layout, split: Split, options: Namespace, home: Path) -> Contest:
    """The split as a contest; the ranker is not fitted again on the validation rows."""
    context = _features(layout, split.fitted, options, home)
    config = switched(context.config.ranking, validation_share=split.validation, refit=False)
    rows, test = _rows(context), split.test
    users, items = (
        vocabulary.index_of(pa.array(test[column].to_numpy(np.int64)))
        for vocabulary, column in ((context.ids.users, "user_id"), (context.ids.items, "video_id"))
    )
    timestamps_us = np.round(
        test[layout.time].to_numpy(np.float64) * layout.tick * MICROSECONDS
    ).astype(np.int64)
    blocks = blocks_of(context.features, Exposures(users, items, timestamps_us, {}))
    truth = GroundTruth(
        test["user_id"].to_numpy(),
        np.asarray(split.clicked, bool),
        np.asarray(split.seconds, np.float64),
    )
    return Contest(config, "seconds", rows, blocks, truth)


def _features(layout: Layout, rows: pd.DataFrame, options: Namespace, home: Path) -> StepContext:
    """The line walked up to its features on a log of these rows, beside the side tables that are
    there.
    """
    folder = home / "log"
    folder.mkdir(parents=True)
    rows.to_csv(folder / layout.log, index=False)
    for path in (path for pattern in layout.sides for path in options.data.glob(pattern)):
        (folder / path.name).symlink_to(path.resolve())
    overrides = ["split.mode=none", *options.overrides]
    request = request_for(layout.source, str(folder), str(home), "benchmark", None, overrides)
    for name in list(STEPS)[: list(STEPS).index("towers")]:
        make(name, request, lambda _: None)
    return context_of("towers", request, home)


def _rows(context: StepContext) -> RankingRows:
    """Every row of the log, without tower-score features."""
    log = context.impressions
    blocks = blocks_of(context.features, Exposures(log.users, log.items, log.timestamps_us, {}))
    ones, nowhere = np.ones(len(log.users)), np.zeros(len(log.users), np.int32)
    return RankingRows(blocks, log.timestamps_us, log.clicked, watched(context, log), ones, nowhere)


def our_lines(contest: Contest, options: Namespace, evaluated: Any) -> Iterator[Row]:
    """A line an objective; `evaluated` gives the columns of a prediction [n]."""
    for objective in options.objectives:
        rankers = (ours(contest, seed, objective=objective) for seed in range(options.seeds))
        found: list[Mapping[str, Any]] = [
            evaluated(scores(ranker, contest.blocks)) for ranker in rankers
        ]
        yield {"line": f"ours, {objective}"} | summary(found, tuple(found[0]))


def published(lines: Mapping[str, tuple[float | None, ...]], columns: Sequence[str]) -> list[Row]:
    """The published table's lines."""
    return [
        {"line": f"{name}, published"} | dict(zip(columns, line, strict=True))
        for name, line in lines.items()
    ]
