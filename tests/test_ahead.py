"""What is made ahead comes in its order, its errors where it would have come, and its thread
ends.
"""

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from features.ahead import AHEAD, made_ahead, map_ahead


def numbers(upto: int, made: list[int] | None = None) -> Iterator[int]:
    for number in range(upto):
        if made is not None:
            made.append(number)
        yield number


def threads() -> int:
    return sum(thread.name.startswith("made ahead") for thread in threading.enumerate())


@pytest.mark.parametrize("count", [0, 1, AHEAD, 50])
def test_every_item_comes_once_and_in_order(count: int) -> None:
    assert list(made_ahead(numbers(count))) == list(range(count))
    assert threads() == 0


def test_items_are_made_while_an_earlier_one_is_in_use_and_no_further_ahead() -> None:
    made: list[int] = []
    items = made_ahead(numbers(50, made))
    assert next(items) == 0
    until = time.monotonic() + 10
    while len(made) < 1 + AHEAD and time.monotonic() < until:
        time.sleep(0.001)
    time.sleep(0.02)
    assert made == list(range(1 + AHEAD))


def test_an_error_is_raised_where_the_item_would_have_come() -> None:
    def failing() -> Iterator[int]:
        yield from numbers(3)
        raise ValueError("the fourth")

    items = made_ahead(failing())
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(items)
    assert threads() == 0


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, RuntimeError])
def test_the_thread_ends_where_its_reader_is_interrupted(interruption: type[BaseException]) -> None:
    items = made_ahead(numbers(50))

    def reader() -> None:
        for number in items:
            if number == 5:
                raise interruption

    with pytest.raises(interruption):
        reader()
    items.close()
    assert threads() == 0


def test_a_random_stream_is_left_where_its_last_item_left_it() -> None:
    """Training is kept with the state its examples' stream has at the end of an epoch."""
    ahead, plain = np.random.default_rng(3), np.random.default_rng(3)

    def drawn(rng: np.random.Generator) -> Iterator[float]:
        return (rng.random() for _ in range(20))

    assert list(made_ahead(drawn(ahead))) == list(drawn(plain))
    assert ahead.bit_generator.state == plain.bit_generator.state


def test_of_what_is_left_of_a_longer_stream_nothing_is_lost() -> None:
    stream = numbers(10)
    assert list(made_ahead(itertools.islice(stream, 4))) == [0, 1, 2, 3]
    assert list(stream) == [4, 5, 6, 7, 8, 9]


def test_what_threads_map_comes_in_order_whoever_is_first() -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number % 2 == 0 else 0)
        return number * number

    assert list(map_ahead(slow_at_first, range(9), 3)) == [n * n for n in range(9)]
    assert list(map_ahead(slow_at_first, [], 3)) == []


def test_threads_map_no_more_than_they_are_ahead_and_raise_in_place() -> None:
    begun: list[int] = []

    def inverse(number: int) -> float:
        begun.append(number)
        return 1 / (number - 3)

    results = map_ahead(inverse, range(50), 2)
    assert [next(results) for _ in range(3)] == [-1 / 3, -0.5, -1.0]
    assert max(begun) <= 5
    with pytest.raises(ZeroDivisionError):
        next(results)
