"""The funnel's lists on every log at hand, beside what they must beat: the default configuration,
on users' next days.

The logs: a slice of KuaiRand (short videos), Globo (news), MovieLens-1M (leave-last-out),
MovieLens-100K, the simulated world, and any canonical folder that is named. The lists of each: the
final ones, recall's order of the candidates that they are made from, popularity over its best span,
item-kNN, EASE where few enough items were watched, and implicit's ALS and BPR where that is
installed (`uv pip install -e '.[bench]' -c constraints.txt`). All know the log up to the instant
that the test window starts at, leave out what was seen, and are evaluated on the same users.

HR and NDCG are of completed watches, `seconds` is the share of all watch seconds (or watches) of
the test window that are spent on listed items, `candidates' HR@200` that of all that recall names.
`±` are standard errors over users, of means over the seeds; a star is the best of its log. Minutes
and peak memory are of the whole `funnel run`, in a process of its own; they are missing where --out
held artefacts already.

    funnel bench logs
    funnel bench logs --only kuairand --seeds 3
    funnel bench logs --only --folders my_log another_log --set split.mode=last
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.shared import implicit_peer
from benchmarks.shared.clocks import clocks
from benchmarks.shared.options import Options, start
from benchmarks.shared.processes import in_own_process, peak_gigabytes
from benchmarks.shared.rankers import folder_of
from benchmarks.shared.tables import publish
from features.arrays import Float64, Int32
from features.errors import InputError
from funnel.config import config_of
from funnel.evaluation.evaluation_data import EvaluationData
from funnel.evaluation.list_metrics import listed_seconds_at, ratio_error
from funnel.evaluation.verdict import NAMES
from funnel.pipeline import context_of, request_for
from funnel.run import run_pipeline, write_world
from recall.metrics import RelevantItems, accuracy

Row = dict[str, Any]

AT, CANDIDATES = (10, 50), 200
LINE = "log: list"


@dataclass(frozen=True)
class Log:
    """A log to measure on: its layout, its folder (None: it is simulated), what is set for it."""

    source: str
    data: Path | None
    overrides: tuple[str, ...] = ()


KNOWN = {
    "kuairand": Log("kuairand", Path("kuairand"), ("split.test_start=2022-04-16T16:00:00Z",)),
    "globo": Log("globo", Path("globo"), ("split.test_start=2017-10-12T12:00:00Z",)),
    "ml-1m": Log("canonical", Path("ml-1m"), ("split.mode=last",)),
    "ml-100k": Log("recbole", Path("ml-100k")),
    "simulated": Log("simulated", None),
}


@dataclass(frozen=True)
class Ratio:
    """What each user's list got, out of how much, [users] each: a measure is the sum of the one
    over the other's.
    """

    got: Float64
    of: Float64

    @property
    def value(self) -> float:
        return float(self.got.sum() / self.of.sum()) if self.of.sum() else float("nan")

    @property
    def error(self) -> float:
        """Standard error over users, to first order."""
        return ratio_error(self.got, self.of) if self.of.sum() else float("nan")


Measures = dict[str, Ratio]


class Figure(float):
    """A number that a table shows with its standard error, and with a star where it is the best of
    its log.
    """

    error: float
    best: bool

    def __new__(cls, value: float, error: float, best: bool) -> "Figure":
        figure = super().__new__(cls, value)
        figure.error, figure.best = error, best
        return figure

    def __format__(self, _: str) -> str:
        return f"{float(self):.4f}±{self.error:.4f}".replace("0.", ".") + (
            "*" if self.best else " "
        )


def main(arguments: Sequence[str]) -> list[Row]:
    """Run the pipeline on every log, judge its lists and their rivals', print the table and log it;
    returns its rows.
    """
    options = _parsed(arguments)
    if config_of(None, options.overrides).split.mode == "none":
        raise InputError(
            "split.mode = none holds nothing out to judge lists by; choose time or last."
        )
    if not implicit_peer.is_there():
        print(
            "ALS and BPR are left out: the package implicit is not installed; the extra `bench` "
            "brings it."
        )
    rows, errors = [], []
    with folder_of(options) as home:
        for name, measures, cost in compared(options, home):
            rows += rows_of(name, measures, cost)
            errors += [
                {LINE: f"{name}: {of}"} | {m: r.error for m, r in found.items()}
                for of, found in measures.items()
            ]
            print(*rows[-len(measures) :], sep="\n", file=sys.stderr, flush=True)
    if not rows:
        raise InputError(
            "There is no log to measure on; --only, --data-folder and --folders say which there "
            "are."
        )
    publish("lists on every log", rows, options.tracking)
    publish("lists on every log, standard errors", errors, options.tracking)
    return rows


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Options(__doc__)
    parser.add_argument(
        "--only",
        nargs="*",
        choices=KNOWN,
        metavar="LOG",
        help=f"of {', '.join(KNOWN)}; default: all",
    )
    parser.add_argument(
        "--data-folder", type=Path, default=Path("../shared/data"), help="where their folders lie"
    )
    parser.add_argument(
        "--folders", type=Path, nargs="+", default=[], help="of further logs, in canonical form"
    )
    parser.add_argument(
        "--seeds", type=int, default=1, help="runs of each log, their figures averaged"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        help="stage.field=value, for all logs",
    )
    parser.add_argument(
        "--out", type=Path, help="keep the artefacts here, and take those that are there already"
    )
    return parser.parse_args(arguments)


def logs_of(options: argparse.Namespace) -> dict[str, Log]:
    """The logs that were asked for, by name, their folders resolved."""
    asked = KNOWN if options.only is None else {name: KNOWN[name] for name in options.only}
    logs = {
        name: Log(
            log.source, log.data and (options.data_folder / log.data).resolve(), log.overrides
        )
        for name, log in asked.items()
    }
    for folder in map(Path.resolve, options.folders):
        if folder.name in logs:
            raise InputError(
                f"{folder}: there is another log named {folder.name}; call the folder otherwise."
            )
        logs[folder.name] = Log("canonical", folder)
    return logs


def compared(
    options: argparse.Namespace, home: Path
) -> Iterator[tuple[str, dict[str, Measures], Row]]:
    """Of each log that can be read: its name, the measures of each list, the cost of the run."""
    for name, log in logs_of(options).items():
        try:
            yield name, *_compared(log, home / name, options)
        except InputError as refusal:
            print(f"{name} is left out: {refusal}")


def _compared(log: Log, home: Path, options: argparse.Namespace) -> tuple[dict[str, Measures], Row]:
    data = log.data or home / "world"
    if log.data is None:
        in_own_process(write_world, data, 0, None, None, None)
    elif not data.is_dir():
        raise InputError(f"{data}: there is no such folder.")
    runs = [
        (log, data, home / f"seed_{seed}", seed, options.overrides) for seed in range(options.seeds)
    ]
    costs = [in_own_process(walked, *run) for run in runs]
    found = [in_own_process(evaluated, *run) for run in runs]
    return over_seeds(found), cost_of([cost for cost in costs if cost])


def cost_of(runs: Sequence[tuple[float, float]]) -> Row:
    """Mean minutes of runs and the largest of their peaks in gigabytes."""
    minutes, gigabytes = zip(*runs, strict=True) if runs else ((), ())
    return {"minutes": round(mean(minutes), 1), "GB": round(max(gigabytes), 2)} if runs else {}


def walked(
    log: Log, data: Path, out: Path, seed: int, overrides: Sequence[str]
) -> tuple[float, float] | None:
    """Minutes and peak gigabytes of `funnel run` in this process; None where not all of it was to
    be done.
    """
    began, _ = clocks()
    # What a run says is no part of the table.
    with redirect_stdout(sys.stderr):
        outcomes = run_pipeline(log.source, data, out, None, _settings(log, seed, overrides), None)
    minutes = (clocks()[0] - began) / 60
    return (minutes, peak_gigabytes()) if all(outcome.made for outcome in outcomes) else None


def evaluated(
    log: Log, data: Path, out: Path, seed: int, overrides: Sequence[str]
) -> dict[str, Measures]:
    """The measures of a run's final lists and of each rival's, by the name of the list, from the
    run's artefacts.
    """
    request = request_for(
        log.source, str(data), str(out), "benchmark", None, _settings(log, seed, overrides)
    )
    run = EvaluationData(context_of("report", request, out))
    lists = (
        {"final": run.final}
        | {NAMES[name]: items for name, items in run.baselines.items()}
        | _peers(run, seed)
    )
    measures = {
        name: measures_of(items, run.completed, *run.clicked) for name, items in lists.items()
    }
    measures[NAMES["recall"]] |= hit_rates(
        (CANDIDATES,), run.candidates, run.completed, "candidates' "
    )
    return measures


def _settings(log: Log, seed: int, overrides: Sequence[str]) -> list[str]:
    return [*log.overrides, f"seed={seed}", *overrides]


def _peers(run: EvaluationData, seed: int) -> dict[str, Int32]:
    """The lists of implicit's models for a run's users, where it is installed."""
    if not implicit_peer.is_there():
        return {}
    given = (run.log_before, run.users, run.context.config.recall.k, seed)
    return {name: implicit_peer.lists_of(name, *given).items for name in implicit_peer.MODELS}


def measures_of(
    items: Int32, completed: RelevantItems, clicks: RelevantItems, seconds: Float64
) -> Measures:
    """How good lists are, int32 [users, k], by what their users completed, and clicked for so many
    seconds [n].
    """
    measures = hit_rates(AT, items, completed)
    measures["NDCG@10"] = _over_judged("ndcg", 10, items, completed)
    spent = np.bincount(clicks.rows, seconds, clicks.users).astype(np.float64)
    return measures | {
        f"seconds@{k}": Ratio(listed_seconds_at(k, items, clicks, seconds), spent) for k in AT
    }


def hit_rates(
    ks: Sequence[int], items: Int32, completed: RelevantItems, prefix: str = ""
) -> Measures:
    """Of those who completed anything, how many have any of it among the first k."""
    return {f"{prefix}HR@{k}": _over_judged("hr", k, items, completed) for k in ks}


def _over_judged(metric: str, k: int, items: Int32, completed: RelevantItems) -> Ratio:
    values = accuracy((k,), items, completed)[f"{metric}@{k}"]
    return Ratio(np.nan_to_num(values), (~np.isnan(values)).astype(np.float64))


def over_seeds(runs: Sequence[Mapping[str, Measures]]) -> dict[str, Measures]:
    """Each user's means over runs of the same log, by list and measure."""
    return {
        name: {
            m: Ratio(np.mean([run[name][m].got for run in runs], axis=0), r.of)
            for m, r in measures.items()
        }
        for name, measures in runs[0].items()
    }


def rows_of(log: str, lists: Mapping[str, Measures], cost: Row) -> list[Row]:
    """A row for each list, the first with the cost of the run; of several lists the best of a
    measure is marked.
    """
    rows = []
    for name, measures in lists.items():
        row = {LINE: f"{log}: {name}"} | (cost if not rows else {})
        rows.append(
            row | {m: Figure(r.value, r.error, _is_best(m, r, lists)) for m, r in measures.items()}
        )
    return rows


def _is_best(measure: str, ratio: Ratio, lists: Mapping[str, Measures]) -> bool:
    values = [measures[measure].value for measures in lists.values() if measure in measures]
    return len(values) > 1 and ratio.value == max(values)


if __name__ == "__main__":
    start(main)
