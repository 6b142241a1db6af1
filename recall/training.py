"""How the tower rolls through the log: a warm-up, then a refresh a block, none seeing what it is judged by."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from features.histories import Histories
from features.vocabulary import Vocabulary
from features.windows import Windows
from recall.config import RecallConfig
from recall.inputs import Readings
from recall.negatives import Negatives, drawer
from recall.tower import Batch, TowerTrainer, grown_tower, new_tower
from recall.vectors import Tower, TowerInputs, TowerShape

Int64 = npt.NDArray[np.int64]
Epochs = list[dict[str, Any]]

JUDGED_AT, JUDGED_WATCHES, JUDGED_CELLS = 50, 5_000, 1 << 25
STEPS_AN_EPOCH, SMALLEST_BATCH = 250, 32


@dataclass(frozen=True)
class Course:
    """What towers are trained on: readings, the history end of each watch, vocabularies, the cut, the choices."""

    readings: Readings
    ends: Int64
    items: Vocabulary
    tokens: Vocabulary | None
    windows: Windows
    config: RecallConfig
    seed: int
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None

    @property
    def histories(self) -> Histories:
        return self.readings.histories


def edges_of(windows: Windows, blocks: int) -> list[int]:
    """The instants at which a tower is finished, first to last; the last is labels_end.

    Time clock: blocks as long as the label window, so that the recall scores of training rows are as fresh as
    those of the holdout; shorter where the log is too short for a warm-up of one block. Order clock: history_end.
    """
    if windows.clock == "order":
        return [windows.history_end, windows.labels_end]
    longest = (windows.labels_end - windows.start) // (blocks + 1)
    length = min(windows.labels_end - windows.history_end, longest)
    edges = [windows.labels_end - length * left for left in range(blocks, -1, -1)]
    # One tower is finished by history_end at the latest: candidates as of it must not know their labels.
    return [min(edges[0], windows.history_end), *edges[1:]]


def roll(course: Course) -> tuple[list[Tower], Epochs]:
    """The towers as of each edge, oldest first, and one row of loss and validation for each epoch.

    An epoch is at most `epoch_examples` random watches; the number of warm-up epochs is chosen on the watches between
    the first two edges. Time clock: each block then refreshes the tower (warm start, vocabulary grown). Order clock:
    the tower is fitted again on all but the holdout.
    """
    edges = edges_of(course.windows, course.config.blocks)
    untrained = new_tower(_shape(course, edges[0]), np.random.default_rng([course.seed, 0, 0]))
    trainer = TowerTrainer(untrained, course.config, course.seed)
    first = _warm_up(course, trainer, edges[1])
    towers, epochs = [first.tower], first.epochs
    for number, (since, as_of) in enumerate(itertools.pairwise(edges), start=1):
        if course.windows.clock == "order":
            fitted = _fit_again(course, trainer, as_of, first.best)
        else:
            fitted = _refresh(course, trainer, since, as_of, number)
        towers.append(fitted.tower)
        epochs += fitted.epochs
    return towers, epochs


@dataclass(frozen=True)
class _Fitted:
    tower: Tower
    epochs: Epochs
    best: int


def _warm_up(course: Course, trainer: TowerTrainer, judged_until: int) -> _Fitted:
    """Train until the hit rate on the watches that follow stops rising; keep the best epoch's weights."""
    as_of, rng = trainer.shape.as_of, np.random.default_rng([course.seed, 0])
    # Randomness of their own: how many watches follow must not reach the training through the stream it draws from.
    judged = _judged(course, as_of, judged_until, np.random.default_rng([course.seed, 0, 1]))
    epochs: Epochs = []
    best, best_rate, tower = 0, -1.0, trainer.tower
    for epoch in range(1, course.config.epochs + 1):
        row = _epoch(course, trainer, _positions(course, as_of), rng) | {"tower": 0, "epoch": epoch}
        trained = trainer.tower
        row[f"hit_rate@{JUDGED_AT}"] = rate = _hit_rate(course, trained, judged)
        epochs.append(row)
        course.on_epoch(row)
        if rate > best_rate:
            best, best_rate, tower = epoch, rate, trained
        elif epoch - best >= course.config.patience:
            break
    trainer.start(tower)
    return _Fitted(tower, epochs, best)


def _fit_again(course: Course, trainer: TowerTrainer, as_of: int, passes: int) -> _Fitted:
    trainer.start(new_tower(_shape(course, as_of), np.random.default_rng([course.seed, 1])))
    return _passes(course, trainer, _positions(course, as_of), passes, 1)


def _refresh(course: Course, trainer: TowerTrainer, since: int, as_of: int, number: int) -> _Fitted:
    rng = np.random.default_rng([course.seed, number])
    trainer.start(grown_tower(trainer.tower, _shape(course, as_of), rng))
    return _passes(course, trainer, _positions(course, as_of, since), course.config.refresh_epochs, number)


def _passes(course: Course, trainer: TowerTrainer, positions: Int64, passes: int, number: int) -> _Fitted:
    rng = np.random.default_rng([course.seed, number, 1])
    epochs: Epochs = []
    for epoch in range(1, passes + 1):
        epochs.append(_epoch(course, trainer, positions, rng) | {"tower": number, "epoch": epoch})
        course.on_epoch(epochs[-1])
    return _Fitted(trainer.tower, epochs, passes)


