"""From candidates to the final lists: in the order that was chosen, then re-ranked where a switch
asks for it.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.arrays import Float32, Float64, Int64, UInt16
from features.errors import InputError
from features.schema import CHANNEL, ITEM, USER
from features.side_features import SideFeatures
from features.timeline import pair_keys
from features.vocabulary import Vocabulary
from funnel.config import FunnelConfig
from funnel.context import StepContext
from ranking.config import ReRankConfig
from ranking.examples import MERGED
from ranking.list_order import BLENDER, ListOrder
from ranking.model import Ranker
from ranking.re_rank import CatalogueSnapshot, most_excluded, re_ranked, seconds_lost
from ranking.recommend import Lists, Ordered, Recommender, recommender_of
from recall.blender import reserved_places
from recall.candidates import Candidates
from recall.tower import Tower
from recall.tower_scores import list_columns

COSTS_AT = 10
CHOICE = "choice.json"


def recommender_at(context: StepContext) -> Recommender:
    """The run's ranker as of test_start, with what it knows of every item."""
    ranker = Ranker.load(context.inputs["ranker"])
    return recommender_of(
        ranker, context.features, context.split.test_start, len(context.ids.items)
    )


def lists_of(
    context: StepContext,
    candidates: Candidates,
    tower: Tower | None = None,
    chance_of: str = BLENDER,
) -> Lists:
    """Candidates as ranking is asked to order them, as of the instant of a tower (None: test_start,
    the last one's).

    P(next) is that of the blender or of one candidate generator.
    """
    tower = tower or context.towers[-1]
    columns = recall_columns(context, candidates, tower)
    log_chances = (
        columns[MERGED] if chance_of == BLENDER else rank_chances(candidates.ranks[chance_of])
    )
    return Lists(candidates.users, candidates.items, columns, np.asarray(log_chances, np.float64))


def rank_chances(ranks: UInt16) -> Float64:
    """log chances of candidates by one generator's ranks [n, k]: 1 / rank (Zipf's law), up to a
    constant.

    What it did not name (0) follows all that it did, in the candidates' order.
    """
    rest = ranks.astype(np.int64).max(axis=1, keepdims=True, initial=0) + np.cumsum(
        ranks == 0, axis=1
    )
    return -np.log(np.where(ranks > 0, ranks, rest))


def recall_columns(context: StepContext, lists: Candidates, tower: Tower) -> dict[str, Float64]:
    """Recall's columns of lists as of a tower's instant, [n, k]."""
    columns = list_columns(tower, context.user_inputs, lists)
    return columns | {MERGED: np.asarray(lists.scores, np.float64)}


def order_of(context: StepContext) -> ListOrder:
    """The order that was chosen on the validation lists."""
    return ListOrder.model_validate(
        json.loads((context.inputs["list_order"] / CHOICE).read_text())["order"]
    )


def taking_part(candidates: Candidates, order: ListOrder) -> Candidates:
    """The candidates that final lists are made of."""
    return candidates if order.depth is None else candidates.narrowed(order.depth)


def unreserved(config: FunnelConfig, candidates: Candidates) -> int:
    """How many candidates the blender placed, without the places kept for what would be watched
    longest; no fewer than a final list is long.
    """
    kept = reserved_places(config.recall) if "expected_watch" in candidates.ranks else 0
    return max(config.recall.k - kept, config.ranking.top_k)


