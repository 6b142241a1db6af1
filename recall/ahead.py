"""Work done ahead of its need, in one thread beside the one that needs it."""

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")
# One is in use while the next lies ready and another is being made.
AHEAD = 2


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
