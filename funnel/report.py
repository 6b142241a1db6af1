"""The report: every metric of a run under a flat key, and beside each the baselines on the same rows.

`recall.hr@50` is the candidates', `recall.hr@50.popularity` that of the most watched lately. `funnel.*` judges the
final lists, `funnel.*.recall` the same lists in recall's own order. A metric that the log cannot give is null.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from funnel.metrics import watch_seconds_share_at
from funnel.plots import candidate_popularity, seconds_by_bucket
from funnel.work import Impressions, Work, held_out, logs_impressions, saved_candidates, watched
from ranking import metrics as ranking
from recall import metrics as recall
from recall.metrics import Holdout
from recall.popular import popular_lists, popularity

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Metrics = dict[str, float]


@dataclass(frozen=True)
class Judged:
    """The lists of a run, and what their users went on to watch."""

    work: Work

    @cached_property
    def users(self) -> Int32:
        return saved_candidates(self.work.inputs["candidates"]).users

    @cached_property
    def final(self) -> Int32:
        """Items of the final lists, [users, top_k]."""
        items: Int32 = np.load(self.work.inputs["recommendations"] / "items.npy")
        return items

    @cached_property
    def candidates(self) -> Int32:
        """Items of recall's lists in recall's order, [users, k]."""
        return saved_candidates(self.work.inputs["candidates"]).items

    @cached_property
    def popular(self) -> Int32:
        """Items of popularity's lists, [users, k]."""
        k = self.work.config.recall.k
        return popular_lists(self.counts, self.users, self._seen, self.work.windows.labels_end, k).items

    @property
    def catalogue(self) -> int:
        """Indexes that existed before labels_end, nobody included."""
        return self.work.ids.items.size_as_of(self.work.windows.labels_end)

    @cached_property
    def counts(self) -> Float64:
        """Completed watches by item lately, before labels_end."""
        work, timed = self.work, self.work.windows.clock == "time"
        hours = work.config.report.popularity_hours if timed else None
        return popularity(work.readings.histories, self.catalogue, work.windows.labels_end, hours)

    @cached_property
    def impressions(self) -> Impressions:
        """The holdout's impressions."""
        log = self.work.impressions
        return log.take(np.flatnonzero(held_out(log, self.work.windows)))

    @cached_property
    def completed(self) -> Holdout:
        """Distinct items completed by each user with a list."""
        rows = self.impressions
        return _holdout(self.users, rows.users[rows.completed], rows.items[rows.completed])

    @cached_property
    def clicked(self) -> tuple[Holdout, Float64]:
        """Every click of the holdout with its seconds (or watches, in the log's unit), repeats included."""
        rows = self.impressions.take(np.flatnonzero(self.impressions.clicked))
        order = np.argsort(rows.users, kind="stable")
        offsets = np.searchsorted(rows.users[order], np.append(self.users, np.iinfo(np.int32).max))
        return Holdout(offsets.astype(np.int64), rows.items[order]), watched(self.work, rows)[order]

    @property
    def _seen(self) -> Histories:
        return Histories.load(self.work.inputs["histories"] / "clicks")


def report_of(work: Work) -> dict[str, Any]:
    """Everything a run has to say: `run` describes it, the flat keys are its metrics."""
    judged = Judged(work)
    metrics = _list_metrics(judged)
    if work.windows.mode != "none":
        metrics |= _recall_metrics(judged) | _funnel_metrics(judged) | _ranking_metrics(judged)
    metrics |= _simulated_metrics(judged) if (work.data / "truth").exists() else {}
    return {"run": _description(judged)} | {name: _number(value) for name, value in sorted(metrics.items())}


def cutoffs(at: Sequence[int], length: int) -> list[int]:
    """At which places lists of a length are judged: those asked for that they reach, else their whole length."""
    return [k for k in at if k <= length] or [length]


def _recall_metrics(judged: Judged) -> Metrics:
    config, holdout = judged.work.config, judged.completed
    ks = cutoffs(config.report.at, config.recall.k)
    metrics: Metrics = {"recall.users": int((np.diff(holdout.offsets) > 0).sum())}
    for suffix, lists in (("", judged.candidates), (".popularity", judged.popular)):
        metrics |= {f"recall.{m}{suffix}": _mean(v) for m, v in recall.accuracy(ks, lists, holdout).items()}
        for k in ks:
            metrics |= _spread(judged, k, lists, suffix)
    return metrics


def _spread(judged: Judged, k: int, lists: Int32, suffix: str) -> Metrics:
    """How many items the lists reach, how unequally, and how popular they are."""
    catalogue = judged.catalogue - 1
    return {
        f"recall.coverage@{k}{suffix}": recall.coverage(k, lists, catalogue),
        f"recall.gini@{k}{suffix}": recall.gini(k, lists, catalogue),
        f"recall.mean_popularity@{k}{suffix}": recall.mean_popularity(k, lists, judged.counts),
    }


