"""Towers for benchmarks: trained on what came before a log's label window and judged on it; the holdout is not read."""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from funnel.line import STEPS, make, request_for, work_of
from funnel.recall_steps import course_of
from recall.batches import Examples
from recall.checkpoints import Checkpoints
from recall.tower import Tower
from recall.train import Course, first_stretch
from recall.train_tower import Keeping, fit_tower
from recall.validator import Judge, judge_of

SLOW_RATE = 0.2


def course_at(options: Namespace, home: Path) -> Course:
    """What towers are trained on, from `source`, `data` and `overrides`; the features are made under `home`."""
    request = request_for(options.source, options.data, str(home), "benchmark", None, options.overrides)
    for name in list(STEPS)[: list(STEPS).index("towers")]:
        make(name, request)
    return replace(course_of(work_of("towers", request, home)), checkpoints=Checkpoints())


def judge_at(course: Course) -> Judge:
    """A judge with a sample of the label window's watches, the same for every tower."""
    windows, readings = course.windows, course.knowledge.readings
    return judge_of(readings, course.ends, windows.history_end, windows.labels_end, np.random.default_rng(0))


def trained(course: Course, switch: Mapping[str, Any], examples: int, seed: int = 0) -> tuple[Tower, Examples]:
    """A tower trained on about so many examples, the last third of them at a fifth of the rate; and its stretch."""
    from recall.trainer import TowerTrainer

    config = course.config.model_copy(update=dict(switch))
    course = replace(course, config=config, seed=seed)
    stretch = first_stretch(course, [course.windows.history_end, course.windows.labels_end])
    positions = stretch.examples.positions(0, len(course.knowledge.readings.histories.items))
    epochs = max(round(examples / max(min(len(positions), config.epoch_examples), 1)), 1)
    slow = round(epochs / 3)
    stretch = replace(stretch, judge=None, rates=(1.0,) * (epochs - slow) + (SLOW_RATE,) * slow)
    trainer = TowerTrainer(stretch.start, config, seed)
    return fit_tower(trainer, stretch, Keeping(Checkpoints(), lambda _: None)).tower, stretch.examples
