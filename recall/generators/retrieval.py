"""All candidate generators as of an instant: the table of them, what they name for users, and what
they say of it.

A new one is a module of this folder with `build(snapshot)`, and with `missing(log)` where some logs
cannot give it; and a row of GENERATORS.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from features.arrays import Float32, Int32, Int64, Intp
from recall.compiled_loops import multiply_pairs
from recall.config import GeneratorName, RecallConfig
from recall.generators import (
    co_visitation,
    expected_watch,
    followed_channels,
    item_to_item,
    new_items,
    popular,
    rewatch,
    tower,
)
from recall.generators.base import CandidateGenerator, Columns, Log, Snapshot
from recall.generators.union import Union, joined, union_of


@dataclass(frozen=True)
class Row:
    """How a generator is built, whether it alone can fill a list, and why a log cannot give it
    (None: it can).
    """

    build: Callable[[Snapshot], CandidateGenerator]
    fills: bool = False
    missing: Callable[[Log], str | None] = lambda _: None


GENERATORS: Mapping[GeneratorName, Row] = {
    "tower": Row(tower.build, fills=True),
    "item_to_item": Row(item_to_item.build),
    "co_visitation": Row(co_visitation.build),
    "popular": Row(popular.build, fills=True),
    "followed_channels": Row(followed_channels.build, missing=followed_channels.missing),
    "new_items": Row(new_items.build, missing=new_items.missing),
    "expected_watch": Row(expected_watch.build, missing=expected_watch.missing),
    "rewatch": Row(rewatch.build),
}


def switched_off(config: RecallConfig, log: Log) -> dict[GeneratorName, str]:
    """The generators that are asked for and that the log cannot give, with the reason."""
    reasons = {name: GENERATORS[name].missing(log) for name in config.generators}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def in_force(config: RecallConfig, log: Log) -> tuple[GeneratorName, ...]:
    """The generators that are asked for and that the log can give."""
    off = switched_off(config, log)
    return tuple(name for name in config.generators if name not in off)


@dataclass(frozen=True)
class Found:
    """The union of what generators name for users, its columns, and the tower's score of every
    pair, [p].
    """

    union: Union
    columns: Columns
    tower_scores: Float32
    lengths: Int64


@dataclass(frozen=True)
class Generators:
    """The generators in force as of a snapshot, in order, and how many items each is asked for."""

    snapshot: Snapshot
    by_name: Mapping[GeneratorName, CandidateGenerator]
    wanted: Mapping[GeneratorName, int]

    def find(self, users: Int32) -> Found:
        """What the generators name for users, and the columns that the blender reads."""
        requests, item_vectors = self.snapshot.requests(users), self.snapshot.tower.item_vectors
        answers = {name: generator.answer(requests) for name, generator in self.by_name.items()}
        union = union_of(
            {name: answer.named(self.wanted[name]) for name, answer in answers.items()}
        )
        scores = pair_scores(requests.vectors, item_vectors, union.rows, union.items)
        said = [answer.columns(union.rows, union.items) for answer in answers.values()]
        columns = joined([standardised(scores, union), union.rank_columns, *said])
        return Found(union, columns, scores, requests.lengths)


def build_generators(config: RecallConfig, snapshot: Snapshot) -> Generators:
    """The generators in force as of a snapshot, for its users."""
    names = in_force(config, snapshot.log)
    deep = max(config.k, config.generator_items)
    wanted = {name: deep if GENERATORS[name].fills else config.generator_items for name in names}
    return Generators(snapshot, {name: GENERATORS[name].build(snapshot) for name in names}, wanted)


def pair_scores(vectors: Float32, item_vectors: Float32, rows: Intp, items: Int32) -> Float32:
    """The tower's score of pairs [p], NaN of an item that it does not know."""
    scores = np.empty(len(rows), np.float32)
    multiply_pairs(vectors, item_vectors, rows, items, scores)
    return scores


def standardised(scores: Float32, union: Union) -> Columns:
    """The tower's scores less their mean over the user's union, over their deviation; unknown items
    stand at 0.
    """
    known = ~np.isnan(scores)
    values, rows = np.where(known, scores, 0).astype(np.float64), union.rows
    counts = np.maximum(np.bincount(rows, known, union.users), 1)
    mean = np.bincount(rows, values, union.users) / counts
    away = np.where(known, values - mean[rows], 0)
    spread = np.sqrt(np.bincount(rows, away**2, union.users) / counts)
    return {
        "tower": (away / np.maximum(spread[rows], 1e-6)).astype(np.float32),
        "tower_unknown": (~known).astype(np.float32),
    }
