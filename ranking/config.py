"""What can be chosen about ranking."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class RankingConfig(BaseModel):
    """The ranking stage: how long the lists are, what the net looks like, how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int = Field(50, ge=1, le=10_000)
    objective: Literal["exact", "paper"] = "exact"
    hidden: tuple[PositiveInt, ...] = Field((128, 64), max_length=4)
    dropout: float = Field(0.1, ge=0, lt=1)
    vocabulary: int = Field(50_000, ge=0)
    vocabulary_clicks: int = Field(100, ge=1)
    quantiles: int = Field(128, ge=2, le=10_000)
    batch: int = Field(512, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    epochs: int = Field(12, ge=1)
    patience: int = Field(2, ge=1)
    validation_share: float = Field(0.1, gt=0, lt=1)
    negatives_per_user: int = Field(40, ge=1)
    seconds_cap_quantile: float = Field(0.99, gt=0.5, le=1)
