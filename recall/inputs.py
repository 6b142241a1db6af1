"""What a tower is told of users at instants, by one function for training and serving, and of its
items.

A tower of an instant knows sizes, side columns and ranges as they stood then, and its items' facts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt

from features.arrays import Float32, Float64, Int32, Int64
from features.histories import Histories
from features.schema import HOUR, PUBLISHED_AT
from features.side_features import SideFeatures
from features.vocabulary import Vocabulary
from recall.config import RecallConfig
from recall.tower import ItemFacts, TowerInputs, TowerSpec, category_dim

# A category that holds fewer users than this on average names its users instead of describing them.
USERS_A_CATEGORY = 20
# The newest tokens of what a user searched for (paper, section 3.3).
SEARCH_TOKENS = 50
# What the cosine of a user and an item is divided by before the softmax.
TEMPERATURE = 0.1
AGE_HOURS = "age_hours"


@dataclass(frozen=True)
class UserInputs:
    """All that towers may read: watch histories, search tokens (None where there are none), users'
    side columns.
    """

    histories: Histories
    searches: Histories | None
    users: SideFeatures

    def inputs_at(self, shape: TowerSpec, users: Int32, timestamps_us: Int64 | int) -> TowerInputs:
        """The tower's inputs for requests: users [n] at instants [n], from what came strictly
        before.
        """
        as_of = np.broadcast_to(np.asarray(timestamps_us, np.int64), users.shape)
        return self.inputs(shape, users, self.histories.ends(users, as_of), as_of)

    def inputs(
        self, shape: TowerSpec, users: Int32, ends: Int64, timestamps_us: Int64
    ) -> TowerInputs:
        """As `inputs_at`, the ends of the watch histories being known, [n]. What the tower never
        knew reads as 0.
        """
        watches = known_codes(self.histories.bags(users, ends, shape.bag), shape.items)
        categories = {
            n: known_codes(self.users.codes[n][users], size) for n, size in shape.categories.items()
        }
        none = np.zeros(len(users), np.float32)
        return TowerInputs(
            watches,
            self._tokens(shape, users, timestamps_us),
            categories,
            self._numbers(shape, users),
            none,
        )

    def _tokens(self, shape: TowerSpec, users: Int32, timestamps_us: Int64) -> Int32:
        if self.searches is None or not shape.token_bag:
            return np.zeros((len(users), 0), np.int32)
        ends = self.searches.ends(users, timestamps_us)
        return known_codes(self.searches.bags(users, ends, shape.token_bag), shape.tokens)

    def _numbers(self, shape: TowerSpec, users: Int32) -> Float32:
        columns = [
            scaled(self.users.numbers[name][users], *range_)
            for name, range_ in shape.numbers.items()
        ]
        return powers_of(columns, len(users))


def powers_of(columns: Sequence[Float64], rows: int) -> Float32:
    """Numbers in [0, 1] side by side, each with its square and root (paper, section 4.1): [rows, 3
    a number].
    """
    named = [power for x in columns for power in (x, x**2, np.sqrt(x))]
    return np.stack(named, axis=1).astype(np.float32) if named else np.zeros((rows, 0), np.float32)


def known_codes(indexes: Int32, size: int) -> Int32:
    """Indexes with those that came later, at or beyond `size`, as 0: unknown."""
    return np.where(indexes < size, indexes, 0).astype(np.int32)


def scaled(values: Float64, low: float, high: float) -> Float64:
    """Numbers as shares of the way from low to high, in [0, 1]; unknown (NaN) = 0."""
    return np.nan_to_num(np.clip((values - low) / max(high - low, 1e-9), 0, 1), nan=0.0)


@dataclass(frozen=True)
class ModelInputs:
    """Everything towers may be told: inputs of users, vocabularies, the items' side columns;
    `timed`: hours exist.
    """

    user_inputs: UserInputs
    items: Vocabulary
    tokens: Vocabulary | None
    side: SideFeatures
    timed: bool

    def before(self, as_of: int) -> "ModelInputs":
        """What was known strictly before an instant: more log changes nothing of it."""
        inputs = self.user_inputs
        users = inputs.histories.users_before(as_of)
        searches = None if inputs.searches is None else inputs.searches.before(as_of, users)
        items = self.items.before(as_of)
        return ModelInputs(
            UserInputs(inputs.histories.before(as_of, users), searches, inputs.users.first(users)),
            items,
            None if self.tokens is None else self.tokens.before(as_of),
            self.side.first(len(items)),
            self.timed,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of all that is in them."""
        found = sha256()
        histories, vocabularies = (
            (self.user_inputs.histories, self.user_inputs.searches),
            (self.items, self.tokens),
        )
        for each in histories:
            found.update(b"-" if each is None else each.digest.encode())
        for vocabulary in vocabularies:
            for array in (
                () if vocabulary is None else (vocabulary.first_seen, vocabulary.first_shown)
            ):
                found.update(b"-" if array is None else np.ascontiguousarray(array).data)
        for side in (self.user_inputs.users, self.side):
            columns: list[tuple[str, npt.NDArray[Any]]] = [
                *side.codes.items(),
                *side.numbers.items(),
            ]
            for name, values in columns:
                found.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return found.hexdigest()


