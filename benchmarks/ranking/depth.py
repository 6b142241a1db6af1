"""The paper's table of hidden layers (section 4.3): weighted per-user loss by depth and width, and
two choices undone.

Every line trains the ranker on the same rows and is evaluated on all impressions of the test
window; figures are means over the seeds. `no powers` leaves out the square and the root of the
numbers, `unweighted` ranks by clicks; both without layers and with those of the default. `--only`
names lines. What columns hold already no layer has to find: `ranking.without` leaves them out. Run:

    funnel simulate --out world
    funnel bench ranking depth --source simulated --data world
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.shared.options import Options, start
from benchmarks.shared.rankers import (
    Contest,
    Row,
    add_log_options,
    contest_of,
    figures,
    folder_of,
    ours,
    ranking_context,
    scores,
    summary,
)
from benchmarks.shared.tables import publish

Fields = dict[str, Any]

# Layers by the name of their line, and what section 4.3 gives for them on its own data.
LAYERS: dict[str, tuple[int, ...]] = {
    "none": (),
    "256": (256,),
    "512": (512,),
    "1024": (1024,),
    "512-256": (512, 256),
    "1024-512": (1024, 512),
    "1024-512-256": (1024, 512, 256),
}
PUBLISHED = dict(zip(LAYERS, (0.416, 0.369, 0.367, 0.358, 0.352, 0.347, 0.346), strict=True))
UNDONE: dict[str, Fields] = {"no powers": {"powers": False}, "unweighted": {"objective": "click"}}
# The paper's layers, then the default's; no layers and the default's with each choice undone.
LINES: dict[str, Fields] = {
    **{name: {"hidden": hidden} for name, hidden in LAYERS.items()},
    "default": {},
    **{f"none, {name}": {"hidden": ()} | fields for name, fields in UNDONE.items()},
    **{f"default, {name}": fields for name, fields in UNDONE.items()},
}
SPREAD = ("loss",)


def main(arguments: Sequence[str]) -> list[Row]:
    """Train and judge every line, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    rows = []
    with folder_of(options) as home:
        contest = contest_of(*ranking_context(options, home))
        for name in options.only or LINES:
            published = {"paper's loss": PUBLISHED[name]} if name in PUBLISHED else {}
            rows.append(
                {"line": name} | _evaluated(contest, options.seeds, LINES[name]) | published
            )
            print(rows[-1], file=sys.stderr, flush=True)
    publish(f"depth and width of the ranker, {options.source}", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    add_log_options(parser)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=LINES, metavar="LINE", help="default: all")
    return parser.parse_args(arguments)


def _evaluated(contest: Contest, seeds: int, fields: Fields) -> Row:
    rankers = (ours(contest, seed, **fields) for seed in range(seeds))
    found = [figures(contest.truth, scores(ranker, contest.blocks)) for ranker in rankers]
    columns = ("loss", "XAUC", "MAE", "AUC")
    return summary([{name: row[name] for name in columns} for row in found], SPREAD)


if __name__ == "__main__":
    start(main)
