"""Index tuning: an approximate index is published only where it finds what the exact one finds."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from features.arrays import Float32, Int32
from features.timeline import pair_keys
from recall.config import RecallConfig
from recall.index import ItemIndex, approximate_index_of, cells_of, index_of

Settings = dict[str, int]

# Fewer items than these cannot fill the cells and codebooks of an approximate index.
FEWEST = 1000
# `auto` stays exact up to so many items: searching them all takes less than sweeping an approximate
# index.
EXACT_UP_TO = 100_000
# `auto` tries these in this order: codes are scanned several times faster than vectors, and the
# refinement gives the overlap back.
AUTO = ("pq", "ivf")


@dataclass(frozen=True)
class Trial:
    """One row of the sweep: a kind of index, its parameters, and what they came to beside the exact
    index.

    `overlap` is the mean share of the exact k best that were found, on the queries that choose the
    parameters; `overlap_held_out` that on the others, NaN where the first was too low to ask.
    Speeds are those of the machine.
    """

    kind: str
    parameters: str
    overlap: float
    overlap_held_out: float
    queries_per_second: float
    ratio_to_exact: float
    megabytes: float
    build_seconds: float
    chosen: bool = False


def tune_index(
    item_vectors: Float32,
    items: Int32 | None,
    queries: Float32,
    config: RecallConfig,
    repeats: int = 1,
) -> tuple[ItemIndex, list[Trial]]:
    """The index of `index_of` as `config.index` wants it, approximate only if it is as good as
    exact; and the sweep.

    Parameters are raised until the overlap at k passes `config.index_overlap` on every second of
    the queries [q, dim], and then on the others too; where nothing passes, the exact index is
    returned. Speed decides nothing, so that equal vectors give an equal index. Speeds are medians
    of `repeats` searches.
    """
    tuner = IndexTuner(item_vectors, items, queries, config, repeats)
    trials = [tuner.exact_trial]
    for kind in _kinds(config, item_vectors, len(tuner.exact), len(queries)):
        index, tried = tuner.raised(kind)
        trials += tried
        if trials[-1].chosen:
            return index, trials
    return tuner.exact, [replace(tuner.exact_trial, chosen=True), *trials[1:]]


class IndexTuner:
    """Compares indexes with the exact one, on queries that choose and on queries that only say yes
    or no.

    Its arguments are those of `tune_index`.
    """

    def __init__(
        self,
        item_vectors: Float32,
        items: Int32 | None,
        queries: Float32,
        config: RecallConfig,
        repeats: int = 1,
    ) -> None:
        began = time.perf_counter()
        self.vectors, self.exact = item_vectors, index_of(item_vectors, items)
        build_seconds = time.perf_counter() - began
        self.k, self.target, self.repeats = (
            max(1, min(config.k, len(self.exact))),
            config.index_overlap,
            repeats,
        )
        self.choosing, self.in_test = queries[::2], queries[1::2]
        self.truth, self.seconds = _timed(self.exact, self.choosing, self.k, repeats)
        self.truth_held_out = self.exact.search(self.in_test, self.k)[0]
        speed = _rate(len(self.choosing), self.seconds)
        self.exact_trial = Trial(
            "exact", "", 1.0, 1.0, speed, 1.0, self.exact.megabytes, build_seconds
        )

    def raised(self, kind: str) -> tuple[ItemIndex, list[Trial]]:
        """An index of a kind with ever higher parameters: of the next higher ones always those that
        gained most.

        The last trial is chosen if it passes; its parameters are those the index is left with.
        """
        began = time.perf_counter()
        index = approximate_index_of(kind, self.vectors, self.exact.items)
        base = Trial(kind, "", 0, np.nan, 0, 0, index.megabytes, time.perf_counter() - began)
        ladders = _ladders(kind, index, self.k)
        settings = {name: ladder[0] for name, ladder in ladders.items()}
        trials = [self._tried(base, index, settings)]
        while not trials[-1].chosen and (higher := list(_one_higher(settings, ladders))):
            found = [self._tried(base, index, settings) for settings in higher]
            best = max(range(len(found)), key=lambda at: (found[at].chosen, found[at].overlap))
            settings = higher[best]
            trials += [*(trial for trial in found if trial is not found[best]), found[best]]
        index.tune(settings)
        return index, [*(replace(trial, chosen=False) for trial in trials[:-1]), trials[-1]]

    def _tried(self, base: Trial, index: ItemIndex, settings: Settings) -> Trial:
        index.tune(settings)
        found, seconds = _timed(index, self.choosing, self.k, self.repeats)
        overlap, in_test = _overlap(found, self.truth), np.nan
        if overlap >= self.target:
            in_test = _overlap(index.search(self.in_test, self.k)[0], self.truth_held_out)
        return replace(
            base,
            parameters=", ".join(f"{name} {value}" for name, value in settings.items()),
            overlap=overlap,
            overlap_held_out=in_test,
            queries_per_second=_rate(len(found), seconds),
            ratio_to_exact=self.seconds / seconds,
            chosen=bool(in_test >= self.target),
        )


def _kinds(config: RecallConfig, vectors: Float32, items: int, queries: int) -> Sequence[str]:
    """The approximate kinds to try, in order; none for few or infinite vectors, or without two
    halves of queries.
    """
    small = items < FEWEST or (config.index == "auto" and items <= EXACT_UP_TO)
    if (
        small
        or config.index == "exact"
        or queries < 2
        or not np.isfinite(vectors.sum(dtype=np.float64))
    ):
        return ()
    return AUTO if config.index == "auto" else (config.index,)


def _ladders(kind: str, index: ItemIndex, k: int) -> dict[str, list[int]]:
    """The values of a kind's parameters, rising; they end where a quarter of the catalogue would be
    looked at.
    """
    most = max(len(index) // 4, k)
    cells = cells_of(len(index))
    # Fewer cells than hold about 2k vectors would leave most searches short.
    probes = {"nprobe": _steps(max(4, 2 * k * cells // len(index)), cells // 4)}
    return probes | ({"k_factor_rf": _steps(2, max(most // k, 2))} if kind == "pq" else {})


def _steps(first: int, last: int) -> list[int]:
    """first, then 2, 3, 4, 6, 8, 12, 16, 24, .. up to last, as far as they are larger."""
    powers = 2 ** np.arange(1, 31)
    values = np.sort(np.concatenate([powers, powers * 3 // 2]))
    return [first, *values[(values > first) & (values <= last)].tolist()]


def _one_higher(settings: Settings, ladders: dict[str, list[int]]) -> Iterator[Settings]:
    """The settings with one of them raised by a step, for each that has a step left."""
    for name, ladder in ladders.items():
        place = ladder.index(settings[name]) + 1
        if place < len(ladder):
            yield settings | {name: ladder[place]}


def _timed(index: ItemIndex, queries: Float32, k: int, repeats: int) -> tuple[Int32, float]:
    """The items found, and the median of seconds taken."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        found = index.search(queries, k)[0]
        seconds.append(time.perf_counter() - began)
    return found, float(np.median(seconds))


def _rate(queries: int, seconds: float) -> float:
    return queries / seconds if seconds else 0.0


def _overlap(found: Int32, truth: Int32) -> float:
    """Mean share of the true items [n, k] that were found."""
    rows = np.arange(len(truth))[:, None]
    return float(np.isin(pair_keys(rows, truth), pair_keys(rows, found)).mean())
