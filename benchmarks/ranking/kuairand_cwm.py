"""Watch time on KuaiRand-Pure by the protocol of CWM (counterfactual watch time), beside its
published table.

Standard logs; videos of 5 to 400 seconds; the target is the play up to the video's end, in whole
seconds. Trained on 8 to 21 April, the epoch chosen on 22 to 28 April, evaluated on 29 April to 8
May
2022. Predictions are cut at the video's length. MAE in seconds; XAUC counts a pair as right unless
it stands in the wrong order, so that every tie is right; `half credit` leaves out pairs of equal
seconds and counts equal predictions half. Run:

    funnel bench ranking kuairand_cwm --data KuaiRand-Pure/data
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from benchmarks.shared.options import start
from benchmarks.shared.protocols import (
    KUAIRAND,
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
from features.arrays import Float64
from ranking import metrics

SHORTEST, LONGEST = 5, 400
TRAIN, VALIDATION, TEST = (20220408, 20220421), (20220422, 20220428), (20220429, 20220508)
COLUMNS = ("user_id", "video_id", "date", "time_ms", "play_time_ms", "duration_ms")
PUBLISHED = {"WLR": (24.28, 0.668), "D2Q": (18.27, 0.646), "CWM": (17.74, 0.714)}


def main(arguments: Sequence[str]) -> list[Row]:
    """Train and judge ours, print it below the published table and log it; returns the rows."""
    options = options_of(__doc__, arguments)
    split = split_of(rows_in(options.data, "log_standard_*.csv", COLUMNS))
    lengths = whole_seconds(split.test["duration_ms"])
    with folder_of(options) as home:
        contest = contest_of(KUAIRAND, split, options, home)
        ours = our_lines(
            contest, options, lambda found: evaluated(split.seconds, np.clip(found, 0, lengths))
        )
        rows = [
            *published(PUBLISHED, ("MAE", "XAUC")),
            *(row | {"test rows": len(split.test)} for row in ours),
        ]
    publish("watch time on KuaiRand-Pure, CWM's protocol", rows, options.tracking)
    return rows


def split_of(rows: pd.DataFrame) -> Split:
    """The protocol's rows: a play that reaches half a second counts as a click, its target as what
    was watched.
    """
    lengths = whole_seconds(rows["duration_ms"])
    rows = rows[(lengths >= SHORTEST) & (lengths <= LONGEST)]
    seconds = whole_seconds(rows[["play_time_ms", "duration_ms"]].min(axis=1))
    rows = rows.assign(play_time_ms=1_000 * seconds, is_click=(seconds > 0).astype(np.int64))
    fitted = pd.concat([between(rows, *TRAIN), between(rows, *VALIDATION)])
    test = between(rows, *TEST)
    target = test["play_time_ms"].to_numpy(np.float64) / 1_000
    return Split(fitted, len(between(rows, *VALIDATION)) / len(fitted), test, target > 0, target)


def between(rows: pd.DataFrame, first: int, last: int) -> pd.DataFrame:
    """The rows of some days, both included; InputError where there are none."""
    return some(rows[rows["date"].between(first, last)], f"{first} to {last}")


def whole_seconds(milliseconds: pd.Series) -> Float64:
    """Seconds, rounded: [n] -> [n]."""
    return np.round(milliseconds.to_numpy(np.float64) / 1_000)


def evaluated(seconds: Float64, predicted: Float64) -> dict[str, float]:
    """MAE, and XAUC as published and with half credit."""
    pairs = metrics.xauc(seconds, predicted)
    found = {"MAE": metrics.mae(seconds, predicted), "XAUC": share_not_wrong(seconds, pairs)}
    return found | {"half credit": pairs.half_credit}


def share_not_wrong(seconds: Float64, pairs: metrics.Xauc) -> float:
    """Share of all pairs that do not stand in the wrong order."""
    equal = np.unique(seconds, return_counts=True)[1]
    every = len(seconds) * (len(seconds) - 1) / 2
    unequal = every - float((equal * (equal - 1) / 2).sum())
    return 1 - unequal * (1 - pairs.strict - pairs.tie_fraction) / every


if __name__ == "__main__":
    start(main)
