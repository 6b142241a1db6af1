"""Which columns of the ranking rows the net reads: all of them, but for what an ablation leaves out."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from features.errors import Refused
from features.ledger import Block


@dataclass(frozen=True)
class Columns:
    """Names by block, in the order in which the net reads them."""

    numbers: dict[str, tuple[str, ...]]
    codes: dict[str, tuple[str, ...]]


def columns_of(blocks: Mapping[str, Block], without: Sequence[str]) -> Columns:
    """The columns of blocks that no shell pattern of `without` names.

    Refused where a pattern names no column, or where nothing is left.
    """
    numbers = {name: tuple(block.numbers) for name, block in blocks.items()}
    codes = {name: tuple(block.codes) for name, block in blocks.items()}
    there = [column for names in (numbers, codes) for of_block in names.values() for column in of_block]
    left_out = {column for pattern in without for column in _named(pattern, there)}
    if there and len(left_out) == len(set(there)):
        raise Refused(f"ranking.without = {','.join(without)} leaves the ranker no column to read; leave out fewer.")
    return Columns(_left(numbers, left_out), _left(codes, left_out))


def _named(pattern: str, there: Sequence[str]) -> list[str]:
    """The columns that a pattern names."""
    named = [column for column in there if fnmatchcase(column, pattern)]
    if not named:
        near = get_close_matches(pattern, there, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(there)}."
        raise Refused(f"ranking.without = {pattern}: no column of the ranking rows is called so; {hint}")
    return named


def _left(columns: Mapping[str, Sequence[str]], left_out: Set[str]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(column for column in names if column not in left_out) for name, names in columns.items()}
