"""Random streams: each name draws numbers of its own, and no step numbers its stream itself."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from features.random_streams import Stream, rng_of

ROOT = Path(__file__).parent.parent


def test_two_streams_of_one_seed_share_no_number() -> None:
    drawn = {stream: set(rng_of(7, stream).random(1_000)) for stream in Stream}
    assert len(drawn) == len(Stream.__members__), "two names share a number"
    assert not any(drawn[one] & drawn[other] for one, other in combinations(drawn, 2))


def test_a_stream_is_the_same_again_and_a_key_parts_it() -> None:
    np.testing.assert_array_equal(
        rng_of(7, Stream.BLENDER).random(9), rng_of(7, Stream.BLENDER).random(9)
    )
    assert rng_of(7, Stream.TOWER_START, 1).random() != rng_of(7, Stream.TOWER_START, 2).random()


@pytest.mark.parametrize("package", ["recall", "ranking", "funnel"])
def test_no_step_numbers_its_stream_itself(package: str) -> None:
    bare = re.compile(r"default_rng\(\[|default_rng\(seed")
    found = [file for file in (ROOT / package).rglob("*.py") if bare.search(file.read_text())]
    assert not found
