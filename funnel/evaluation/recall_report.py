"""What the report says of the candidates: accuracy in all and by slice, what is listed, what each
generator adds.

A slice or a generator follows a slash, a baseline a dot:
`recall.hr@50/users_with_0_watches.popularity`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.arrays import Flags, Int32
from funnel.evaluation.evaluation_data import EvaluationData, cutoffs, mean
from funnel.evaluation.plots import share_bars
from funnel.evaluation.recall_tables import generator_tables, slice_tables
from recall import metrics as recall
from recall import slices
from recall.contributions import contributions

Metrics = dict[str, float]

SLICED_AT = 50
NEW_ITEMS = "items_with_0_watches"


def recall_metrics(evaluation: EvaluationData) -> Metrics:
    """Every recall metric of the candidates, and beside each that of popularity's lists of the same
    users.
    """
    config = evaluation.context.config
    ks = cutoffs(config.report.at, config.recall.k)
    metrics = _counts(evaluation) | _generators(evaluation)
    for suffix, lists in (("", evaluation.candidates), (".popularity", evaluation.popular)):
        metrics |= _accuracy(evaluation, lists, suffix) | _found(evaluation, lists, suffix)
        for k in ks:
            metrics |= _spread(evaluation, k, lists, suffix)
    return metrics


def oracle_metrics(evaluation: EvaluationData) -> Metrics:
    """The share of the watches of new items that the simulated world's best lists find, on the
    candidates' rows.

    Only users with such a watch are asked for: the others' lists change nothing.
    """
    if evaluation.context.split.mode == "none" or not evaluation.timed:
        return {}
    from funnel.evaluation.simulation_report import best_lists

    context, of_new = (
        evaluation.context,
        _item_slices(evaluation)[NEW_ITEMS][evaluation.completed.items],
    )
    rows = np.unique(evaluation.completed.rows[of_new])
    users = context.ids.users.id_of(evaluation.users[rows]).to_numpy()
    lists = np.zeros_like(evaluation.candidates)
    lists[rows] = best_lists(
        context.folder, users, context.ids.items, context.split.test_start, context.config.recall.k
    )
    found = slices.found_shares(
        _sliced_at(evaluation), recall.places(lists, evaluation.completed), {"": of_new}
    )
    return {
        f"recall.new_item_recall@{k}.oracle": found[f"watches_found@{k}/"]
        for k in _sliced_at(evaluation)
    }


def draw_recall(report: Mapping[str, Any], folder: Path) -> None:
    """Pictures of a report's slices and of its generators' contributions, as far as it has them."""
    if sliced := slice_tables(report):
        counted = {_in_words(metric): _counted(table) for metric, table in sliced.items()}
        share_bars(
            "Candidates beside popularity, by kind of user and of item",
            counted,
            folder / "slices.png",
        )
    for name, table in generator_tables(report).items():
        named = table.rename(index=lambda generator: generator.replace("_", " "))
        places = f"of the first {name.split('@')[1]} places, and of their hits"
        panels = {
            f"Share {places}": named.iloc[:, :2],
            "Hits that no other generator found": named.iloc[:, 2:],
        }
        share_bars("What each candidate generator adds", panels, folder / "generators.png")


def _in_words(metric: str) -> str:
    """A metric of a slice table, for people: `hr@50`."""
    name, k = metric.split("@")
    texts = {"hr": "Users who found a next watch", "watches_found": "Next watches that were found"}
    return f"{texts[name]} among {k} candidates"


def _counts(evaluation: EvaluationData) -> Metrics:
    """How many users and watches there are to be evaluated on, in all and by slice."""
    relevant = evaluation.completed
    users = slices.evaluation_users(relevant, slices.users_by_activity(evaluation.watches_of_users))
    watches = {
        name: int(chosen[relevant.items].sum()) for name, chosen in _item_slices(evaluation).items()
    }
    late = int((evaluation.days[relevant.items] <= 0).sum())
    return {
        "recall.users": int((relevant.sizes > 0).sum()),
        "recall.watches": len(relevant.items),
        "recall.watches/items_not_there_yet": late,
        "recall.watches/repeats": int(evaluation.repeats.sum()),
        **{f"recall.users/{name}": count for name, count in users.items()},
        **{f"recall.watches/{name}": count for name, count in watches.items()},
    }


def _accuracy(evaluation: EvaluationData, lists: Int32, suffix: str) -> Metrics:
    """HR, recall and NDCG over all users and over the users of each slice."""
    config, users = evaluation.context.config, slices.users_by_activity(evaluation.watches_of_users)
    ks, sliced = cutoffs(config.report.at, config.recall.k), _sliced_at(evaluation)
    values = recall.accuracy(sorted({*ks, *sliced}), lists, evaluation.completed)
    at = {name: int(name.split("@")[1]) for name in values}
    by_slice = slices.sliced_means(
        {name: v for name, v in values.items() if at[name] in sliced}, users
    )
    whole = {name: mean(v) for name, v in values.items() if at[name] in ks}
    return {f"recall.{name}{suffix}": value for name, value in (whole | by_slice).items()}


def _found(evaluation: EvaluationData, lists: Int32, suffix: str) -> Metrics:
    """The share of the test window's watches that lists hold, by slice of the item; new items also
    by that name.
    """
    ks, relevant = _sliced_at(evaluation), evaluation.completed
    of_watches = {name: chosen[relevant.items] for name, chosen in _item_slices(evaluation).items()}
    found = slices.found_shares(ks, recall.places(lists, relevant), of_watches)
    new = {f"new_item_recall@{k}": found[f"watches_found@{k}/{NEW_ITEMS}"] for k in ks}
    return {f"recall.{name}{suffix}": share for name, share in (found | new).items()}


def _spread(evaluation: EvaluationData, k: int, lists: Int32, suffix: str) -> Metrics:
    """How many items the lists reach, how unequally, how popular they are, and how many places go
    to new ones.
    """
    catalogue = evaluation.catalogue - 1
    metrics = {
        "coverage": recall.coverage(k, lists, catalogue),
        "gini": recall.gini(k, lists, catalogue),
        "mean_popularity": recall.mean_popularity(k, lists, evaluation.counts),
        "new_item_share": recall.listed_share(k, lists, evaluation.watches_of_items == 0),
    }
    if evaluation.timed:
        metrics["young_item_share"] = recall.listed_share(k, lists, evaluation.days < 1)
    return {f"recall.{name}@{k}{suffix}": value for name, value in metrics.items()}


def _generators(evaluation: EvaluationData) -> Metrics:
    """What each generator named, found, and found alone, where the candidates say who named
    them.
    """
    metrics: Metrics = {}
    for k in _sliced_at(evaluation) if evaluation.generator_ranks else []:
        lists = evaluation.candidates[:, :k]
        ranks = {generator: rank[:, :k] for generator, rank in evaluation.generator_ranks.items()}
        hit, watches = (
            recall.hits(lists, evaluation.completed),
            int(evaluation.completed.sizes.sum()),
        )
        for generator, contribution in contributions(ranks, lists > 0, hit, watches).items():
            shares = asdict(contribution).items()
            metrics |= {f"recall.generator_{name}@{k}/{generator}": share for name, share in shares}
    return metrics


def _counted(table: pd.DataFrame) -> pd.DataFrame:
    """A slice table with its counts, the first column, in its labels."""
    counts = table.iloc[:, 0]
    labels = [f"{name}\n({count:,} {counts.name})" for name, count in counts.items()]
    return table.iloc[:, 1:].set_axis(labels)


def _item_slices(evaluation: EvaluationData) -> Mapping[str, Flags]:
    """Slices of items that were there at test_start, [items] each: by popularity, and by age where
    there is time.
    """
    by_age = slices.items_by_age(evaluation.days) if evaluation.timed else {}
    return by_age | slices.items_by_popularity(evaluation.watches_of_items, evaluation.days > 0)


def _sliced_at(evaluation: EvaluationData) -> list[int]:
    """Slices and generators are evaluated at 50 places and at the whole list: more would only be
    more to read.
    """
    k = evaluation.context.config.recall.k
    return sorted({min(SLICED_AT, k), k})
