"""The report: every metric of a run under a flat key, and beside each the baselines on the same rows.

`recall.hr@50` is the candidates', `recall.hr@50.popularity` that of what was most watched, over the span that serves
the holdout best. `recall.hr@50/users_with_0_watches` is a slice, `recall.generator_hits@50/tower` a generator.
`funnel.*`
judges the final lists, `.recall`, `.popularity`, `.item_knn` and `.ease` their rivals; `funnel.*_ahead.recall` says by
how much the final lists are ahead, `funnel.*_ahead_error.recall` with what standard error. `funnel.*.ranked` are the
lists before the re-rank, `list_order.*` how they are ordered, `off_policy.*` what they would have earned in the log's
slots. A metric that the log cannot give is null. `run.verdict` says whether the lists are fit to serve.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from funnel.judged import Judged, cutoffs, mean
from funnel.list_validation import choice_of
from funnel.metrics import watch_seconds_share_at
from funnel.off_policy_report import OffPolicy, draw_off_policy
from funnel.plots import candidate_popularity
from funnel.ranking_report import draw_ranking, ranking_metrics
from funnel.recall_report import draw_recall, oracle_metrics, recall_metrics
from funnel.verdict import replayed_margins, verdict_of
from funnel.waterfall import draw_waterfall, waterfall_metrics
from funnel.work import Work, saved_candidates
from ranking.list_order import RECALLS_ORDER
from recall import metrics as recall
from recall.metrics import Holdout

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Metrics = dict[str, float]


def report_of(work: Work) -> dict[str, Any]:
    """Everything a run has to say: `run` describes it, the flat keys are its metrics."""
    judged = Judged(work)
    off_policy = OffPolicy(judged)
    metrics = _list_metrics(judged) | _pre_rank_metrics(judged) | _re_rank_metrics(judged) | off_policy.metrics()
    for lists, reason in off_policy.refused.items():
        work.tell(f"no off-policy estimate of {lists}: {reason}")
    if work.windows.mode != "none":
        metrics |= (
            recall_metrics(judged) | _funnel_metrics(judged) | ranking_metrics(judged) | waterfall_metrics(judged)
        )
    if (work.data / "truth").exists():
        metrics |= _simulated_metrics(judged) | off_policy.true_seconds()
    metrics |= _order_metrics(judged)
    description = _description(judged) | {
        "off_policy": off_policy.described(),
        "verdict": verdict_of(judged, off_policy),
    }
    return {"run": description} | {name: _number(value) for name, value in sorted(metrics.items())}


def _funnel_metrics(judged: Judged) -> Metrics:
    config, (clicks, seconds) = judged.work.config, judged.clicked
    ks = cutoffs(config.report.at, min(config.ranking.top_k, config.recall.k))
    metrics: Metrics = {}
    rivals = {f".{name}": items for name, items in judged.baselines.items()}
    for suffix, lists in ({"": judged.final} | rivals).items():
        metrics |= {f"funnel.watch_seconds_share@{k}{suffix}": _share(k, lists, clicks, seconds) for k in ks}
        metrics |= {f"funnel.{m}{suffix}": mean(v) for m, v in recall.accuracy(ks, lists, judged.completed).items()}
    for margin in replayed_margins(judged):
        metrics[f"funnel.{margin.measure}_ahead.{margin.rival}"] = margin.ahead
        metrics[f"funnel.{margin.measure}_ahead_error.{margin.rival}"] = margin.error
    return metrics | {
        f"funnel.watch_seconds_share@{config.recall.k}.recall": _share(
            config.recall.k, judged.candidates, clicks, seconds
        )
    }


def _order_metrics(judged: Judged) -> Metrics:
    """How lists are ordered, and by how much the choice was ahead of recall's order on the validation window.

    That is a difference of mean logarithms, or of lower bounds where lists are judged off-policy.
    """
    choice = choice_of(judged.work.inputs["list_order"])
    metrics = {f"list_order.{name}": float(choice["order"][name]) for name in ("seconds_weight", "chance_weight")}
    trials = {trial["list"]: trial for trial in choice["trials"]}
    if RECALLS_ORDER in trials:
        chosen = next(trial for trial in choice["trials"] if trial["chosen"])
        metrics["list_order.ahead.recall"] = chosen["value"] - trials[RECALLS_ORDER]["value"]
    return metrics


def _pre_rank_metrics(judged: Judged) -> Metrics:
    """Share of the ranker's expected seconds that pre-rank's cut loses, and that cutting in recall's order would."""
    told = json.loads((judged.work.inputs["pre_ranker"] / "pre_ranker.json").read_text())
    lost = {suffix: told.get(f"seconds_lost{suffix}", {}) for suffix in ("", ".recall")}
    return {f"funnel.pre_rank_seconds_lost@{k}{s}": value for s, by_k in lost.items() for k, value in by_k.items()}


