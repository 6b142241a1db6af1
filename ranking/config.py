"""What can be chosen about ranking, and about the evaluation of its lists where they were not shown."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

Objective = Literal["exact", "paper", "click", "multi_task"]


class PreRankConfig(BaseModel):
    """The switch between recall and ranking: how many of recall's candidates a light scorer leaves to the ranker.

    0, the default, is off: the ranker reads them all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: int = Field(0, ge=0, le=10_000)


class RankingConfig(BaseModel):
    """The ranking stage: how long the lists are, what the net looks like, how it is trained.

    Lists are ordered by log E[T | shown] + `chance_weight` log P(next); None: chosen on the validation window's lists.
    `powers` feeds x^2 and sqrt(x) beside each number x.
    `measured_in`: the odds of `exact` and of `multi_task` are of seconds, or of watches as long as the item is.
    Where the log does not say what was shown, rows are recall's lists, thinned to `negatives_per_user` unwatched items;
    without `hard_negatives` these are any items of the catalogue. With `recall_prior` the net starts from recall's log
    chance of a candidate, and learns what to change.
    `pairwise` weighs the order of rows by their seconds beside the odds of the objectives `exact` and `paper`.
    `without` names columns that the net does not read, by shell patterns: what they are worth is what is lost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int = Field(50, ge=1, le=10_000)
    chance_weight: float | None = Field(None, ge=0)
    objective: Objective = "exact"
    measured_in: Literal["seconds", "length"] = "length"
    pairwise: float = Field(1.0, ge=0)
    hidden: tuple[PositiveInt, ...] = Field((256, 128, 64), max_length=4)
    dropout: float = Field(0.0, ge=0, lt=1)
    powers: bool = True
    vocabulary: int = Field(50_000, ge=0)
    vocabulary_clicks: int = Field(100, ge=1)
    quantiles: int = Field(128, ge=2, le=10_000)
    batch: int = Field(512, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    epochs: int = Field(12, ge=1)
    patience: int = Field(6, ge=1)
    validation_share: float = Field(0.1, gt=0, lt=1)
    refit: bool = True
    recall_prior: bool = True
    hard_negatives: bool = True
    negatives_per_user: int = Field(40, ge=1)
    seconds_cap_quantile: float = Field(0.99, gt=0.5, le=1)
    calibration: Literal["none", "scale"] = "scale"
    without: tuple[str, ...] = ()

    @field_validator("without")
    @classmethod
    def _declared(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        # The catalogue brings compiled code: it is read where something is left out, not wherever settings are.
        from features.asof_catalogue import is_declared

        for pattern in patterns:
            if not is_declared(pattern):
                raise ValueError(f"no feature is called {pattern}; docs/features.md has them all")
        return patterns


class OffPolicyConfig(BaseModel):
    """The policy that is evaluated, a softmax over the first `k` places of a list, and when an estimate is refused.

    `random_exposure` says that the log showed all items of its catalogue alike: it then needs no propensities.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(50, ge=1, le=1_000)
    temperature: float = Field(1.0, gt=0)
    least_effective_sample: float = Field(100.0, ge=1)
    random_exposure: bool = False
