"""What each step of recall reads, calls and writes: files in, one call into a package, files out."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import Refused
from features.histories import Histories
from features.sides import Side
from features.windows import Windows, text_of
from funnel.epochs import draw_epochs
from funnel.lists import ArrayFile, Ranked, write_lists
from funnel.plots import index_sweep
from funnel.store import MEASURED
from funnel.work import VALIDATION, Work, listed_users, logs_impressions
from recall.blender import blend_in_shards
from recall.candidates import Candidates
from recall.config import RecallConfig
from recall.generators.base import Log, Snapshot
from recall.generators.retrieval import build_generators, switched_off
from recall.tower import Tower
from recall.train_blender import FittedBlender, fit_blender

if TYPE_CHECKING:
    from recall.train import Course

Int32 = npt.NDArray[np.int32]

# Users whose vectors the index is tried with: half choose its parameters, half must agree.
INDEX_QUERIES = 2000
# Users on whose lists the order of final lists is chosen.
VALIDATION_USERS = 10_000
# How the arrays of saved candidates are kept, by the first word of their names.
KINDS = {"items": "<i4", "scores": "<f4", "tower": "<f4", "rank": "<u2", "score": "<f4"}


def course_of(work: Work) -> "Course":
    """What the towers of a run are trained on."""
    from recall.checkpoints import Checkpoints
    from recall.train import Course

    ignored = work.inputs["histories"] / "ignored"
    return Course(
        knowledge=work.knowledge,
        ends=np.load(work.inputs["samples"] / "ends.npy"),
        windows=work.windows,
        config=work.config.recall,
        seed=work.config.seed,
        shown=Histories.load(ignored) if ignored.exists() else None,
        checkpoints=Checkpoints(work.scratch),
        on_epoch=work.on_epoch,
    )


def write_towers(work: Work) -> None:
    from recall.train import roll

    _refuse_long_lists(work)
    towers, epochs = roll(course_of(work))
    for number, tower in enumerate(towers):
        tower.save(work.out, f"tower_{number:02d}")
    work.write_json("epochs.json", epochs)
    draw_epochs(work, epochs, [_cut_off_text(tower, work.windows) for tower in towers])


def write_item_vectors(work: Work) -> None:
    np.save(work.out / "item_vectors.npy", work.towers[-1].item_vectors)


def write_index(work: Work) -> None:
    """The index, what it is, and the sweep it was chosen by; users as of labels_end are the sweep's queries."""
    from recall.index_tuning import tune_index

    users, tower = _sample(listed_users(work), INDEX_QUERIES, work.config.seed), work.towers[-1]
    queries = tower.user_vectors(work.readings.inputs_at(tower.shape, users, work.windows.labels_end))
    item_vectors = np.load(work.inputs["item_vectors"] / "item_vectors.npy")
    index, trials = tune_index(item_vectors, tower.catalogue, queries, work.config.recall)
    index.save(work.out / "items.faiss")
    (chosen,) = [trial for trial in trials if trial.chosen]
    names = ("kind", "parameters", "overlap", "overlap_held_out")
    work.write_json("index.json", {"items": len(index)} | {name: getattr(chosen, name) for name in names})
    (work.out / MEASURED).mkdir()
    table = pd.DataFrame([asdict(trial) for trial in trials])
    table.to_csv(work.out / MEASURED / "index_sweep.csv", index=False)
    index_sweep(table, work.config.recall.index_overlap, work.out / MEASURED / "index_sweep.png")


