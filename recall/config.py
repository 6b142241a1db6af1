"""What can be chosen about candidate generation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

SamplerName = Literal["uniform", "unigram", "in_batch", "mixed"]
AgeName = Literal["none", "hours", "days", "normalised"]
GeneratorName = Literal[
    "tower", "item_to_item", "co_visitation", "popular", "followed_channels", "new_items", "expected_watch", "rewatch"
]
GENERATORS: tuple[GeneratorName, ...] = (
    *("tower", "item_to_item", "co_visitation", "popular", "followed_channels", "new_items", "expected_watch"),
)
IndexName = Literal["auto", "exact", "ivf", "pq"]


class RecallConfig(BaseModel):
    """The recall stage: how many candidates, the tower's shape, and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(200, ge=1, le=10_000)

    dim: int = Field(64, ge=1, le=1024)
    depth: int = Field(2, ge=0, le=4)
    width: int = Field(256, ge=1, le=4096)
    dropout: float = Field(0.2, ge=0, lt=1)
    metric: Literal["cosine", "dot"] = "cosine"
    pretraining: Literal["none", "word2vec"] = "none"

    history: int = Field(50, ge=1, le=1000)
    recency_windows: tuple[PositiveInt, ...] = (1, 3, 10, 50)
    example_age: AgeName = "normalised"

    sampler: SamplerName = "mixed"
    negatives: int = Field(1024, ge=1, le=1_000_000)
    shown_negatives: int = Field(0, ge=0, le=100)
    damping: float = Field(0.0, ge=0, le=1)
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
    generators: tuple[GeneratorName, ...] = Field(GENERATORS, min_length=1)
    generator_items: int = Field(100, ge=1, le=10_000)
    blend: Literal["fitted", "round_robin"] = "fitted"
    expected_watch_share: float = Field(0.25, ge=0, le=1)
    blend_users: int = Field(10_000, ge=1)

    @field_validator("generators")
    @classmethod
    def _fills_lists(cls, generators: tuple[GeneratorName, ...]) -> tuple[GeneratorName, ...]:
        if len(set(generators)) < len(generators) or not {"tower", "popular"} & set(generators):
            raise ValueError(
                "generators are different and tower or popular is among them: the others cannot fill a list"
            )
        return generators

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers, halving down to `width` (paper, section 3.2: a tower)."""
        return tuple(self.width << layer for layer in reversed(range(self.depth)))
