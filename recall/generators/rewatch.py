"""What a user has watched before, to be watched again: the only generator that names what was
seen.
"""

from dataclasses import dataclass

from recall.generators.base import Requests, Snapshot
from recall.generators.spread import SpreadAnswer, spread


@dataclass(frozen=True)
class Rewatch:
    """The user's own last watches, an item watched often or lately first."""

    def answer(self, requests: Requests) -> SpreadAnswer:
        return SpreadAnswer("rewatch", spread(requests, []), requests, repeats=True)


def build(snapshot: Snapshot) -> Rewatch:
    """The generator, which needs nothing but the requests."""
    del snapshot
    return Rewatch()
