"""What can be chosen about candidate generation."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

SamplerName = Literal["uniform", "unigram", "in_batch", "mixed"]
AgeName = Literal["none", "hours", "days", "normalised"]
GeneratorName = Literal[
    "tower",
    "item_to_item",
    "co_visitation",
    "popular",
    "followed_channels",
    "new_items",
    "expected_watch",
    "rewatch",
]
GENERATORS: tuple[GeneratorName, ...] = (
    *(
        "tower",
        "item_to_item",
        "co_visitation",
        "popular",
        "followed_channels",
        "new_items",
        "expected_watch",
    ),
)
IndexName = Literal["auto", "exact", "ivf", "pq"]


class RecallConfig(BaseModel):
    """The recall stage: how many candidates, the tower's shape, and how it is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    k: int = Field(200, ge=1, le=10_000, description="Number of candidates a user.")

    dim: int = Field(
        64, ge=1, le=1024, description="Width of the user and item vectors, in numbers."
    )
    depth: int = Field(
        2, ge=0, le=4, description="Number of hidden layers of the tower (paper, section 3.5)."
    )
    width: int = Field(
        256,
        ge=1,
        le=4096,
        description="Units of the last hidden layer; each layer before it has twice as many "
        "(paper, section 3.5: a "
        "tower).",
    )
    dropout: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of the embedded inputs of the tower that a training step leaves out.",
    )
    metric: Literal["cosine", "dot"] = Field(
        "cosine",
        description="Similarity of user and item that is trained and that the index searches: "
        "`cosine` at a "
        "temperature of 0.1, or the `dot` product (paper, section 3.1).",
    )
    pretraining: Literal["none", "word2vec"] = Field(
        "none",
        description="What the embeddings of watched items start from: `none` is random, `word2vec` "
        "is trained on "
        "histories.",
    )

    history: int = Field(
        50,
        ge=1,
        le=1000,
        description="Number of a user's last completed watches that the tower reads (paper, "
        "section 3.5: 50).",
    )
    recency_windows: tuple[PositiveInt, ...] = Field(
        (1, 3, 10, 50),
        description="Numbers of last watches, each averaged into one input (paper, section 3.2: "
        "one average); "
        "`history` is always among them.",
    )
    example_age: AgeName = Field(
        "normalised",
        description="Unit of the age of a training example, an input that is 0 at serving (paper, "
        "section 3.3): "
        "`hours`, `days`, `normalised` to the log's length, or `none` for no such input.",
    )

    sampler: SamplerName = Field(
        "mixed",
        description="Where the shared, logQ-corrected negatives of a step come from (paper, "
        "section 3.1): `uniform`, "
        "`unigram` (watches^0.75), `in_batch` (the step's own watches), or `mixed` (`in_batch` and "
        "`uniform`).",
    )
    negatives: int = Field(
        1024,
        ge=1,
        le=1_000_000,
        description="Number of shared negatives that a step draws; `in_batch` draws none.",
    )
    shown_negatives: int = Field(
        0,
        ge=0,
        le=100,
        description="Number of further negatives for each watch: the newest items that its user "
        "was shown and did not "
        "click.",
    )
    damping: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Threshold of word2vec's subsampling of popular items as examples, a share of "
        "all watches; 0 is "
        "off.",
    )
    examples_per_user: int = Field(
        200,
        ge=1,
        description="Examples that one user gives to an epoch at most, so that all users weigh "
        "alike (paper, section "
        "3.4).",
    )

    batch: int = Field(
        1024, ge=1, description="Examples a training step at most; a small log takes smaller steps."
    )
    learning_rate: float = Field(6e-3, gt=0, description="Learning rate of Adam at the start.")
    epochs: int = Field(
        40,
        ge=1,
        description="Epochs of the first tower at most; the validation watches choose how many.",
    )
    epoch_examples: int = Field(500_000, ge=1, description="Examples an epoch at most.")
    patience: int = Field(
        1,
        ge=1,
        description="Epochs without a better validation before the learning rate falls, and then "
        "before training ends.",
    )
    refresh_epochs: int = Field(
        3, ge=1, description="Epochs by which each block refreshes the tower."
    )
    blocks: int = Field(
        16,
        ge=1,
        le=100,
        description="Number of blocks, of whole hours, days or weeks, that the log before "
        "`test_start` is cut into at most: a quarter warms the tower up, each later one refreshes "
        "it.",
    )
    label_users: int = Field(
        20_000,
        ge=1,
        description="Users, over all instants, whose lists are made as of earlier instants to "
        "train and validate the "
        "ranker.",
    )
    index: IndexName = Field(
        "auto",
        description="Index that finds the nearest items: `exact`, `ivf` (inverted lists), `pq` "
        "(with 4-bit codes), or "
        "`auto`, exact up to 100,000 items and approximate above them.",
    )
    index_overlap: float = Field(
        0.99,
        gt=0,
        le=1,
        description="Share of the exact index's `k` nearest items that an approximate index must "
        "find to be used.",
    )
    generators: tuple[GeneratorName, ...] = Field(
        GENERATORS,
        min_length=1,
        description="Candidate generators, `tower` or `popular` among them; only `rewatch` is off "
        "by default, and "
        "those whose inputs the log lacks stay off.",
    )
    generator_items: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Items that a generator retrieves for each user; generators that fill lists "
        "retrieve at least `k`.",
    )
    blend: Literal["fitted", "round_robin"] = Field(
        "fitted",
        description="How candidates of several generators become one list: `fitted` to what users "
        "watched next, or "
        "`round_robin`.",
    )
    expected_watch_share: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Share of the `k` candidates kept for what would be watched longest, where the "
        "generator "
        "`expected_watch` is in force.",
    )
    blend_users: int = Field(
        10_000,
        ge=1,
        description="Users, over all instants, to whose next watches the blender is fitted.",
    )

    @field_validator("generators")
    @classmethod
    def _fills_lists(cls, generators: tuple[GeneratorName, ...]) -> tuple[GeneratorName, ...]:
        if len(set(generators)) < len(generators) or not {"tower", "popular"} & set(generators):
            raise ValueError(
                "generators are different and tower or popular is among them: the others cannot "
                "fill a list"
            )
        return generators

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers, halving down to `width` (paper, section 3.5: a tower)."""
        return tuple(self.width << layer for layer in reversed(range(self.depth)))