def spec_of(model_inputs: ModelInputs, config: RecallConfig, as_of: int) -> TowerSpec:
    """The shape of a tower of an instant: vocabularies and side columns of those who had come by
    then.
    """
    tokens = model_inputs.tokens
    size, histories = model_inputs.items.size_as_of(as_of), model_inputs.user_inputs.histories
    users = histories.users_before(as_of)
    categories = _categories(model_inputs.user_inputs.users, users)
    categories = {name: n for name, n in categories.items() if n * USERS_A_CATEGORY <= users}
    return TowerSpec(
        as_of=as_of,
        items=size,
        dim=config.dim,
        hidden=config.hidden,
        recency_windows=tuple(
            sorted({*(w for w in config.recency_windows if w < config.history), config.history})
        ),
        metric=config.metric,
        temperature=TEMPERATURE if config.metric == "cosine" else 1.0,
        categories=categories,
        category_dims={name: category_dim(n) for name, n in categories.items()},
        numbers=_ranges(model_inputs.user_inputs.users.numbers, users),
        tokens=tokens.size_as_of(as_of) if tokens else 0,
        token_bag=SEARCH_TOKENS if tokens else 0,
        example_age=config.example_age != "none" and model_inputs.timed,
        item_categories=_categories(model_inputs.side, size),
        item_numbers=_ranges(_item_numbers(model_inputs, as_of), size),
    )


def grown_spec(
    old: TowerSpec, model_inputs: ModelInputs, config: RecallConfig, as_of: int
) -> TowerSpec:
    """The shape of a later instant that a tower of `old` can grow into: more rows, the same layers
    and ranges.
    """
    fresh = spec_of(model_inputs, config, as_of)
    kept = ("category_dims", "numbers", "item_numbers")
    return fresh.model_copy(
        update={name: getattr(old, name) for name in kept}
        | {
            "categories": {
                name: max(size, fresh.categories.get(name, 0))
                for name, size in old.categories.items()
            }
        }
        | {
            "item_categories": {
                name: max(size, fresh.item_categories.get(name, 0))
                for name, size in old.item_categories.items()
            }
        }
    )


def facts_of(model_inputs: ModelInputs, shape: TowerSpec) -> ItemFacts:
    """The facts of the items a tower knows: side codes, values in [0, 1] with their powers, which
    may be listed.

    With side features every item that exists has a vector; without them only what had been shown to
    somebody.
    """
    columns = _item_numbers(model_inputs, shape.as_of)
    values = [
        scaled(columns[name][: shape.items], *range_) for name, range_ in shape.item_numbers.items()
    ]
    side = model_inputs.side.codes
    codes = {
        name: known_codes(side[name][: shape.items], size)
        for name, size in shape.item_categories.items()
    }
    shown = model_inputs.items.shown_as_of(shape.as_of)[: shape.items]
    listed = np.arange(shape.items) > 0 if shape.item_categories or shape.item_numbers else shown
    return ItemFacts(codes, powers_of(values, shape.items), listed)


def _categories(side: SideFeatures, size: int) -> dict[str, int]:
    """Number of codes of each category among the first indexes; a category of one value says
    nothing.
    """
    sizes = {name: int(codes[:size].max(initial=0)) + 1 for name, codes in side.codes.items()}
    return {name: n for name, n in sizes.items() if n > 2}


def _ranges(numbers: dict[str, Float64], size: int) -> dict[str, tuple[float, float]]:
    """Least and largest value of each number among the first indexes, where any is known."""
    known = {name: values[:size][~np.isnan(values[:size])] for name, values in numbers.items()}
    return {
        name: (float(v.min()), float(v.max()))
        for name, v in known.items()
        if len(v) and v.min() < v.max()
    }


def _item_numbers(model_inputs: ModelInputs, as_of: int) -> dict[str, Float64]:
    """The items' numbers; seconds and ages span powers of ten, so they count by their logarithm."""
    columns = {
        name: values for name, values in model_inputs.side.numbers.items() if name != PUBLISHED_AT
    }
    published = model_inputs.side.numbers.get(PUBLISHED_AT)
    if published is not None and model_inputs.timed:
        columns[AGE_HOURS] = np.maximum(as_of - published, 0) / HOUR
    return {name: np.sign(values) * np.log1p(np.abs(values)) for name, values in columns.items()}
