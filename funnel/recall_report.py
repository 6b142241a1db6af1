"""What the report says of the candidates: accuracy in all and by slice, what is listed, what each generator adds.

A slice or a generator follows a slash, a baseline a dot: `recall.hr@50/users_with_0_watches.popularity`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from funnel.judged import Judged, cutoffs, mean
from funnel.plots import share_bars
from funnel.recall_tables import generator_tables, slice_tables
from recall import metrics as recall
from recall import slices
from recall.contributions import contributions

Int32 = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]
Metrics = dict[str, float]

SLICED_AT = 50
NEW_ITEMS = "items_with_0_watches"


def recall_metrics(judged: Judged) -> Metrics:
    """Every recall metric of the candidates, and beside each that of popularity's lists of the same users."""
    config = judged.work.config
    ks = cutoffs(config.report.at, config.recall.k)
    metrics = _counts(judged) | _generators(judged)
    for suffix, lists in (("", judged.candidates), (".popularity", judged.popular)):
        metrics |= _accuracy(judged, lists, suffix) | _found(judged, lists, suffix)
        for k in ks:
            metrics |= _spread(judged, k, lists, suffix)
    return metrics


def oracle_metrics(judged: Judged) -> Metrics:
    """The share of the watches of new items that the simulated world's best lists find, on the candidates' rows.

    Only users with such a watch are asked for: the others' lists change nothing.
    """
    if judged.work.windows.mode == "none" or not judged.timed:
        return {}
    from funnel.oracle import best_lists

    work, of_new = judged.work, _item_slices(judged)[NEW_ITEMS][judged.completed.items]
    rows = np.unique(judged.completed.rows[of_new])
    users = work.ids.users.id_of(judged.users[rows]).to_numpy()
    lists = np.zeros_like(judged.candidates)
    lists[rows] = best_lists(work.data, users, work.ids.items, work.windows.labels_end, work.config.recall.k)
    found = slices.found_shares(_sliced_at(judged), recall.places(lists, judged.completed), {"": of_new})
    return {f"recall.new_item_recall@{k}.oracle": found[f"watches_found@{k}/"] for k in _sliced_at(judged)}


def draw_recall(report: Mapping[str, Any], folder: Path) -> None:
    """Pictures of a report's slices and of its generators' contributions, as far as it has them."""
    if sliced := slice_tables(report):
        counted = {_in_words(metric): _counted(table) for metric, table in sliced.items()}
        share_bars("Candidates beside popularity, by kind of user and of item", counted, folder / "slices.png")
    for name, table in generator_tables(report).items():
        named = table.rename(index=lambda generator: generator.replace("_", " "))
        places = f"of the first {name.split('@')[1]} places, and of their hits"
        panels = {f"Share {places}": named.iloc[:, :2], "Hits that no other generator found": named.iloc[:, 2:]}
        share_bars("What each candidate generator adds", panels, folder / "generators.png")


def _in_words(metric: str) -> str:
    """A metric of a slice table, for people: `hr@50`."""
    name, k = metric.split("@")
    texts = {"hr": "Users who found a next watch", "watches_found": "Next watches that were found"}
    return f"{texts[name]} among {k} candidates"


def _counts(judged: Judged) -> Metrics:
    """How many users and watches there are to be judged by, in all and by slice."""
    holdout = judged.completed
    users = slices.judged_users(holdout, slices.users_by_activity(judged.watches_of_users))
    watches = {name: int(chosen[holdout.items].sum()) for name, chosen in _item_slices(judged).items()}
    late = int((judged.days[holdout.items] <= 0).sum())
    return {
        "recall.users": int((holdout.sizes > 0).sum()),
        "recall.watches": len(holdout.items),
        "recall.watches/items_not_there_yet": late,
        **{f"recall.users/{name}": count for name, count in users.items()},
        **{f"recall.watches/{name}": count for name, count in watches.items()},
    }


def _accuracy(judged: Judged, lists: Int32, suffix: str) -> Metrics:
    """HR, recall and NDCG over all users and over the users of each slice."""
    config, users = judged.work.config, slices.users_by_activity(judged.watches_of_users)
    ks, sliced = cutoffs(config.report.at, config.recall.k), _sliced_at(judged)
    values = recall.accuracy(sorted({*ks, *sliced}), lists, judged.completed)
    at = {name: int(name.split("@")[1]) for name in values}
    by_slice = slices.sliced_means({name: v for name, v in values.items() if at[name] in sliced}, users)
    whole = {name: mean(v) for name, v in values.items() if at[name] in ks}
    return {f"recall.{name}{suffix}": value for name, value in (whole | by_slice).items()}


def _found(judged: Judged, lists: Int32, suffix: str) -> Metrics:
    """The share of the holdout's watches that lists hold, by slice of the item; new items also by that name."""
    ks, holdout = _sliced_at(judged), judged.completed
    of_watches = {name: chosen[holdout.items] for name, chosen in _item_slices(judged).items()}
    found = slices.found_shares(ks, recall.places(lists, holdout), of_watches)
    new = {f"new_item_recall@{k}": found[f"watches_found@{k}/{NEW_ITEMS}"] for k in ks}
    return {f"recall.{name}{suffix}": share for name, share in (found | new).items()}


def _spread(judged: Judged, k: int, lists: Int32, suffix: str) -> Metrics:
    """How many items the lists reach, how unequally, how popular they are, and how many places go to new ones."""
    catalogue = judged.catalogue - 1
    metrics = {
        "coverage": recall.coverage(k, lists, catalogue),
        "gini": recall.gini(k, lists, catalogue),
        "mean_popularity": recall.mean_popularity(k, lists, judged.counts),
        "new_item_share": recall.listed_share(k, lists, judged.watches_of_items == 0),
    }
    if judged.timed:
        metrics["young_item_share"] = recall.listed_share(k, lists, judged.days < 1)
    return {f"recall.{name}@{k}{suffix}": value for name, value in metrics.items()}


def _generators(judged: Judged) -> Metrics:
    """What each generator named, found, and found alone, where the candidates say who named them."""
    metrics: Metrics = {}
    for k in _sliced_at(judged) if judged.generator_ranks else []:
        lists = judged.candidates[:, :k]
        ranks = {generator: rank[:, :k] for generator, rank in judged.generator_ranks.items()}
        hit, watches = recall.hits(lists, judged.completed), int(judged.completed.sizes.sum())
        for generator, contribution in contributions(ranks, lists > 0, hit, watches).items():
            shares = asdict(contribution).items()
            metrics |= {f"recall.generator_{name}@{k}/{generator}": share for name, share in shares}
    return metrics


def _counted(table: pd.DataFrame) -> pd.DataFrame:
    """A slice table with its counts, the first column, in its labels."""
    counts = table.iloc[:, 0]
    labels = [f"{name}\n({count:,} {counts.name})" for name, count in counts.items()]
    return table.iloc[:, 1:].set_axis(labels)


def _item_slices(judged: Judged) -> Mapping[str, Flags]:
    """Slices of items that were there at labels_end, [items] each: by popularity, and by age where there is time."""
    by_age = slices.items_by_age(judged.days) if judged.timed else {}
    return by_age | slices.items_by_popularity(judged.watches_of_items, judged.days > 0)


def _sliced_at(judged: Judged) -> list[int]:
    """Slices and generators are judged at 50 places and at the whole list: more would only be more to read."""
    k = judged.work.config.recall.k
    return sorted({min(SLICED_AT, k), k})
