"""What the report says of the ranker: every logged impression of the test window, scored as of its
instant.

A slice follows a slash, a baseline a dot: `ranking.calibration/duration_over_60`,
`ranking.auc.item_mean`. `_low` and `_high` bound a ratio by the middle 95 % of 1,000 bootstraps of
users.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.arrays import Flags, Float64
from features.asof_counts import count_events
from features.asof_features import Block
from features.impressions import Impressions
from features.random_streams import Stream, rng_of
from features.schema import DURATION_SECONDS
from funnel.context import StepContext, logs_impressions, watched
from funnel.evaluation.evaluation_data import EvaluationData, mean
from funnel.evaluation.plots import calibration_bars, seconds_by_bucket
from ranking import metrics as ranking
from ranking.metrics import by_duration, by_item_age, by_user_clicks

Metrics = dict[str, float]


def ranking_metrics(evaluation: EvaluationData) -> Metrics:
    """Order and truth of the expected seconds; baselines are the item's clicks and its mean
    seconds.
    """
    context, rows = evaluation.context, evaluation.impressions
    seconds, block = (
        watched(context, rows),
        context.features.item_block(rows.items, rows.requests_us),
    )
    predictions = {
        "": expected_seconds(context),
        ".popularity": block.numbers["item_shown"] + np.log(block.numbers["item_click_rate"]),
        ".item_mean": block.numbers["item_seconds_per_impression"],
    }
    metrics: Metrics = {"ranking.impressions": len(seconds)}
    for suffix, predicted in predictions.items():
        metrics |= {
            f"ranking.{n}{suffix}": v for n, v in order_metrics(rows, seconds, predicted).items()
        }
        if suffix != ".popularity" and logs_impressions(context):
            metrics[f"ranking.mae{suffix}"] = ranking.mae(seconds, predicted)
            metrics |= {
                f"ranking.{n}{suffix}": v
                for n, v in _calibration(context, rows, seconds, predicted).items()
            }
    return metrics | (_sliced(context, rows, block) if logs_impressions(context) else {})


def order_metrics(rows: Impressions, seconds: Float64, predicted: Float64) -> Metrics:
    """How well predictions [n] order impressions [n], by click and by seconds."""
    pairs = ranking.xauc(seconds, predicted)
    return {
        "auc": ranking.auc(rows.clicked, predicted),
        "gauc_by_rows": ranking.gauc_by_rows(rows.users, rows.clicked, predicted),
        "gauc_by_clicks": ranking.gauc_by_clicks(rows.users, rows.clicked, predicted),
        "weighted_user_loss": ranking.weighted_user_loss(
            rows.users, rows.clicked, seconds, predicted
        ),
        "xauc": pairs.half_credit,
        "xauc_strict": pairs.strict,
        "xauc_ties": pairs.tie_fraction,
        "ndcg_of_seconds@10": mean(ranking.ndcg_of_seconds(10, rows.users, seconds, predicted)),
    }


def expected_seconds(context: StepContext) -> Float64:
    """What the ranker expected of each impression of the test window, [n]."""
    import pyarrow.parquet as pq

    table = pq.read_table(
        context.inputs["recommendations"] / "scored.parquet", columns=["expected_seconds"]
    )
    seconds: Float64 = table["expected_seconds"].to_numpy().astype(np.float64)
    return seconds


def draw_ranking(evaluation: EvaluationData, report: Mapping[str, Any], folder: Path) -> None:
    """Expected against true seconds by bucket of the prediction, and predicted over true seconds by
    slice.
    """
    context = evaluation.context
    if context.split.mode == "none" or not logs_impressions(context):
        return
    seconds_by_bucket(
        expected_seconds(context), watched(context, evaluation.impressions), folder / "seconds.png"
    )
    table = calibration_table(report)
    if len(table):
        calibration_bars(table, folder / "calibration.png")


def calibration_table(report: Mapping[str, Any]) -> pd.DataFrame:
    """Predicted over true seconds by slice that has rows, as a report has them: rows, calibration,
    low, high, mae.
    """
    none = np.zeros(0)
    names = [*by_duration(none), *by_user_clicks(none), *by_item_age(none)]
    names = [name for name in names if report.get(f"ranking.rows/{name}")]
    columns = {
        "rows": "rows",
        "calibration": "calibration",
        "low": "calibration_low",
        "high": "calibration_high",
    }
    keys = {column: f"ranking.{metric}" for column, metric in (columns | {"mae": "mae"}).items()}
    values = {
        column: [report.get(f"{key}/{name}") for name in names] for column, key in keys.items()
    }
    return pd.DataFrame(values, index=[name.replace("_", " ") for name in names], dtype=np.float64)


def _calibration(
    context: StepContext, rows: Impressions, seconds: Float64, predicted: Float64
) -> Metrics:
    rng = rng_of(context.config.seed, Stream.CALIBRATION_BOOTSTRAP)
    low, high = ranking.calibration_interval(rows.users, seconds, predicted, rng)
    ratio = ranking.calibration_ratio(seconds, predicted)
    return {"calibration": ratio, "calibration_low": low, "calibration_high": high}


def _sliced(context: StepContext, rows: Impressions, block: Block) -> Metrics:
    """How many rows each slice has, how true their seconds are, and how far off."""
    seconds, predicted = watched(context, rows), expected_seconds(context)
    metrics: Metrics = {}
    for name, chosen in _slices(context, rows, block).items():
        some, true, guess = rows.take(chosen), seconds[chosen], predicted[chosen]
        values: Metrics = {"rows": len(true), "mae": ranking.mae(true, guess)}
        values |= _calibration(context, some, true, guess)
        metrics |= {f"ranking.{metric}/{name}": value for metric, value in values.items()}
    return metrics


def _slices(context: StepContext, rows: Impressions, block: Block) -> dict[str, Flags]:
    """Impressions by the item's length, the user's clicks before, the item's age, as far as the log
    knows them.
    """
    events = context.features.log.events
    slices = by_user_clicks(
        count_events(events.users, events).as_of(rows.users, rows.requests_us)["clicks"]
    )
    if f"item_{DURATION_SECONDS}" in block.numbers:
        slices |= by_duration(block.numbers[f"item_{DURATION_SECONDS}"])
    if "item_age_hours" in block.numbers:
        slices |= by_item_age(block.numbers["item_age_hours"])
    return slices
