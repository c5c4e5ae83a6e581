"""The names that people may import: each is there, says what it is, and loads nothing early."""

import inspect

import pytest

import dvflnet
import pipeline
from tests.test_imports import HEAVY, run_fresh

NAMES = [(package, name) for package in (dvflnet, pipeline) for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), NAMES, ids=lambda value: str(value))
def test_public_names_are_there_and_documented(package, name):
    value = getattr(package, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__module__.startswith(f"{package.__name__}.")
        assert value.__doc__


def test_importing_the_package_loads_nothing_heavy():
    packages, _ = run_fresh("import pipeline")
    assert not packages & HEAVY


def test_a_name_that_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'run_nothing'"):
        _ = pipeline.run_nothing
