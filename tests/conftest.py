"""What several test files share: the composed stack as Compose reads it, requests to generators,
a log whose next watch is known, and simulated worlds."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from hypothesis import settings

from features.histories import histories_of
from features.side_features import SideFeatures
from features.simulation.simulated_log import SimulatedLog, simulate, write
from features.simulation.world import World, WorldConfig
from features.split import Split
from features.timeline import pair_keys
from features.vocabulary import Vocabulary
from recall.candidates import Pairs
from recall.generators.base import Log, Requests
from recall.inputs import UserInputs
from recall.tower import ItemFacts, Tower, TowerSpec

# The first example compiles loops, and machines are noisy: no example is timed.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

COMPOSE_FILE = Path(__file__).parent.parent / "docker-compose.yml"


@pytest.fixture(scope="session")
def composed() -> Callable[[Mapping[str, str]], dict[str, Any]]:
    """The loaded file under given variables: `${NAME:?..}`, `${NAME:-default}` and `$$` are
    replaced.

    A required variable that is missing is a KeyError.
    """

    def load(variables: Mapping[str, str]) -> dict[str, Any]:
        def value(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            return (
                "$"
                if not name
                else variables[name]
                if default is None
                else variables.get(name, default)
            )

        pattern = r"\$(?:\$|\{(?P<name>\w+)(?::\?[^}]*|:-(?P<default>[^}]*))\})"
        loaded: dict[str, Any] = yaml.safe_load(re.sub(pattern, value, COMPOSE_FILE.read_text()))
        return loaded

    return load


@pytest.fixture(scope="session")
def asked() -> Callable[..., Requests]:
    """Requests of users 1, 2 .. with given last watches (newest first), vectors and seen (row,
    item) pairs.
    """

    def requests(
        watches: list[list[int]],
        seen: tuple[tuple[int, int], ...] = (),
        vectors: Any = ((0.0, 0.0),),
    ) -> Requests:
        last = np.array(watches, np.int32)
        users = np.arange(1, len(last) + 1, dtype=np.int32)
        rows, items = np.array(sorted(seen), np.int64).reshape(-1, 2).T
        pairs = Pairs(pair_keys(rows, items), np.bincount(rows, minlength=len(users)))
        units = np.broadcast_to(np.array(vectors, np.float32), (len(users), len(vectors[0])))
        return Requests(
            users, np.ascontiguousarray(units), last, pairs, np.count_nonzero(last, axis=1)
        )

    return requests


CHAIN, CHAIN_USERS, HOUR = 120, 400, 3_600 * 1_000_000


@dataclass(frozen=True)
class ChainWorld:
    """Whoever watched item i watches i + 1 next, an hour later; items are of 3 channels, users of 2
    countries.

    Towers of random weights were finished at hours 20, 30 and 40; the test window starts at hour
    40. User 400 has no watch, items 118 to 120 are new from hour 35.
    """

    log: Log
    towers: list[Tower]

    @property
    def users(self) -> Any:
        return np.arange(1, CHAIN_USERS + 1, dtype=np.int32)


@pytest.fixture(scope="session")
def chain_world() -> ChainWorld:
    rng = np.random.default_rng(4)
    events = []
    for user in range(1, CHAIN_USERS):
        first, start = int(rng.integers(0, CHAIN)), int(rng.integers(0, 34))
        events += [(user, start + step, (first + step) % CHAIN + 1) for step in range(16)]
    users, hours, items = np.array(events, np.int64).T
    watches = histories_of(users, items, hours * HOUR, CHAIN_USERS + 1)
    people = SideFeatures(
        {"country": (np.arange(CHAIN_USERS + 1) % 2 + 1).astype(np.int32)}, {"country": 3}, {}
    )
    films = SideFeatures(
        {"channel_id": (np.arange(CHAIN + 1) % 3 + 1).astype(np.int32)}, {"channel_id": 4}, {}
    )
    vocabulary = Vocabulary(
        pa.array(range(CHAIN)),
        np.sort(np.append(rng.integers(-5, 18, CHAIN - 3), [35, 36, 37])) * HOUR,
    )
    marks = {"start": 0, "label_start": 30 * HOUR, "test_start": 40 * HOUR, "test_end": 50 * HOUR}
    split = Split(mode="time", clock="time", **marks)
    towers = [
        random_tower(hour * HOUR, vocabulary.size_as_of(hour * HOUR), hour) for hour in (20, 30, 40)
    ]
    return ChainWorld(
        Log(UserInputs(watches, None, people), watches, vocabulary, films, split), towers
    )


def random_tower(as_of: int, items: int, seed: int, dim: int = 4) -> Tower:
    rng = np.random.default_rng(seed)
    shape = TowerSpec(as_of=as_of, items=items, dim=dim, hidden=(), recency_windows=(3,))
    sizes = {
        "item_in": (items, dim),
        "item_out": (items, dim),
        "kernel0": (dim, dim),
        "bias0": (dim,),
    }
    weights = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    return Tower(shape, weights, ItemFacts.plain(items))


@pytest.fixture(scope="session")
def simulated() -> tuple[World, SimulatedLog]:
    """A world of 1,500 users at first and the log of its five days, 30,000 impressions each."""
    return simulate(
        WorldConfig(
            users=1_500,
            users_a_day=30,
            items=600,
            items_a_day=60,
            days=5,
            impressions_a_day=30_000,
            topics=12,
        )
    )


@pytest.fixture(scope="session")
def world(simulated: tuple[World, SimulatedLog]) -> World:
    return simulated[0]


@pytest.fixture(scope="session")
def log(simulated: tuple[World, SimulatedLog]) -> SimulatedLog:
    return simulated[1]


@pytest.fixture(scope="session")
def clicks_at() -> Callable[..., SimulatedLog]:
    """A log of clicks at position 1 in a world: user i clicks items[i] so many hours after an
    instant, all in time order.
    """

    def clicks(
        world: World, log: SimulatedLog, as_of: int, hours: list[int], items: list[int]
    ) -> SimulatedLog:
        count = len(items)
        return replace(
            log,
            user_id=world.user_ids[:count],
            item_id=world.item_ids[items],
            timestamp=(as_of + np.array(hours) * HOUR).view("datetime64[us]"),
            clicked=np.ones(count, dtype=bool),
            position=np.ones(count, dtype=np.int64),
            watch_seconds=np.ones(count),
        )

    return clicks


@pytest.fixture(scope="session")
def tiny_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a simulated log of 40 users at first and two days, with its ground truth."""
    folder = tmp_path_factory.mktemp("tiny")
    config = WorldConfig(
        users=40,
        users_a_day=2,
        items=80,
        items_a_day=5,
        days=2,
        impressions_a_day=600,
        topics=8,
        favourite_topics=2,
    )
    write(*simulate(config), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_models() -> tuple[str, ...]:
    """Settings by which a whole run trains in seconds: small models, two epochs, short lists."""
    recall = ("dim=4", "depth=1", "width=4", "epochs=2", "blocks=2", "history=5", "k=20")
    return (
        *(f"recall.{setting}" for setting in recall),
        "ranking.epochs=2",
        "ranking.hidden=[4]",
    )
