"""What can be chosen about ranking, and about the evaluation of its lists where they were not
shown.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

Objective = Literal["exact", "paper", "click", "multi_task"]


class PreRankConfig(BaseModel):
    """The switch between recall and ranking: how many of recall's candidates a light scorer leaves
    to the ranker.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Number of recall's candidates that a light scorer, distilled from the ranker, "
        "leaves to it; 0 is "
        "off and the ranker reads all.",
    )


class RankingConfig(BaseModel):
    """The ranking stage: how long the lists are, what the net looks like, how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int = Field(50, ge=1, le=10_000, description="Number of recommendations a user.")
    chance_weight: float | None = Field(
        None,
        ge=0,
        description="Weight lambda in the order of lists, log E[T | shown] + lambda log P(next); 0 "
        "is the paper's "
        "order; unset, it is chosen on the validation window's lists.",
    )
    objective: Objective = Field(
        "exact",
        description="What the odds are trained to be: `exact` E[T], `paper` E[T] / (1 - p) "
        "(section 4.2), `click` "
        "only clicks, or `multi_task` clicks, and E[T] given one.",
    )
    measured_in: Literal["seconds", "length"] = Field(
        "length",
        description="Unit of the odds of `exact` and `multi_task` in training: `seconds`, or "
        "`length` for multiples "
        "of the item's duration; served values are in seconds either way.",
    )
    pairwise: float = Field(
        1.0,
        ge=0,
        description="Weight of the order of rows by their seconds beside the odds of `exact` and "
        "`paper`; 0 leaves it "
        "out, as the paper does.",
    )
    hidden: tuple[PositiveInt, ...] = Field(
        (256, 128, 64),
        max_length=4,
        description="Units of each hidden layer, up to four layers; none for a linear model "
        "(paper, section 4.3).",
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the units of each hidden layer that a training step leaves out.",
    )
    powers: bool = Field(
        True,
        description="Whether x^2 and sqrt(x) are read beside each number x in [0, 1] (paper, "
        "section 4.1).",
    )
    vocabulary: int = Field(
        50_000,
        ge=0,
        description="Ids that have an embedding of their own at most, in each id space, the most "
        "clicked first "
        "(paper, section 4.1).",
    )
    vocabulary_clicks: int = Field(
        100, ge=1, description="Clicks that an id must have to get an embedding of its own."
    )
    quantiles: int = Field(
        128,
        ge=2,
        le=10_000,
        description="Points at which a number's distribution is kept to normalise it to [0, 1] "
        "(paper, section 4.1).",
    )
    batch: int = Field(512, ge=1, description="Rows a training step.")
    learning_rate: float = Field(
        2e-3, gt=0, description="Learning rate of AdamW at the start; it falls to 0 along a cosine."
    )
    weight_decay: float = Field(
        0.1,
        ge=0,
        description="Weight decay of the dense layers' kernels; a long training gets "
        "proportionally less.",
    )
    epochs: int = Field(
        12,
        ge=1,
        description="Epochs at most, and of a large log at most 2,000 steps; the validation rows "
        "choose how many.",
    )
    patience: int = Field(
        4,
        ge=1,
        description="Epochs that end training where they lower the validation loss by less than "
        "a thousandth.",
    )
    validation_share: float = Field(
        0.1, gt=0, lt=1, description="Share of the rows, the last by time, that validate."
    )
    refit: bool = Field(
        True,
        description="Whether the net is trained again on all rows once the validation rows have "
        "chosen the epoch.",
    )
    recall_prior: bool = Field(
        True,
        description="Whether the net starts from recall's log chance of a candidate and learns "
        "what to change, where "
        "the log does not say what was shown.",
    )
    hard_negatives: bool = Field(
        True,
        description="Whether unwatched rows are of recall's lists rather than any items of the "
        "catalogue, where the "
        "log does not say what was shown.",
    )
    negatives_per_user: int = Field(
        40, ge=1, description="Unwatched rows a list, where the log does not say what was shown."
    )
    seconds_cap_quantile: float = Field(
        0.99,
        gt=0.5,
        le=1,
        description="Quantile of clicked watch seconds to which longer ones are cut in training; a "
        "final scale "
        "restores the mean.",
    )
    calibration: Literal["none", "scale"] = Field(
        "scale",
        description="How the level of predicted seconds is corrected: `scale` by one factor from "
        "the validation rows, "
        "or `none`.",
    )
    without: tuple[str, ...] = Field(
        (),
        description="Columns that the net does not read, by name or shell pattern; "
        "`docs/features.md` has their names.",
    )

    @field_validator("without")
    @classmethod
    def _declared(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        # The catalogue brings compiled code: it is read where something is left out, not wherever
        # settings are.
        from features.asof_catalogue import is_declared

        for pattern in patterns:
            if not is_declared(pattern):
                raise ValueError(f"no feature is called {pattern}; docs/features.md has them all")
        return patterns


class OffPolicyConfig(BaseModel):
    """The policy that is evaluated, a softmax over the first `k` places of a list, and when an
    estimate is refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(
        50,
        ge=1,
        le=1_000,
        description="Places of a list over which the policy that is evaluated chooses, at most the "
        "list's length.",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="Temperature of that policy, the softmax of -log(place) / temperature.",
    )
    least_effective_sample: float = Field(
        100.0,
        ge=1,
        description="Effective sample, in logged slots, below which there is no estimate.",
    )
    random_exposure: bool = Field(
        False,
        description="Whether the log showed items uniformly at random; the propensity is then 1 / "
        "the number of items "
        "known.",
    )


class ReRankConfig(BaseModel):
    """The re-rank stage, all of it off by default; it chooses among the ranker's first `pool`
    allowed items.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pool: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Number of the ranker's first allowed items from which a list is chosen, at "
        "least `ranking.top_k`.",
    )
    head: int = Field(
        10, ge=1, le=1_000, description="Number of first places in which `channel_cap` holds."
    )
    diversity: Literal["none", "mmr"] = Field(
        "none",
        description="How items that resemble those above them are moved down: `mmr` (maximal "
        "marginal relevance on "
        "item vectors), or `none`.",
    )
    strength: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Weight of difference against relevance from 0 to 1, where 1 is difference "
        "alone.",
    )
    channel_cap: int = Field(
        0,
        ge=0,
        description="Items of one channel in the first `head` places at most, as far as the pool "
        "has others; 0 is off.",
    )
    exclusions: str | None = Field(
        None,
        description="Path of a table (Parquet or CSV) of item_id, and optionally user_id, of what "
        "is in no list.",
    )

    @property
    def switches(self) -> dict[str, "ReRankConfig"]:
        """Each switch that is on, by name, with all others off."""
        off = self.model_copy(update={"diversity": "none", "channel_cap": 0, "exclusions": None})
        alone = {
            self.diversity: ("diversity", self.diversity != "none"),
            "channel_cap": ("channel_cap", self.channel_cap > 0),
            "exclusions": ("exclusions", self.exclusions is not None),
        }
        return {
            n: off.model_copy(update={f: getattr(self, f)}) for n, (f, on) in alone.items() if on
        }
