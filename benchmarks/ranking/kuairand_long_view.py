"""In-user ranking of `long_view` on KuaiRand-Pure, beside the published table.

Standard logs; trained on 8 to 21 April, the epoch chosen on 22 to 28 April, evaluated on 29 April
to 8 May 2022, which are 170,588 rows as published. What counts is whether a row became a long view:
ours learns its chance (`click`) or its expected seconds (`exact`). GAUC weighs a user's AUC by the
long views, users without both classes left out; nDCG@5 is a mean over all users, one without a long
view counting 0. Popularity (long views of the video in the rows learnt from) and the oracle need no
training: they say whether the rows are those of the published table. Run:

    funnel bench ranking kuairand_long_view --data KuaiRand-Pure/data
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks.ranking.kuairand_cwm import TEST, TRAIN, VALIDATION, between
from benchmarks.shared.options import start
from benchmarks.shared.protocols import (
    KUAIRAND,
    Split,
    contest_of,
    options_of,
    our_lines,
    published,
    rows_in,
)
from benchmarks.shared.rankers import GroundTruth, Row, folder_of
from benchmarks.shared.tables import publish
from features.arrays import Float64
from ranking import metrics

COLUMNS = ("user_id", "video_id", "date", "time_ms", "play_time_ms", "long_view")
PUBLISHED = {
    "item popularity": (0.6308, 0.5121),
    "FM": (0.6610, 0.5282),
    "best single model": (0.6705, 0.5336),
    "best ensemble": (0.6724, 0.5344),
    "oracle": (1.0, 0.7289),
}
AT = 5


def main(arguments: Sequence[str]) -> list[Row]:
    """Train and judge ours, print it below the published table and log it; returns the rows."""
    options = options_of(__doc__, arguments, ("click", "exact"))
    split = split_of(rows_in(options.data, "log_standard_*.csv", COLUMNS))
    with folder_of(options) as home:
        contest = contest_of(KUAIRAND, split, options, home)
        rows = [*published(PUBLISHED, ("GAUC", f"nDCG@{AT}"))]
        for name, scores in (
            ("item popularity", popularity(split)),
            ("oracle", split.clicked.astype(np.float64)),
        ):
            rows.append({"line": f"{name}, measured"} | evaluated(contest.truth, scores))
        rows += our_lines(contest, options, lambda found: evaluated(contest.truth, found))
    publish("long views on KuaiRand-Pure, in-user ranking", rows, options.tracking)
    return rows


def split_of(rows: pd.DataFrame) -> Split:
    """The protocol's rows: a long view is the click, its play what was watched."""
    rows = rows.assign(is_click=rows["long_view"])
    fitted, test = (
        pd.concat([between(rows, *TRAIN), between(rows, *VALIDATION)]),
        between(rows, *TEST),
    )
    clicked = test["long_view"].to_numpy() > 0
    seconds = np.where(clicked, test["play_time_ms"].to_numpy(np.float64) / 1_000, 0.0)
    return Split(fitted, len(between(rows, *VALIDATION)) / len(fitted), test, clicked, seconds)


def popularity(split: Split) -> Float64:
    """Long views of each test row's video in the rows learnt from, [n]."""
    views = split.fitted.groupby("video_id")["long_view"].sum()
    return split.test["video_id"].map(views).fillna(0).to_numpy(np.float64)


def evaluated(truth: GroundTruth, predicted: Float64) -> Row:
    """GAUC weighted by long views, nDCG over all users, and how many rows were evaluated."""
    gains = metrics.ndcg_of_seconds(AT, truth.users, truth.clicked.astype(np.float64), predicted)
    row: Row = {"GAUC": metrics.gauc_by_clicks(truth.users, truth.clicked, predicted)}
    return row | {f"nDCG@{AT}": float(np.nan_to_num(gains).mean()), "test rows": len(predicted)}


if __name__ == "__main__":
    start(main)
