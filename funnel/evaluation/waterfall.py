"""The waterfall: of the test window's watch seconds, how many survive each stage of the funnel.

Keys are `waterfall.<stage>`, shares of the test window's watch seconds; a generator alone is
`waterfall.generator/<name>`, a slice of users `waterfall.<stage>/<slice>` with the slice's own
seconds as the whole. `all`, what was `known` to the catalogue as of test_start, what was `unseen`
and so may be listed, then the `blended` candidates, those that pre-rank left, the ranker's lists,
and the re-ranked ones.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.arrays import Flags, Float64, Int32
from features.timeline import pair_keys
from funnel.evaluation.evaluation_data import EvaluationData
from funnel.evaluation.plots import waterfall_bars
from recall import metrics as recall
from recall.slices import items_by_age, users_by_activity

Metrics = dict[str, float]

KEY, GENERATOR = "waterfall.", "generator/"


def waterfall_metrics(evaluation: EvaluationData) -> Metrics:
    """Shares of the test window's watch seconds that are left at each stage, for all users and by
    slice.
    """
    clicks, seconds = evaluation.clicked
    stages = _survivors(evaluation)
    shares = {f"{KEY}{name}": _share(seconds, left) for name, left in stages.items()}
    shares[f"{KEY}watches"] = len(clicks.items)
    of_slices = {
        name: chosen[clicks.rows]
        for name, chosen in users_by_activity(evaluation.watches_of_users).items()
    }
    if evaluation.timed:
        of_slices |= {
            name: chosen[clicks.items] for name, chosen in items_by_age(evaluation.days).items()
        }
    for slice_name, chosen in of_slices.items():
        for name, left in stages.items():
            if not name.startswith(GENERATOR):
                shares[f"{KEY}{name}/{slice_name}"] = _share(seconds[chosen], left[chosen])
    return shares


def waterfall_table(report: Mapping[str, Any]) -> pd.DataFrame:
    """The stages of a report in their order: index stage, columns share and kind (stage or
    generator).
    """
    stages = [
        name
        for name in report
        if name.startswith(KEY) and report[name] is not None and name != f"{KEY}watches"
    ]
    names = [name.removeprefix(KEY) for name in stages]
    kept = [name for name in names if "/" not in name or name.startswith(GENERATOR)]
    order = sorted(kept, key=lambda name: (_place(name), -float(report[KEY + name])))
    kinds = ["generator" if name.startswith(GENERATOR) else "stage" for name in order]
    shares = [float(report[KEY + name]) for name in order]
    return pd.DataFrame(
        {"share": shares, "kind": kinds}, index=[name.replace("/", " ") for name in order]
    )


def draw_waterfall(report: Mapping[str, Any], folder: Path) -> None:
    """The stages as a picture, where there is relevant items."""
    if len(table := waterfall_table(report)):
        waterfall_bars(table.rename(index=_in_words), folder / "waterfall.png")


def _in_words(stage: str) -> str:
    """A stage of the table, for people."""
    name, _, k = stage.partition("@")
    known = {
        "all": "all of it",
        "known": "on items of the catalogue",
        "unseen": "on items new to the user",
    }
    lists = {
        "merged": "in the candidates",
        "pre_ranked": "in what pre-rank leaves",
        "ranked": f"in the best {k}",
    }
    texts = known | lists | {"re_ranked": f"in the best {k}, re-ranked"}
    return texts.get(name) or f"{stage.removeprefix('channel ').replace('_', ' ')} alone"


def _survivors(evaluation: EvaluationData) -> dict[str, Flags]:
    """Which of the test window's watches [n] each stage still has."""
    clicks, config = evaluation.clicked[0], evaluation.context.config
    known = (clicks.items > 0) & (clicks.items < evaluation.catalogue)
    stages = {
        "all": np.ones(len(known), bool),
        "known": known,
        "unseen": known & ~_seen(evaluation),
    }
    stages |= {
        f"{GENERATOR}{name}": _listed(evaluation, np.where(ranks > 0, evaluation.candidates, 0))
        for name, ranks in evaluation.generator_ranks.items()
    }
    stages["blended"] = _listed(evaluation, evaluation.candidates)
    stages |= (
        {"pre_ranked": _listed(evaluation, evaluation.pre_ranked)} if config.pre_rank.keep else {}
    )
    lists = {"ranked": evaluation.ranked} | (
        {"re_ranked": evaluation.final} if evaluation.ranked is not evaluation.final else {}
    )
    ks = sorted(
        {min(k, config.ranking.top_k) for k in (*config.report.at, config.ranking.top_k)},
        reverse=True,
    )
    return stages | {
        f"{n}@{k}": _listed(evaluation, items[:, :k]) for n, items in lists.items() for k in ks
    }


def _listed(evaluation: EvaluationData, lists: Int32) -> Flags:
    """Which watches are in their user's list, wherever it stands."""
    return recall.places(lists, evaluation.clicked[0]) > 0


def _seen(evaluation: EvaluationData) -> Flags:
    """Which watches are of items that their user had clicked before test_start."""
    context, clicks = evaluation.context, evaluation.clicked[0]
    log = context.impressions
    before = log.take(np.flatnonzero(log.clicked & (log.timestamps_us < context.split.test_start)))
    seen = pair_keys(before.users, before.items)
    flags: Flags = np.isin(pair_keys(evaluation.users[clicks.rows], clicks.items), seen)
    return flags


def _share(seconds: Float64, left: Flags) -> float:
    total = float(seconds.sum())
    return float(seconds[left].sum()) / total if total else float("nan")


def _place(name: str) -> tuple[int, int]:
    """Where a stage stands: ceilings, generators, the blender, pre-rank, then ranked lists from
    long to short.
    """
    if "@" in name:
        stage, k = name.split("@")
        return 6 + (stage == "re_ranked"), -int(k)
    return ["all", "known", "unseen", "generator", "blended", "pre_ranked"].index(
        name.split("/")[0]
    ), 0
