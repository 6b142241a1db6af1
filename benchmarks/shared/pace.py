"""Pace of a training: seconds of each window of steps, and how well it does, evaluated while the
clock stands.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Pace:
    """Told of every step; says when training is to end.

    A lap is `lap` steps. Training ends after `laps` laps, after `minutes` of training, or once
    `judge`, asked after every `every` laps, gives `target`.
    """

    lap: int
    validator: Callable[[], float] | None = None
    target: float = 1.0
    every: int = 1
    laps: float = math.inf
    minutes: float = math.inf
    times: list[float] = field(default_factory=list)
    evaluated: list[float] = field(default_factory=list)
    _examples: int = 0
    _steps: int = 0
    _since: float = 0.0

    def start(self, laps: float = math.inf, minutes: float = math.inf) -> "Pace":
        """Start the clock, for so many laps or minutes at most."""
        self.laps, self.minutes, self._since = laps, minutes, time.perf_counter()
        return self

    def step(self, examples: int) -> bool:
        """One more step, of so many examples, was trained; True where it was the last one
        wanted.
        """
        self._steps, self._examples = self._steps + 1, self._examples + examples
        if self._steps % self.lap:
            return False
        self.times.append(time.perf_counter() - self._since)
        if self.validator and len(self.times) % self.every == 0:
            self.evaluated.append(self.validator())
        self._since = time.perf_counter()
        return self.reached or len(self.times) >= self.laps or sum(self.times) >= 60 * self.minutes

    @property
    def reached(self) -> bool:
        return max(self.evaluated, default=0.0) >= self.target

    @property
    def examples_per_second(self) -> float:
        """Median over the laps but the first, in which things are compiled."""
        return self._examples / len(self.times) / median(self.times[1:] or self.times)

    @property
    def trained_minutes(self) -> float:
        return sum(self.times) / 60
