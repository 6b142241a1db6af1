"""What can be chosen about candidate generation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt

SamplerName = Literal["full", "uniform", "unigram", "mixed"]
IndexName = Literal["auto", "exact", "ivf", "hnsw", "pq"]


class RecallConfig(BaseModel):
    """The recall stage: how many candidates, the tower's shape, and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(200, ge=1, le=10_000)
    dim: int = Field(64, ge=1, le=1024)
    hidden: tuple[PositiveInt, ...] = Field((256,), max_length=4)
    dropout: float = Field(0.2, ge=0, lt=1)
    history: int = Field(50, ge=1, le=1000)
    recency_windows: tuple[PositiveInt, ...] = (1, 3, 10, 50)
    search_tokens: int = Field(50, ge=0, le=1000)
    example_age: bool = True
    sampler: SamplerName = "mixed"
    negatives: int = Field(1024, ge=1, le=1_000_000)
    examples_per_user: int = Field(200, ge=1)
    batch: int = Field(1024, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    epochs: int = Field(40, ge=1)
    epoch_examples: int = Field(500_000, ge=1)
    patience: int = Field(2, ge=1)
    refresh_epochs: int = Field(3, ge=1)
    blocks: int = Field(4, ge=1, le=100)
    label_users: int = Field(20_000, ge=1)
    index: IndexName = "auto"
    index_overlap: float = Field(0.99, gt=0, le=1)
    exact_up_to: int = Field(20_000, ge=0)
