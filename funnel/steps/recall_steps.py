"""What each step of recall reads, calls and writes: files in, one call into a package, files
out.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from features.arrays import Int32
from features.errors import InputError
from features.histories import Histories
from features.random_streams import Stream, rng_of
from features.side_features import SideFeatures
from features.split import Split, text_of
from funnel.context import VALIDATION, StepContext, listed_users, logs_impressions
from funnel.epochs import draw_epochs
from funnel.evaluation.plots import index_sweep
from funnel.lists import ArrayFile, Ranked, write_lists
from funnel.store import MEASURED
from recall.blender import blend_in_shards
from recall.candidates import Candidates
from recall.config import RecallConfig
from recall.generators.base import Log, Snapshot
from recall.generators.retrieval import build_generators, switched_off
from recall.tower import Tower
from recall.train_blender import FittedBlender, fit_blender

if TYPE_CHECKING:
    from recall.train import TrainingJob


# Users whose vectors the index is tried with: half choose its parameters, half must agree.
INDEX_QUERIES = 2000
# Users on whose lists the order of final lists is chosen.
VALIDATION_USERS = 10_000
# How the arrays of saved candidates are kept, by the first word of their names.
KINDS = {"items": "<i4", "scores": "<f4", "tower": "<f4", "rank": "<u2", "score": "<f4"}


def training_job_of(context: StepContext) -> "TrainingJob":
    """What the towers of a run are trained on."""
    from recall.checkpoints import Checkpoints
    from recall.train import TrainingJob

    ignored = context.inputs["histories"] / "ignored"
    return TrainingJob(
        model_inputs=context.model_inputs,
        ends=np.load(context.inputs["samples"] / "ends.npy"),
        split=context.split,
        config=context.config.recall,
        seed=context.config.seed,
        shown=Histories.load(ignored) if ignored.exists() else None,
        checkpoints=Checkpoints(context.scratch, context.parts),
        on_epoch=context.on_epoch,
        key=context.key,
    )


def write_towers(context: StepContext) -> None:
    from recall.train import train_incrementally

    _refuse_long_lists(context)
    trained: set[int] = set()

    def on_epoch(row: dict[str, Any]) -> None:
        trained.add(row["tower"])
        context.on_epoch(row)

    job = replace(training_job_of(context), on_epoch=on_epoch)
    towers, epochs = train_incrementally(job)
    context.tell(
        f"towers: {len(trained)} trained, {len(towers) - len(trained)} taken as earlier runs left "
        "them"
    )
    for number, tower in enumerate(towers):
        tower.save(context.out, f"tower_{number:02d}")
    context.write_json("epochs.json", epochs)
    draw_epochs(context, epochs, [_cut_off_text(tower, context.split) for tower in towers])


def write_item_vectors(context: StepContext) -> None:
    np.save(context.out / "item_vectors.npy", context.towers[-1].item_vectors)


def write_index(context: StepContext) -> None:
    """The index, what it is, and the sweep it was chosen by; users as of test_start are the sweep's
    queries.
    """
    from recall.index_tuning import tune_index

    tower, rng = context.towers[-1], rng_of(context.config.seed, Stream.INDEX_QUERIES)
    users = np.sort(rng.permutation(listed_users(context))[:INDEX_QUERIES])
    queries = tower.user_vectors(
        context.user_inputs.inputs_at(tower.shape, users, context.split.test_start)
    )
    item_vectors = np.load(context.inputs["item_vectors"] / "item_vectors.npy")
    index, trials = tune_index(item_vectors, tower.catalogue, queries, context.config.recall)
    index.save(context.out / "items.faiss")
    (chosen,) = [trial for trial in trials if trial.chosen]
    names = ("kind", "parameters", "overlap", "overlap_held_out")
    context.write_json(
        "index.json", {"items": len(index)} | {name: getattr(chosen, name) for name in names}
    )
    (context.out / MEASURED).mkdir()
    table = pd.DataFrame([asdict(trial) for trial in trials])
    table.to_csv(context.out / MEASURED / "index_sweep.csv", index=False)
    index_sweep(
        table, context.config.recall.index_overlap, context.out / MEASURED / "index_sweep.png"
    )


def write_candidates(context: StepContext) -> None:
    """Candidates as of test_start for the users who get lists, and as of the last tower before it
    for users whose next watches are known (`validation/`); where the log does not say what was
    shown, also lists as of all towers' instants with labels.
    """
    from recall.index import ItemIndex
    from recall.labelled_lists import blend_slice, draw_validation_slice, labelled_lists

    _refuse_long_lists(context)
    config, log = context.config.recall, _generator_log(context)
    for name, reason in switched_off(config, log).items():
        context.tell(f"generator {name} is off: {reason}")
    fitted = fit_blender(config, log, context.towers, context.config.seed)
    context.write_json("blender.json", fitted.described())
    context.tell(_blender_text(fitted))
    index, users, blender = (
        ItemIndex.load(context.inputs["index"] / "items.faiss"),
        listed_users(context),
        fitted.blender,
    )
    snapshot = Snapshot(
        log, context.split.test_start, context.towers[-1], index, users, blender.popularity
    )
    shards = blend_in_shards(build_generators(config, snapshot), blender, users, config)
    write_lists(
        context.out / "candidates.parquet",
        context.ids,
        _saved(context.out, config, users, shards),
        {},
        ranks=True,
    )
    validation = draw_validation_slice(
        log,
        context.towers,
        VALIDATION_USERS,
        rng_of(context.config.seed, Stream.VALIDATION_CANDIDATES),
    )
    blended = blend_slice(config, log, validation, blender)
    for _ in _saved(context.out / VALIDATION, config, validation.users, blended):
        pass
    if not logs_impressions(context):
        rng = rng_of(context.config.seed, Stream.LABELLED_LISTS)
        labelled_lists(config, log, context.towers, blender, rng).save(context.out)


def _refuse_long_lists(context: StepContext) -> None:
    """A k of one's own beyond the catalogue is a mistake; the default one gives short lists, which
    are reported.
    """
    k, items = context.config.recall.k, context.ids.items.size_as_of(context.split.test_start) - 1
    if k > items and k != RecallConfig.model_fields["k"].default:
        raise InputError(
            f"recall.k = {k} but the catalogue has {items:,} items before test_start; choose at "
            "most as many as items."
        )


def _cut_off_text(tower: Tower, split: Split) -> str:
    """Until when a tower was trained, for people."""
    if split.clock == "order":
        cut_off = "label_start" if tower.shape.as_of == split.label_start else "test_start"
        return f"until {split.described()[cut_off]}"
    return f"until {text_of(tower.shape.as_of)[:16].replace('T', ' ')}"


def _generator_log(context: StepContext) -> Log:
    """What generators are made of."""
    clicks = Histories.load(context.inputs["histories"] / "clicks")
    items = SideFeatures.load(context.inputs["profiles"] / "items.parquet")
    features = context.features if logs_impressions(context) else None
    return Log(context.user_inputs, clicks, context.ids.items, items, context.split, features)


def _blender_text(fitted: FittedBlender) -> str:
    rates = [
        f"{name} {', '.join(f'{rate:.3f}' for rate in by_k.values())}"
        for name, by_k in fitted.rates.items()
    ]
    lengths = next(iter(fitted.rates.values()), {})
    return (
        f"blender: {fitted.blender.order}; {', '.join(lengths)} of validation users: "
        f"{'; '.join(rates)}"
    )


def _saved(
    folder: Path, config: RecallConfig, users: Int32, shards: Iterable[Candidates]
) -> Iterator[Ranked]:
    """Blended lists of users, shard by shard, as they are written to a folder as arrays."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "users.npy", users)
    files: dict[str, ArrayFile] = {}
    for part in shards:
        arrays: dict[str, Any] = {
            "items": part.items,
            "scores": part.scores,
            "tower_scores": part.tower_scores,
        }
        arrays |= {f"rank_{name}": of_generator for name, of_generator in part.ranks.items()}
        arrays |= {
            f"score_{name}": of_generator for name, of_generator in part.generator_scores.items()
        }
        for name, values in arrays.items():
            if name not in files:
                files[name] = ArrayFile(
                    folder / f"{name}.npy", len(users), config.k, KINDS[name.split("_")[0]]
                )
            files[name].append(values)
        yield Ranked(part.users, part.items, part.scores, part.ranks)
    (folder / "generators.json").write_text(json.dumps(list(part.ranks)))
    for file in files.values():
        file.close()
