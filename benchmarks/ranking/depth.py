"""The paper's table of hidden layers (section 4.3): weighted per-user loss by depth and width, and two choices undone.

Every line trains the ranker on the same rows and is judged on all impressions of the holdout; figures are means over
the seeds. `no powers` leaves out the square and the root of the numbers, `unweighted` ranks by clicks; both without
layers and with those of the default. What columns hold already no layer has to find: `ranking.without` leaves them out.
Run:

    funnel simulate --out world
    funnel bench ranking depth --source simulated --data world
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import product
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
    ranking_work,
    scores,
    summary,
)
from benchmarks.shared.tables import publish

# What section 4.3 gives for its own data, where it gives it.
LAYERS: dict[tuple[int, ...], float] = {
    (): 0.416,
    (256,): 0.369,
    (512,): 0.367,
    (1024,): 0.358,
    (512, 256): 0.352,
    (1024, 512): 0.347,
    (1024, 512, 256): 0.346,
}
UNDONE: dict[str, dict[str, Any]] = {"no powers": {"powers": False}, "unweighted": {"objective": "click"}}
SPREAD = ("loss",)


def main(arguments: Sequence[str]) -> list[Row]:
    """Train and judge every line, print the table and log it; returns its rows."""
    options = _parsed(arguments)
    rows = []
    with folder_of(options) as home:
        for row in lines(contest_of(*ranking_work(options, home)), options.seeds):
            print(row, file=sys.stderr, flush=True)
            rows.append(row)
    publish(f"depth and width of the ranker, {options.source}", rows, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    add_log_options(parser)
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args(arguments)


def lines(contest: Contest, seeds: int) -> Iterator[Row]:
    """The paper's layers, then the default's; no layers and the default's with each choice undone."""
    for hidden, published in LAYERS.items():
        yield {"line": _named(hidden)} | _judged(contest, seeds, hidden=hidden) | {"paper's loss": published}
    default = contest.config.hidden
    yield {"line": f"default, {_named(default)}"} | _judged(contest, seeds)
    for hidden, (name, fields) in product(dict.fromkeys(((), default)), UNDONE.items()):
        yield {"line": f"{name}, {_named(hidden)}"} | _judged(contest, seeds, hidden=hidden, **fields)


def _named(hidden: Sequence[int]) -> str:
    return " -> ".join(map(str, hidden)) or "none"


def _judged(contest: Contest, seeds: int, **fields: Any) -> Row:
    rankers = (ours(contest, seed, **fields) for seed in range(seeds))
    found = [figures(contest.truth, scores(ranker, contest.blocks)) for ranker in rankers]
    columns = ("loss", "XAUC", "MAE", "AUC")
    return summary([{name: row[name] for name in columns} for row in found], SPREAD)


if __name__ == "__main__":
    start(main)