def write_candidates(work: Work) -> None:
    """Candidates as of labels_end for the users who get lists, and as of the last tower before it for users whose next
    watches are known (`validation/`); where the log does not say what was shown, also lists as of all towers' instants
    with labels."""
    from recall.index import ItemIndex
    from recall.labelled_lists import blend_slice, draw_validation_slice, labelled_lists

    config, log = work.config.recall, _generator_log(work)
    for name, reason in switched_off(config, log).items():
        work.tell(f"generator {name} is off: {reason}")
    fitted = fit_blender(config, log, work.towers, work.config.seed)
    work.write_json("blender.json", fitted.described())
    work.tell(_blender_text(fitted))
    index, users, blender = ItemIndex.load(work.inputs["index"] / "items.faiss"), listed_users(work), fitted.blender
    snapshot = Snapshot(log, work.windows.labels_end, work.towers[-1], index, users, blender.popularity)
    shards = blend_in_shards(build_generators(config, snapshot), blender, users, config)
    write_lists(work.out / "candidates.parquet", work.ids, _saved(work.out, config, users, shards), {}, ranks=True)
    validation = draw_validation_slice(
        log, work.towers, VALIDATION_USERS, np.random.default_rng([work.config.seed, 29])
    )
    blended = blend_slice(config, log, validation, blender)
    for _ in _saved(work.out / VALIDATION, config, validation.users, blended):
        pass
    if not logs_impressions(work):
        rng = np.random.default_rng([work.config.seed, 19])
        labelled_lists(config, log, work.towers, blender, rng).save(work.out)


def _refuse_long_lists(work: Work) -> None:
    """A k of one's own beyond the catalogue is a mistake; the default one gives short lists, which are reported."""
    k, items = work.config.recall.k, work.ids.items.size_as_of(work.windows.labels_end) - 1
    if k > items and k != RecallConfig.model_fields["k"].default:
        raise Refused(
            f"recall.k = {k} but the catalogue has {items:,} items before labels_end; choose at most as many as items."
        )


def _cut_off_text(tower: Tower, windows: Windows) -> str:
    """Until when a tower was trained, for people."""
    if windows.clock == "order":
        return (
            f"until {windows.described()['history_end' if tower.shape.as_of == windows.history_end else 'labels_end']}"
        )
    return f"until {text_of(tower.shape.as_of)[:16].replace('T', ' ')}"


def _generator_log(work: Work) -> Log:
    """What generators are made of."""
    clicks = Histories.load(work.inputs["histories"] / "clicks")
    items = Side.load(work.inputs["profiles"] / "items.parquet")
    features = work.features if logs_impressions(work) else None
    return Log(work.readings, clicks, work.ids.items, items, work.windows, features)


def _blender_text(fitted: FittedBlender) -> str:
    rates = [f"{name} {', '.join(f'{rate:.3f}' for rate in by_k.values())}" for name, by_k in fitted.rates.items()]
    lengths = next(iter(fitted.rates.values()), {})
    return f"blender: {fitted.blender.order}; {', '.join(lengths)} of validation users: {'; '.join(rates)}"


def _saved(folder: Path, config: RecallConfig, users: Int32, shards: Iterable[Candidates]) -> Iterator[Ranked]:
    """Blended lists of users, shard by shard, as they are written to a folder as arrays."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "users.npy", users)
    files: dict[str, ArrayFile] = {}
    for part in shards:
        arrays: dict[str, Any] = {"items": part.items, "scores": part.scores, "tower_scores": part.tower_scores}
        arrays |= {f"rank_{name}": of_generator for name, of_generator in part.ranks.items()}
        arrays |= {f"score_{name}": of_generator for name, of_generator in part.generator_scores.items()}
        for name, values in arrays.items():
            if name not in files:
                files[name] = ArrayFile(folder / f"{name}.npy", len(users), config.k, KINDS[name.split("_")[0]])
            files[name].append(values)
        yield Ranked(part.users, part.items, part.scores, part.ranks)
    (folder / "generators.json").write_text(json.dumps(list(part.ranks)))
    for file in files.values():
        file.close()


def _sample(users: Int32, most: int, seed: int) -> Int32:
    """At most so many of the users, ascending."""
    return np.sort(np.random.default_rng([seed, len(users)]).permutation(users)[:most])
