"""Watch time on KuaiRec's big matrix by the protocol of DADF, beside its published table.

Advertisements and plays of ten times the video's length or more are dropped. Rows are split at
random: 80 % to learn from, 10 % for validation, 10 % to be evaluated on. The protocol leaks time,
since a model may learn from what came after a row it is evaluated on. Ours does so in training
only: its features read what came before each row, and its epoch is chosen on the last of the rows
it may learn from. MAE in seconds; XAUC is strict: equal predictions are wrong. Run:

    funnel bench ranking kuairec_dadf --data KuaiRec/data
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.shared.options import start
from benchmarks.shared.protocols import (
    KUAIREC,
    Split,
    contest_of,
    options_of,
    our_lines,
    published,
    rows_in,
    some,
)
from benchmarks.shared.rankers import Row, folder_of
from benchmarks.shared.tables import publish
from features.arrays import Float64, Int64
from ranking import metrics

TOO_LONG, JUDGED, VALIDATION = 10, 0.1, 0.1
COLUMNS = ("user_id", "video_id", "timestamp", "play_duration", "video_duration")
PUBLISHED: dict[str, tuple[float | None, ...]] = {
    "WLR": (4.414, 0.5941),
    "D2Q": (4.123, 0.6319),
    "CREAD": (4.346, 0.5927),
    "EGMN": (4.081, 0.6245),
    "best with DADF": (4.002, 0.6345),
}


def main(arguments: Sequence[str]) -> list[Row]:
    """Train and judge ours, print it below the published table and log it; returns the rows."""
    options = options_of(__doc__, arguments)
    split = split_of(
        kept(rows_in(options.data, "big_matrix.csv", COLUMNS), advertisements(options.data))
    )
    with folder_of(options) as home:
        contest = contest_of(KUAIREC, split, options, home)
        ours = our_lines(contest, options, lambda found: evaluated(contest.truth.seconds, found))
        rows = [
            *published(PUBLISHED, ("MAE", "XAUC")),
            *(row | {"test rows": len(split.test)} for row in ours),
        ]
    publish("watch time on KuaiRec, DADF's protocol", rows, options.tracking)
    return rows


def advertisements(data: Path) -> Int64:
    """The videos that are advertisements."""
    videos = rows_in(data, "item_daily_features.csv", ("video_id", "video_type"))
    return videos.loc[videos["video_type"] == "AD", "video_id"].unique()


def kept(rows: pd.DataFrame, advertisements: Int64) -> pd.DataFrame:
    """The rows of the protocol, with a clock that can be read."""
    short = rows["play_duration"] < TOO_LONG * rows["video_duration"]
    return some(
        rows[short & ~rows["video_id"].isin(advertisements) & rows["timestamp"].notna()],
        f"videos that are no advertisement, played less than {TOO_LONG} times",
    )


def split_of(rows: pd.DataFrame, seed: int = 0) -> Split:
    """A tenth of the rows at random to be evaluated on; another tenth's worth of the others, the
    last, is for validation.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    cut = round(JUDGED * len(rows))
    test, fitted = rows.iloc[np.sort(order[:cut])], rows.iloc[np.sort(order[cut:])]
    seconds = some(test, "a tenth of it")["play_duration"].to_numpy(np.float64) / 1_000
    return Split(fitted, VALIDATION / (1 - JUDGED), test, seconds > 0, seconds)


def evaluated(seconds: Float64, predicted: Float64) -> Row:
    """MAE, and strict XAUC."""
    return {"MAE": metrics.mae(seconds, predicted), "XAUC": metrics.xauc(seconds, predicted).strict}


if __name__ == "__main__":
    start(main)
