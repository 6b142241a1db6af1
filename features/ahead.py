"""Work done ahead of its need, in threads beside the one that needs it."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

S = TypeVar("S")
T = TypeVar("T")
# One is in use while the next lies ready and another is being made.
AHEAD = 2
THREADS = os.cpu_count() or 1


def made_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items in the same order, up to AHEAD of them made in a thread while an earlier one
    is in use.

    What making an item raises is raised where the item would have come. The thread ends with the
    last item, with an error, or when the iterator is closed; nothing else may draw from what
    `items` draws from until then.
    """
    end = object()
    with ThreadPoolExecutor(1, "made ahead") as thread:
        coming = deque(thread.submit(next, items, end) for _ in range(AHEAD))
        while (item := coming.popleft().result()) is not end:
            coming.append(thread.submit(next, items, end))
            yield cast(T, item)


def map_ahead(
    function: Callable[[S], T], items: Iterable[S], threads: int = THREADS
) -> Iterator[T]:
    """A function of each item, in the items' order, worked on by so many threads, by default one a
    core.

    No more results than threads lie ready beside the one in use. What the function raises is raised
    where its result would have come.
    """
    with ThreadPoolExecutor(threads, "map ahead") as pool:
        coming: deque[Future[T]] = deque()
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
