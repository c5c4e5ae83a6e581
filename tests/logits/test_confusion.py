"""Classes that changed places are named; weak teachers and small numbers are no finding."""

from collections import Counter

import pytest

from pipeline.logits.confusion import displaced

NAMES = ["Archery", "Hammering", "HammerThrow", "Rowing"]
RIGHT = {(0, 0): 50, (1, 1): 40, (2, 2): 40, (3, 3): 50}
SWAPPED = RIGHT | {(1, 1): 1, (1, 2): 39, (2, 2): 0, (2, 1): 36, (2, 3): 4}


def test_two_classes_that_changed_places_are_one_finding() -> None:
    ((name, message),) = displaced(Counter(SWAPPED), NAMES)
    assert name == "Hammering"
    assert message.startswith(
        "is called HammerThrow in 98% of 40 cells, and the other way round in"
    )
    assert "row 2 seems to stand for Hammering" in message


def test_a_rotation_of_all_classes_is_found_though_nothing_is_right() -> None:
    found = dict(displaced(Counter({(label, (label + 1) % 4): 20 for label in range(4)}), NAMES))
    assert list(found) == NAMES
    assert "Archery in 100%" in found["Rowing"]
    assert "other way round" not in found["Rowing"]


def test_a_class_that_is_lost_in_another_one_is_found() -> None:
    found = dict(displaced(Counter(RIGHT | {(1, 1): 0, (1, 2): 40}), NAMES))
    assert list(found) == ["Hammering"]


@pytest.mark.parametrize(
    "called",
    [
        RIGHT,
        {(label, 2): 40 for label in range(4)},  # never trained: one answer to all
        {(label, other): 10 for label in range(4) for other in range(4)},
        RIGHT | {(1, 1): 0, (1, 0): 14, (1, 2): 13, (1, 3): 13},  # hard, and like no other one
        RIGHT | {(1, 1): 0, (1, 2): 9},  # too few to tell
        {},
    ],
)
def test_other_stores_have_no_displaced_classes(called: dict[tuple[int, int], int]) -> None:
    assert not list(displaced(Counter(called), NAMES))
