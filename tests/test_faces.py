"""What each package shows of itself: every name is there, in its home, and the example runs as
written.
"""

import doctest
from importlib import import_module

import pytest

pytestmark = pytest.mark.slow

PACKAGES = ("features", "recall", "ranking", "funnel")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_face_has_four_to_eight_names_and_each_is_there(package: str) -> None:
    face = import_module(package)
    assert 4 <= len(face.__all__) <= 8
    assert all(getattr(face, name).__name__ == name for name in face.__all__)
    assert all(getattr(face, name).__module__.startswith(package) for name in face.__all__)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_that_is_not_there_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nonsense'"):
        _ = import_module(package).nonsense


@pytest.mark.parametrize("package", PACKAGES)
def test_the_example_runs_as_written(package: str) -> None:
    failed, tried = doctest.testmod(import_module(package))
    assert (failed, tried > 8) == (0, True)