def _re_rank_metrics(judged: Judged) -> Metrics:
    """What each switch of the re-rank costs in expected seconds, and what the ranker's own lists would have held."""
    described = judged.work.inputs["recommendations"] / "re_rank.json"
    if not described.exists():
        return {}
    costs = json.loads(described.read_text())
    metrics = {f"funnel.re_rank_seconds_lost@{costs['k']}/{n}": lost for n, lost in costs["seconds_lost"].items()}
    if judged.work.windows.mode != "none":
        share = _share(costs["k"], judged.ranked, *judged.clicked)
        metrics[f"funnel.watch_seconds_share@{costs['k']}.ranked"] = share
    return metrics


def _share(k: int, lists: Int32, clicks: Holdout, seconds: Float64) -> float:
    return float(watch_seconds_share_at(k, lists, clicks, seconds))


def _list_metrics(judged: Judged) -> Metrics:
    """How many lists there are and how many are short, because the catalogue of unseen items ran out.

    No final list is longer than its candidates.
    """
    final = judged.final[:, : judged.candidates.shape[1]]
    short = {"recall.short_lists": judged.candidates, "funnel.short_lists": final}
    counts = {name: int((lists[:, -1] == 0).sum()) for name, lists in short.items()}
    return {"funnel.users": len(judged.users), **counts}


def _simulated_metrics(judged: Judged) -> Metrics:
    """Shares of the oracle's expected seconds, where the world is known."""
    from funnel.oracle import oracle_shares

    work = judged.work
    lists = {"final": judged.final, "recall": judged.candidates, "popularity": judged.popular}
    lists |= {"ranked": judged.ranked} if judged.ranked is not judged.final else {}
    ids = {name: _raw(judged, items) for name, items in lists.items()}
    users = work.ids.users.id_of(judged.users).to_numpy()
    best = oracle_shares(work.data, users, ids, work.windows.labels_end, work.config.seed)
    return {f"funnel.oracle_share@{k}": share for k, share in best.items()} | oracle_metrics(judged)


def _raw(judged: Judged, lists: Int32) -> npt.NDArray[np.int64]:
    """Lists of raw ids, -1 past a list's end."""
    raw = np.full(lists.shape, -1, np.int64)
    raw[lists > 0] = judged.work.ids.items.id_of(lists[lists > 0]).to_numpy()
    return raw


def _description(judged: Judged) -> dict[str, Any]:
    work = judged.work
    rows = json.loads((work.inputs["ranking_rows"] / "summary.json").read_text())
    return {
        "source": work.source,
        "seed": work.config.seed,
        "windows": work.windows.described(),
        "unit": work.unit,
        "list_order": choice_of(work.inputs["list_order"]),
        "popularity": None if work.windows.mode == "none" else judged.popular_span,
        "log": json.loads((work.inputs["interactions"] / "summary.json").read_text()),
        "ranking_rows": rows,
        "calibration_claimed": rows["from"] == "impressions",
        "config": work.config.model_dump(mode="json"),
    }


def draw(work: Work, report: Mapping[str, Any]) -> None:
    """Pictures beside the report: the candidates' popularity, slices and generators, expected against true seconds."""
    judged, candidates = Judged(work), saved_candidates(work.inputs["candidates"]).items
    candidate_popularity(judged.counts[candidates[candidates > 0]], judged.counts[1:], work.out / "popularity.png")
    draw_recall(report, work.out)
    draw_ranking(judged, report, work.out)
    draw_off_policy(report, work.out)
    draw_waterfall(report, work.out)


def _number(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else float(value)


def flat_metrics(report: Mapping[str, Any]) -> Metrics:
    """The report's metrics alone, null ones left out."""
    return {name: float(value) for name, value in report.items() if name != "run" and value is not None}
