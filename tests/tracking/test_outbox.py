"""What is put in arrives once and in order, and a receiver in trouble costs a bounded wait."""

import threading
import time

import pytest

from pipeline.tracking import outbox
from pipeline.tracking.outbox import Outbox


class Receiver:
    """Keeps what it gets; away while ``there`` is not set."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.there.set()
        self.got: list[int] = []

    def check(self) -> None:
        if not self.there.is_set():
            raise ConnectionError("away")

    def take(self, number: int) -> None:
        self.check()
        self.got.append(number)

    def connect(self) -> "Receiver":
        self.check()
        return self


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(outbox, "MAX_PAUSE_SECONDS", 0.02)


def opened(receiver: Receiver) -> Outbox[Receiver]:
    return Outbox("test", receiver.connect, Receiver.check)


def put(box: Outbox[Receiver], *numbers: int) -> None:
    for number in numbers:
        box.put(lambda receiver, number=number: receiver.take(number))


def test_entries_arrive_in_order() -> None:
    receiver = Receiver()
    box = opened(receiver)
    put(box, *range(100))
    assert box.close(idle_seconds=5) == 0
    assert receiver.got == list(range(100))


def test_what_was_missed_is_sent_when_the_receiver_is_back() -> None:
    receiver = Receiver()
    receiver.there.clear()
    box = opened(receiver)
    put(box, 1, 2)
    assert not box.wait_connected(0.05)
    receiver.there.set()
    assert box.wait_connected(5)
    put(box, 3)
    receiver.there.clear()
    put(box, 4)
    time.sleep(0.1)
    receiver.there.set()
    assert box.close(idle_seconds=5) == 0
    assert receiver.got == [1, 2, 3, 4]


def test_a_receiver_that_stays_away_costs_a_bounded_wait() -> None:
    receiver = Receiver()
    receiver.there.clear()
    box = opened(receiver)
    put(box, 1, 2, 3)
    started = time.monotonic()
    assert box.close(idle_seconds=0.2) == 3
    assert time.monotonic() - started < 2
    assert isinstance(box.error, ConnectionError)


def test_slow_work_is_waited_for_as_long_as_it_has_not_failed() -> None:
    receiver = Receiver()
    box = opened(receiver)
    box.put(lambda _: time.sleep(0.5))
    put(box, 1)
    assert box.close(idle_seconds=0.05) == 0
    assert receiver.got == [1]


def test_an_entry_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_ENTRY_SECONDS", 0.2)
    box, forever = opened(Receiver()), threading.Event()
    box.put(lambda _: forever.wait())
    assert box.close(idle_seconds=0.05) == 1
    forever.set()


def test_an_entry_that_is_refused_does_not_hold_up_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver = Receiver()
    box = opened(receiver)

    def refused(_: Receiver) -> None:
        raise ValueError("no such metric name")

    put(box, 1)
    box.put(refused)
    put(box, 2)
    assert box.close(idle_seconds=5) == 1
    assert receiver.got == [1, 2]
    assert "gave up one entry: no such metric name" in caplog.text
