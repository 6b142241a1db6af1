"""What the simulated world says of lists: their share of the best possible expected seconds, and
the best lists, and what a policy is worth in a log's slots.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from features.arrays import Int32, Int64
from features.random_streams import Stream, rng_of
from features.simulation.oracle import Ask, oracle_lists, oracle_share, reference_lists, seen_before
from features.simulation.simulated_log import load_ground_truth, load_log
from features.simulation.world import World, examination, expected_seconds
from features.vocabulary import Vocabulary
from funnel.lists import RawIds
from ranking.policies import Logged, Policy, draws_of

K = 10
USERS_ASKED = 2_000


def oracle_shares(
    data: Path, users: npt.NDArray[Any], lists: dict[str, npt.NDArray[Any]], as_of: int, seed: int
) -> dict[str, float]:
    """Oracle shares at 10 of lists of raw ids [users, k] as of an instant, and of the world's
    reference policies.

    `lists` holds the funnel's as `final`; keys that come back are `10` for it and `10.<name>` for
    the others, among them random, popular, and the Bayes-optimal reader of the log. A sample of at
    most 2,000 users is asked.
    """
    world, log = load_ground_truth(data), load_log(data)
    rng = rng_of(seed, Stream.ORACLE_USERS)
    rows = np.sort(rng.permutation(len(users))[:USERS_ASKED])
    ask = Ask(users[rows], _moment(as_of), K)
    seen = seen_before(log, ask.at)
    evaluation = {name: items[rows, :K] for name, items in lists.items()} | reference_lists(
        world, log, ask, rng
    )
    shares = {name: oracle_share(world, ask, items, seen) for name, items in evaluation.items()}
    return {"10" if name == "final" else f"10.{name}": share for name, share in shares.items()}


def best_lists(data: Path, users: npt.NDArray[Any], items: Vocabulary, as_of: int, k: int) -> Int32:
    """The world's best k unseen items of each user (raw ids) as of an instant, as indexes: [users,
    k].

    An item that the vocabulary does not know is 0: nobody was ever shown it.
    """
    ask = Ask(users, _moment(as_of), k)
    lists, _ = oracle_lists(load_ground_truth(data), ask, seen_before(load_log(data), ask.at))
    return items.index_of(pa.array(lists.ravel())).reshape(lists.shape)


def policy_seconds(
    world: World, ids: RawIds, policy: Policy, logged: Logged, timestamps_us: Int64
) -> float:
    """What a policy's draws in logged slots [n] are truly worth, in seconds a slot (see
    `ranking.off_policy`).

    E[seconds] at the slot's instant, times the chance that its position is looked at; slots with
    nothing left to show are left out. NaN where there are none.
    """
    worth, slots = 0.0, 0
    for draws in draws_of(policy, logged):
        row, place = np.nonzero(draws.chances)
        at = draws.slots[row]
        users, items = (
            ids.users.id_of(logged.users[at]),
            ids.items.id_of(policy.items[draws.rows[row], place]),
        )
        seconds = expected_seconds(world, users.to_numpy(), items.to_numpy(), timestamps_us[at])
        looked_at = examination(world.config.behaviour, np.maximum(logged.positions[at], 1))
        worth += float((draws.chances[row, place] * seconds * looked_at).sum())
        slots += int(draws.chances.any(axis=1).sum())
    return worth / slots if slots else float("nan")


def _moment(timestamp_us: int) -> np.datetime64:
    return np.datetime64(datetime.fromtimestamp(timestamp_us / 1e6, UTC).replace(tzinfo=None), "us")
