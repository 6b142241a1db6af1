"""Point-in-time (as-of) features of users, items and pairs: the same code for training and for
serving.

Three blocks, as the catalogue declares them. The user's is computed once a request and the item's
once a candidate (paper, section 4.1); only the pair's is computed for each row. Every count is of
what came strictly before the instant.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from features.arrays import Float64, Int32, Int64, Intp
from features.asof_catalogue import (
    CATALOGUE,
    AsOfFeature,
    BlockName,
    Entries,
    Kind,
)
from features.asof_counts import NO_COLUMNS
from features.asof_log import AsOfLog, AsOfRows, Contexts
from features.schema import CHANNEL, DURATION_SECONDS, PUBLISHED_AT, TOPICS

# float64 as they are computed, float32 where many rows are kept.
Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Columns of `size` rows: `numbers` {name: float [n]}, NaN unknown; `codes` {name: int32 [n]},
    0 unknown.
    """

    size: int
    numbers: Mapping[str, Numbers]
    codes: Mapping[str, Int32]

    def take(self, rows: Intp) -> "Block":
        numbers = {name: values[rows] for name, values in self.numbers.items()}
        return Block(
            len(rows), numbers, {name: values[rows] for name, values in self.codes.items()}
        )

    def with_numbers_of(self, names: Iterable[str]) -> "Block":
        """The same rows with these of their numbers."""
        return Block(self.size, {name: self.numbers[name] for name in names}, self.codes)


Blocks = dict[str, Block]


@dataclass(frozen=True)
class AsOfFeatures:
    """The columns that a catalogue declares, built of a log: those whose needs the log meets, in
    its order.
    """

    log: AsOfLog
    catalogue: Entries = CATALOGUE

    def blocks(self, rows: AsOfRows) -> Blocks:
        """The three blocks of rows [n], as they are alone; what they have in common is looked up
        once.
        """
        return {name: self._block(name, rows) for name in ("user", "item", "pair")}

    def user_block(
        self, users: Int32, timestamps_us: Int64 | int, contexts: Contexts | None = None
    ) -> Block:
        """Columns of users [n] at instants [n], in the contexts of their requests, else in those
        they were last in.
        """
        return self._block("user", self.log.rows_of_users(users, timestamps_us, contexts))

    def item_block(self, items: Int32, timestamps_us: Int64 | int) -> Block:
        """Columns of items [n] at instants [n]."""
        return self._block("item", self.log.rows_of_items(items, timestamps_us))

    def pair_block(
        self,
        users: Int32,
        items: Int32,
        timestamps_us: Int64 | int,
        recall: Mapping[str, Float64] = NO_COLUMNS,
    ) -> Block:
        """Columns of user x item pairs [n] at instants [n], and what recall says of them {name:
        float64 [n]}.
        """
        return self._block("pair", self.log.rows(users, items, timestamps_us, recall=recall))

    def columns(self, names: Iterable[str], rows: AsOfRows) -> dict[str, Float64]:
        """Some numbers of rows [n] by name, [n] each; what the log does not know is left out."""
        declared = {entry.name: entry for entry in self._single()}
        return {
            name: values
            for wanted in names
            for name, values in declared[wanted].columns(rows).items()
        }

    def _block(self, block: BlockName, rows: AsOfRows) -> Block:
        return Block(
            len(rows), self._of_kind(block, "number", rows), self._of_kind(block, "code", rows)
        )

    def _of_kind(self, block: BlockName, kind: Kind, rows: AsOfRows) -> dict[str, npt.NDArray[Any]]:
        entries = (entry for entry in self.catalogue if entry.block == block and entry.kind == kind)
        return {name: values for entry in entries for name, values in entry.columns(rows).items()}

    def _single(self) -> Iterable[AsOfFeature]:
        return (entry for entry in self.catalogue if isinstance(entry, AsOfFeature))

    def name_clashes(self) -> list[str]:
        """Side columns that are called like a feature which is made of the log, as `user_<name>`
        and `item_<name>`.
        """
        made = {entry.name for entry in self._single() if entry.needed <= self.log.knows}
        users, items = self.log.users, self.log.items
        # These item columns are what features are made of, under their own names.
        known = (CHANNEL, TOPICS, DURATION_SECONDS, PUBLISHED_AT)
        columns = [f"user_{name}" for name in (*users.numbers, *users.codes)]
        columns += [f"item_{name}" for name in (*items.numbers, *items.codes) if name not in known]
        return [name for name in columns if name in made]