def _funnel_metrics(judged: Judged) -> Metrics:
    config, (clicks, seconds) = judged.work.config, judged.clicked
    ks = cutoffs(config.report.at, min(config.ranking.top_k, config.recall.k))
    metrics: Metrics = {}
    for suffix, lists in (("", judged.final), (".recall", judged.candidates), (".popularity", judged.popular)):
        metrics |= {f"funnel.watch_seconds_share@{k}{suffix}": _share(k, lists, clicks, seconds) for k in ks}
        metrics |= {f"funnel.{m}{suffix}": _mean(v) for m, v in recall.accuracy(ks, lists, judged.completed).items()}
    return metrics | {
        f"funnel.watch_seconds_share@{config.recall.k}.recall": _share(
            config.recall.k, judged.candidates, clicks, seconds
        )
    }


def _share(k: int, lists: Int32, clicks: Holdout, seconds: Float64) -> float:
    return float(watch_seconds_share_at(k, lists, clicks, seconds))


def _ranking_metrics(judged: Judged) -> Metrics:
    """Every logged impression of the holdout, scored as of its instant; baselines are the item's clicks and mean."""
    work, rows = judged.work, judged.impressions
    seconds = watched(work, rows)
    block = work.ledger.item_block(rows.items, rows.instants)
    predictions = {
        "": _expected_seconds(work),
        ".popularity": block.numbers["item_shown"] + np.log(block.numbers["item_click_rate"]),
        ".item_mean": block.numbers["item_yield"],
    }
    metrics: Metrics = {"ranking.impressions": len(seconds)}
    for suffix, predicted in predictions.items():
        metrics |= {f"ranking.{n}{suffix}": v for n, v in _order_metrics(rows, seconds, predicted).items()}
        if suffix != ".popularity" and logs_impressions(work):
            metrics[f"ranking.mae{suffix}"] = ranking.mae(seconds, predicted)
            metrics[f"ranking.calibration{suffix}"] = ranking.calibration_ratio(seconds, predicted)
    return metrics


def _order_metrics(rows: Impressions, seconds: Float64, predicted: Float64) -> Metrics:
    pairs = ranking.xauc(seconds, predicted)
    return {
        "auc": ranking.auc(rows.clicked, predicted),
        "gauc_by_rows": ranking.gauc_by_rows(rows.users, rows.clicked, predicted),
        "gauc_by_clicks": ranking.gauc_by_clicks(rows.users, rows.clicked, predicted),
        "weighted_user_loss": ranking.weighted_user_loss(rows.users, rows.clicked, seconds, predicted),
        "xauc": pairs.half_credit,
        "xauc_strict": pairs.strict,
        "xauc_ties": pairs.tie_fraction,
        "ndcg_of_seconds@10": _mean(ranking.ndcg_of_seconds(10, rows.users, seconds, predicted)),
    }


def _list_metrics(judged: Judged) -> Metrics:
    """How many lists there are and how many are short, because the catalogue of unseen items ran out."""
    short = {"recall.short_lists": judged.candidates, "funnel.short_lists": judged.final}
    counts = {name: int((lists[:, -1] == 0).sum()) for name, lists in short.items()}
    return {"funnel.users": len(judged.users), **counts}


def _simulated_metrics(judged: Judged) -> Metrics:
    """Shares of the oracle's expected seconds, where the world is known."""
    from funnel.oracle import oracle_shares

    work = judged.work
    lists = {"final": judged.final, "recall": judged.candidates, "popularity": judged.popular}
    ids = {name: _raw(judged, items) for name, items in lists.items()}
    users = work.ids.users.id_of(judged.users).to_numpy()
    shares = oracle_shares(work.data, users, ids, work.windows.labels_end, work.config.seed)
    return {f"funnel.oracle_share@{k}": share for k, share in shares.items()}


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
        "log": json.loads((work.inputs["interactions"] / "summary.json").read_text()),
        "ranking_rows": rows,
        "calibration_claimed": rows["from"] == "impressions",
        "config": work.config.model_dump(mode="json"),
    }


def draw(work: Work) -> None:
    """Pictures beside the report: popularity of the candidates, and expected against true seconds by bucket."""
    judged = Judged(work)
    candidates = judged.candidates
    candidate_popularity(judged.counts[candidates[candidates > 0]], judged.counts[1:], work.out / "popularity.png")
    if work.windows.mode != "none" and logs_impressions(work):
        seconds_by_bucket(_expected_seconds(work), watched(work, judged.impressions), work.out / "seconds.png")


def _expected_seconds(work: Work) -> Float64:
    import pyarrow.parquet as pq

    table = pq.read_table(work.inputs["recommendations"] / "scored.parquet", columns=["expected_seconds"])
    seconds: Float64 = table["expected_seconds"].to_numpy().astype(np.float64)
    return seconds


def _holdout(users: Int32, watchers: Int32, items: Int32) -> Holdout:
    """Distinct (user, item) pairs as a holdout in the order of `users`, which ascend."""
    pairs = np.unique(np.stack([watchers, items], axis=1), axis=0)
    offsets = np.searchsorted(pairs[:, 0], np.append(users, np.iinfo(np.int32).max))
    return Holdout(offsets.astype(np.int64), pairs[:, 1].astype(np.int32))


def _mean(values: Float64) -> float:
    return float(np.nanmean(values)) if len(values) and not np.isnan(values).all() else math.nan


def _number(value: float) -> float | int | None:
    if isinstance(value, int):
        return value
    return None if math.isnan(value) else float(value)


def flat_metrics(report: Mapping[str, Any]) -> Metrics:
    """The report's metrics alone, null ones left out."""
    return {name: float(value) for name, value in report.items() if name != "run" and value is not None}