def _shape(course: Course, as_of: int) -> TowerShape:
    """What a tower of an instant may know: the vocabularies as they were, the sides that exist."""
    config, side = course.config, course.readings.users
    tokens = course.tokens if config.search_tokens else None
    return TowerShape(
        as_of=as_of,
        items=course.items.size_as_of(as_of),
        dim=config.dim,
        hidden=config.hidden,
        recency_windows=tuple(sorted({*(w for w in config.recency_windows if w < config.history), config.history})),
        categories=side.sizes,
        numbers=_ranges(side.numbers),
        tokens=tokens.size_as_of(as_of) if tokens else 0,
        token_bag=config.search_tokens if tokens else 0,
        example_age=config.example_age and course.windows.clock == "time",
    )


def _ranges(numbers: dict[str, npt.NDArray[np.float64]]) -> dict[str, tuple[float, float]]:
    """Least and largest value of each number that is known of anybody."""
    known = {name: values[~np.isnan(values)] for name, values in numbers.items()}
    return {name: (float(values.min()), float(values.max())) for name, values in known.items() if len(values)}


def _positions(course: Course, as_of: int, since: int | None = None) -> Int64:
    """Flat positions of the watches strictly before an instant, and not before `since`."""
    instants = course.histories.instants
    inside = instants < as_of if since is None else (instants < as_of) & (instants >= since)
    return np.flatnonzero(inside)


def _epoch(course: Course, trainer: TowerTrainer, positions: Int64, rng: np.random.Generator) -> dict[str, Any]:
    config = course.config
    chosen = capped(positions, course.histories.users[positions], config.examples_per_user, rng)[
        : config.epoch_examples
    ]
    draw = _drawer(course, trainer.shape)
    loss = trainer.fit(_batches(course, trainer.shape, chosen, lambda: draw(rng)))
    return {"loss": loss, "examples": len(chosen)}


def capped(positions: Int64, users: npt.NDArray[np.int32], cap: int, rng: np.random.Generator) -> Int64:
    """At most `cap` random positions of each user, shuffled: heavy users do not dominate (paper, section 3.4)."""
    order = np.lexsort((rng.random(len(positions)), users))
    of_user = users[order]
    turn = np.arange(len(order)) - np.searchsorted(of_user, of_user, side="left")
    return rng.permutation(positions[order[turn < cap]])


def _drawer(course: Course, shape: TowerShape) -> Callable[[np.random.Generator], Negatives]:
    before = course.histories.items[course.histories.instants < shape.as_of]
    counts = np.bincount(before, minlength=shape.items).astype(np.float64)
    return drawer(course.config.sampler, counts, course.config.negatives)


def _batches(course: Course, shape: TowerShape, positions: Int64, draw: Callable[[], Negatives]) -> Iterator[Batch]:
    # A small log takes smaller steps, so that an epoch is still many of them.
    size = min(course.config.batch, max(len(positions) // STEPS_AN_EPOCH, SMALLEST_BATCH, 1), max(len(positions), 1))
    # A last batch of another size would compile the step again; the shuffle leaves other examples out each epoch.
    for at in range(0, len(positions) - size + 1, size):
        chosen = positions[at : at + size]
        yield Batch(_example_inputs(course, shape, chosen), course.histories.items[chosen], draw())


def _example_inputs(course: Course, shape: TowerShape, positions: Int64) -> TowerInputs:
    """Inputs of watches as examples: example age is how long before the tower's instant they happened, in [0, 1]."""
    histories = course.histories
    instants = histories.instants[positions]
    inputs = course.readings.inputs(shape, histories.users[positions], course.ends[positions], instants)
    ages = (shape.as_of - instants) / max(shape.as_of - course.windows.start, 1)
    return inputs.aged(ages.astype(np.float32))


def _judged(course: Course, since: int, until: int, rng: np.random.Generator) -> Int64:
    """Positions of a sample of the watches between two instants: what the warm-up is judged by."""
    positions = _positions(course, until, since)
    return rng.permutation(positions)[:JUDGED_WATCHES]


def _hit_rate(course: Course, tower: Tower, positions: Int64) -> float:
    """Share of watches whose item is among the tower's first 50 of the whole catalogue.

    Unknown items miss, and so does what ties with 50 others or has no finite score: a tower that says nothing, or has
    diverged, is worth nothing.
    """
    histories, shape = course.histories, tower.shape
    slab = max(JUDGED_CELLS // shape.items, 1)
    hits = 0
    for at in range(0, len(positions), slab):
        chosen = positions[at : at + slab]
        instants = histories.instants[chosen]
        inputs = course.readings.inputs(shape, histories.users[chosen], course.ends[chosen], instants)
        hits += _hits(tower, tower.user_vectors(inputs) @ tower.item_vectors[1:].T, histories.items[chosen])
    return hits / len(positions) if len(positions) else 0.0


def _hits(tower: Tower, scores: npt.NDArray[np.float32], items: npt.NDArray[np.int32]) -> int:
    """How many of the items [n] are among the first 50 of their row of scores [n, items - 1]."""
    known = items < tower.shape.items
    own = scores[np.arange(len(items)), np.where(known, items - 1, 0)]
    not_below = (~(scores < own[:, None])).sum(axis=1)
    return int((known & (not_below <= JUDGED_AT)).sum())
