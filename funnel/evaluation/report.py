"""The report: every metric of a run under a flat key, and beside each the baselines on the same
rows.

`recall.hr@50` is the candidates', `recall.hr@50.popularity` that of what was most watched, over the
span that serves the test window best. `recall.hr@50/users_with_0_watches` is a slice,
`recall.generator_hits@50/tower` a generator. `funnel.*` evaluates the final lists, `.recall`,
`.popularity`, `.item_knn` and `.ease` their rivals; `funnel.*_ahead.recall` says by how much the
final lists are ahead, `funnel.*_ahead_error.recall` with what standard error. `funnel.*.ranked` are
the lists before the re-rank, `list_order.*` how they are ordered, `off_policy.*` what they would
have earned in the log's slots. A metric that the log cannot give is null. `run.verdict` says
whether the lists are fit to serve.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from features.arrays import Float64, Int32, Int64
from funnel.context import StepContext, saved_candidates
from funnel.evaluation.evaluation_data import EvaluationData, cutoffs, mean
from funnel.evaluation.list_metrics import watch_seconds_share_at
from funnel.evaluation.off_policy_report import OffPolicy, draw_off_policy
from funnel.evaluation.plots import candidate_popularity
from funnel.evaluation.ranking_report import draw_ranking, ranking_metrics
from funnel.evaluation.recall_report import draw_recall, oracle_metrics, recall_metrics
from funnel.evaluation.verdict import replayed_margins, verdict_of
from funnel.evaluation.waterfall import draw_waterfall, waterfall_metrics
from funnel.steps.list_validation import choice_of
from ranking.list_order import RECALLS_ORDER
from recall import metrics as recall
from recall.metrics import RelevantItems

Metrics = dict[str, float]


def report_of(context: StepContext) -> dict[str, Any]:
    """Everything a run has to say: `run` describes it, the flat keys are its metrics."""
    evaluation = EvaluationData(context)
    off_policy = OffPolicy(evaluation)
    metrics = (
        _list_metrics(evaluation)
        | _pre_rank_metrics(evaluation)
        | _re_rank_metrics(evaluation)
        | off_policy.metrics()
    )
    for lists, reason in off_policy.refused.items():
        context.tell(f"no off-policy estimate of {lists}: {reason}")
    if context.split.mode != "none":
        metrics |= (
            recall_metrics(evaluation)
            | _funnel_metrics(evaluation)
            | ranking_metrics(evaluation)
            | waterfall_metrics(evaluation)
        )
    if (context.folder / "truth").exists():
        metrics |= _simulated_metrics(evaluation) | off_policy.true_seconds()
    metrics |= _order_metrics(evaluation)
    description = _description(evaluation) | {
        "off_policy": off_policy.described(),
        "verdict": verdict_of(evaluation, off_policy),
    }
    return {"run": description} | {name: _number(value) for name, value in sorted(metrics.items())}


def _funnel_metrics(evaluation: EvaluationData) -> Metrics:
    config, (clicks, seconds) = evaluation.context.config, evaluation.clicked
    ks = cutoffs(config.report.at, min(config.ranking.top_k, config.recall.k))
    metrics: Metrics = {}
    rivals = {f".{name}": items for name, items in evaluation.baselines.items()}
    for suffix, lists in ({"": evaluation.final} | rivals).items():
        metrics |= {
            f"funnel.watch_seconds_share@{k}{suffix}": _share(k, lists, clicks, seconds) for k in ks
        }
        metrics |= {
            f"funnel.{m}{suffix}": mean(v)
            for m, v in recall.accuracy(ks, lists, evaluation.completed).items()
        }
    for margin in replayed_margins(evaluation):
        metrics[f"funnel.{margin.measure}_ahead.{margin.rival}"] = margin.ahead
        metrics[f"funnel.{margin.measure}_ahead_error.{margin.rival}"] = margin.error
    return metrics | {
        f"funnel.watch_seconds_share@{config.recall.k}.recall": _share(
            config.recall.k, evaluation.candidates, clicks, seconds
        )
    }


def _order_metrics(evaluation: EvaluationData) -> Metrics:
    """How lists are ordered, and by how much the choice was ahead of recall's order on the
    validation window.

    That is a difference of mean logarithms, or of lower bounds where lists are evaluated
    off-policy.
    """
    choice = choice_of(evaluation.context.inputs["list_order"])
    metrics = {
        f"list_order.{name}": float(choice["order"][name])
        for name in ("seconds_weight", "chance_weight")
    }
    trials = {trial["list"]: trial for trial in choice["trials"]}
    if RECALLS_ORDER in trials:
        chosen = next(trial for trial in choice["trials"] if trial["chosen"])
        metrics["list_order.ahead.recall"] = chosen["value"] - trials[RECALLS_ORDER]["value"]
    return metrics


def _pre_rank_metrics(evaluation: EvaluationData) -> Metrics:
    """Share of the ranker's expected seconds that pre-rank's cut loses, and that cutting in
    recall's order would.
    """
    told = json.loads((evaluation.context.inputs["pre_ranker"] / "pre_ranker.json").read_text())
    lost = {suffix: told.get(f"seconds_lost{suffix}", {}) for suffix in ("", ".recall")}
    return {
        f"funnel.pre_rank_seconds_lost@{k}{s}": value
        for s, by_k in lost.items()
        for k, value in by_k.items()
    }


def _re_rank_metrics(evaluation: EvaluationData) -> Metrics:
    """What each switch of the re-rank costs in expected seconds, and what the ranker's own lists
    would have held.
    """
    described = evaluation.context.inputs["recommendations"] / "re_rank.json"
    if not described.exists():
        return {}
    costs = json.loads(described.read_text())
    metrics = {
        f"funnel.re_rank_seconds_lost@{costs['k']}/{n}": lost
        for n, lost in costs["seconds_lost"].items()
    }
    if evaluation.context.split.mode != "none":
        share = _share(costs["k"], evaluation.ranked, *evaluation.clicked)
        metrics[f"funnel.watch_seconds_share@{costs['k']}.ranked"] = share
    return metrics


def _share(k: int, lists: Int32, clicks: RelevantItems, seconds: Float64) -> float:
    return float(watch_seconds_share_at(k, lists, clicks, seconds))


def _list_metrics(evaluation: EvaluationData) -> Metrics:
    """How many lists there are and how many are short, because the catalogue of unseen items ran
    out.

    No final list is longer than its candidates.
    """
    final = evaluation.final[:, : evaluation.candidates.shape[1]]
    short = {"recall.short_lists": evaluation.candidates, "funnel.short_lists": final}
    counts = {name: int((lists[:, -1] == 0).sum()) for name, lists in short.items()}
    return {"funnel.users": len(evaluation.users), **counts}


def _simulated_metrics(evaluation: EvaluationData) -> Metrics:
    """Shares of the oracle's expected seconds, where the world is known."""
    from funnel.evaluation.simulation_report import oracle_shares

    context = evaluation.context
    lists = {
        "final": evaluation.final,
        "recall": evaluation.candidates,
        "popularity": evaluation.popular,
    }
    lists |= {"ranked": evaluation.ranked} if evaluation.ranked is not evaluation.final else {}
    ids = {name: _raw(evaluation, items) for name, items in lists.items()}
    users = context.ids.users.id_of(evaluation.users).to_numpy()
    best = oracle_shares(context.folder, users, ids, context.split.test_start, context.config.seed)
    return {f"funnel.oracle_share@{k}": share for k, share in best.items()} | oracle_metrics(
        evaluation
    )


