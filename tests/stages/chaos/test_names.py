"""The functions that the chaos tests name exist: a rename shows here, not hours later."""

import pkgutil
import re
from pathlib import Path

import pytest

from tests.stages.chaos.test_named_steps import SNAPSHOT

SOURCES = Path(__file__).parent.glob("*.py")
IN_QUOTES = re.compile(r'"(pipeline\.[\w.]+:[\w.]+)"')
NAMES = {name for source in SOURCES for name in IN_QUOTES.findall(source.read_text())}


@pytest.mark.parametrize("name", sorted({*NAMES, SNAPSHOT}))
def test_a_named_function_exists(name: str) -> None:
    assert callable(pkgutil.resolve_name(name))
