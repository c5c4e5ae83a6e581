"""An error of ours, out of what Ray wraps it in."""

from ray.exceptions import RayTaskError

from pipeline.cluster import underlying_error
from pipeline.errors import StorageUnavailable


def test_a_task_s_error_is_said_without_ray_s_traceback() -> None:
    wrapped = RayTaskError("journal_unit", "a traceback", StorageUnavailable("the disk is full"))
    known = underlying_error(wrapped.as_instanceof_cause())
    assert type(known) is StorageUnavailable
    assert str(known) == "the disk is full"


def test_an_error_of_nobody_s_is_none_of_ours() -> None:
    assert underlying_error(ValueError("a bug")) is None
