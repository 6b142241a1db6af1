"""What the package shows of itself: the example runs, and every name is there."""

import doctest

import ranking


def test_the_example_of_the_package_runs() -> None:
    found = doctest.testmod(ranking)
    assert found.attempted > 10
    assert not found.failed


def test_every_name_that_is_shown_is_there() -> None:
    assert all(getattr(ranking, name).__name__ == name for name in ranking.__all__)
