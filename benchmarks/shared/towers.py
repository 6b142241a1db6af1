"""Towers for benchmarks: trained on what came before a log's label window and evaluated on it; the
test window is not read.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from funnel.pipeline import STEPS, context_of, make, request_for
from funnel.steps.recall_steps import training_job_of
from recall.batches import Examples
from recall.checkpoints import Checkpoints
from recall.tower import Tower
from recall.train import TrainingJob, first_training_run
from recall.train_tower import Callbacks, fit_tower
from recall.validator import Validator, validator_of

SLOW_RATE = 0.2


def training_job_at(options: Namespace, home: Path) -> TrainingJob:
    """What towers are trained on, from `source`, `data` and `overrides`; the features are made
    under `home`.
    """
    request = request_for(
        options.source, options.data, str(home), "benchmark", None, options.overrides
    )
    for name in list(STEPS)[: list(STEPS).index("towers")]:
        make(name, request)
    return replace(training_job_of(context_of("towers", request, home)), checkpoints=Checkpoints())


def validator_at(job: TrainingJob) -> Validator:
    """A validator with a sample of the label window's watches, the same for every tower."""
    split, user_inputs = job.split, job.model_inputs.user_inputs
    return validator_of(
        user_inputs, job.ends, split.label_start, split.test_start, np.random.default_rng(0)
    )


def trained(
    job: TrainingJob, switch: Mapping[str, Any], examples: int, seed: int = 0
) -> tuple[Tower, Examples]:
    """A tower trained on about so many examples, the last third of them at a fifth of the rate; and
    its stretch.
    """
    from recall.trainer import TowerTrainer

    config = job.config.model_copy(update=dict(switch))
    job = replace(job, config=config, seed=seed)
    training_run = first_training_run(job, [job.split.label_start, job.split.test_start])
    positions = training_run.examples.positions(
        0, len(job.model_inputs.user_inputs.histories.items)
    )
    epochs = max(round(examples / max(min(len(positions), config.epoch_examples), 1)), 1)
    slow = round(epochs / 3)
    training_run = replace(
        training_run, validator=None, rates=(1.0,) * (epochs - slow) + (SLOW_RATE,) * slow
    )
    trainer = TowerTrainer(training_run.start, config, seed)
    return fit_tower(
        trainer, training_run, Callbacks(Checkpoints(), lambda _: None)
    ).tower, training_run.examples
