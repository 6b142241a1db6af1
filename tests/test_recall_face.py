"""What recall shows of itself: each name is there, and the example that shows their use runs as
written.
"""

import doctest

import pytest

import recall


@pytest.mark.parametrize("name", recall.__all__)
def test_each_name_of_the_face_is_there(name: str) -> None:
    assert getattr(recall, name).__name__ == name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    assert not hasattr(recall, "nonsense")


def test_the_example_runs_as_written() -> None:
    failed, tried = doctest.testmod(recall)
    assert (failed, tried > 20) == (0, True)