def _raw(evaluation: EvaluationData, lists: Int32) -> Int64:
    """Lists of raw ids, -1 past a list's end."""
    raw = np.full(lists.shape, -1, np.int64)
    raw[lists > 0] = evaluation.context.ids.items.id_of(lists[lists > 0]).to_numpy()
    return raw


def _description(evaluation: EvaluationData) -> dict[str, Any]:
    context = evaluation.context
    rows = json.loads((context.inputs["ranking_rows"] / "summary.json").read_text())
    return {
        "source": context.source,
        "seed": context.config.seed,
        "split": context.split.described(),
        "unit": context.unit,
        "list_order": choice_of(context.inputs["list_order"]),
        "popularity": None if context.split.mode == "none" else evaluation.popular_span,
        "log": json.loads((context.inputs["interactions"] / "summary.json").read_text()),
        "ranking_rows": rows,
        "calibration_claimed": rows["from"] == "impressions",
        "config": context.config.model_dump(mode="json"),
    }


def draw(context: StepContext, report: Mapping[str, Any]) -> None:
    """Pictures beside the report: the candidates' popularity, slices and generators, expected
    against true seconds.
    """
    evaluation, candidates = (
        EvaluationData(context),
        saved_candidates(context.inputs["candidates"]).items,
    )
    candidate_popularity(
        evaluation.counts[candidates[candidates > 0]],
        evaluation.counts[1:],
        context.out / "popularity.png",
    )
    draw_recall(report, context.out)
    draw_ranking(evaluation, report, context.out)
    draw_off_policy(report, context.out)
    draw_waterfall(report, context.out)


def _number(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else float(value)