def re_ranked_lists(context: StepContext, recommender: Recommender, lists: Lists) -> Ordered:
    """The final lists, [n, top_k].

    Where they are re-ranked, the ranker's own go to `ranked_items.npy` and what each switch costs
    to `re_rank.json`.
    """
    config, order, top_k = context.config.re_rank, order_of(context), context.config.ranking.top_k
    if not config.switches:
        return recommender.recommend(lists, order, top_k)
    catalogue, config = (
        catalogue_of(context, config),
        config.model_copy(update={"pool": max(config.pool, top_k)}),
    )
    # What is excluded takes no place of the pool.
    width = config.pool + most_excluded(lists.users, lists.items, catalogue, config)
    ranked = recommender.recommend(lists, order, width)
    np.save(context.out / "ranked_items.npy", ranked.items[:, :top_k])
    lost = seconds_lost(ranked, catalogue, config, min(COSTS_AT, top_k))
    context.write_json("re_rank.json", {"k": min(COSTS_AT, top_k), "seconds_lost": lost})
    return re_ranked(ranked, catalogue, config, top_k)


def catalogue_of(context: StepContext, config: ReRankConfig) -> CatalogueSnapshot:
    """What re-ranking knows of the items as of test_start."""
    items, count = (
        SideFeatures.load(context.inputs["profiles"] / "items.parquet"),
        len(context.ids.items),
    )
    channels = items.codes.get(CHANNEL, np.zeros(count, np.int32))
    if config.channel_cap and not channels.any():
        context.tell(f"re_rank.channel_cap is off: the items have no {CHANNEL}")
    return CatalogueSnapshot(
        _vectors(context, count), channels, excluded_pairs(context, config.exclusions)
    )


def excluded_pairs(context: StepContext, path: str | None) -> Int64:
    """The keys of excluded pairs of user and item, ascending; user 0 is everybody, ids the log does
    not know nobody.

    A row without a user excludes its item for everybody. InputError where the table cannot be read,
    has other columns than item_id and user_id, or ids of another type than the log's.
    """
    if path is None:
        return np.zeros(0, np.int64)
    table = _table(Path(path))
    if ITEM not in table.column_names or not set(table.column_names) <= {ITEM, USER}:
        found = ", ".join(table.column_names) or "none"
        raise InputError(
            f"{path}: its columns are {found}; a table of exclusions has {ITEM} and, if it likes, "
            f"{USER}."
        )
    items = _indexes(path, table, ITEM, context.ids.items)
    users = (
        _indexes(path, table, USER, context.ids.users)
        if USER in table.column_names
        else np.zeros(len(items))
    )
    known = (items > 0) & (users >= 0)
    if not known.all():
        context.tell(
            f"re_rank.exclusions: {(~known).sum()} of {len(known)} rows name what the log does not "
            "know"
        )
    return np.unique(pair_keys(users[known], items[known]))


def _indexes(path: str, table: pa.Table, name: str, vocabulary: Vocabulary) -> Int64:
    """A column's indexes: 0 where it is blank, -1 where the log does not know the id."""
    column = table[name].combine_chunks()
    blank = np.asarray(pc.fill_null(pc.equal(column.cast(pa.string()), ""), True))
    try:
        ids = column.filter(pa.array(~blank)).cast(vocabulary.ids.type)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"{path}: {name} is not of the log's type, {vocabulary.ids.type}: {error}."
        ) from None
    indexes = np.zeros(len(column), np.int64)
    found = vocabulary.index_of(ids)
    indexes[~blank] = np.where(found > 0, found, -1)
    return indexes


def _table(path: Path) -> pa.Table:
    """The table as it is written: in CSV every id is text, so that 007 stays what it is."""
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        return pa.Table.from_pandas(
            pd.read_csv(path, dtype=str, keep_default_na=False), preserve_index=False
        )
    except (OSError, ValueError, pd.errors.ParserError, pa.ArrowInvalid) as error:
        raise InputError(f"{path}: the table of exclusions cannot be read ({error}).") from None


def _vectors(context: StepContext, count: int) -> Float32:
    """Recall's item vectors by index; an item that came after the last tower has none, and is like
    nothing.
    """
    vectors: Float32 = np.load(context.inputs["item_vectors"] / "item_vectors.npy")
    missing = np.zeros((max(count - len(vectors), 0), vectors.shape[1]), np.float32)
    return np.concatenate([vectors, missing])
