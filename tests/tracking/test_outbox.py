"""Calls that arrive in order, and a server in trouble that costs a bounded wait."""

import threading
import time

import pytest

from pipeline.tracking import outbox
from pipeline.tracking.outbox import Outbox


class Server:
    """Keeps what it gets; away while ``there`` is not set."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.there.set()
        self.got: list[int] = []
        self.box = Outbox("test", self.check)

    def check(self) -> None:
        if not self.there.is_set():
            raise ConnectionError("away")

    def put(self, *numbers: int) -> None:
        for number in numbers:
            self.box.put(lambda number=number: self._take(number))

    def _take(self, number: int) -> None:
        self.check()
        self.got.append(number)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(outbox, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(outbox, "MAX_PAUSE_SECONDS", 0.02)
    return Server()


def test_what_was_missed_arrives_in_order_when_the_server_is_back(server: Server) -> None:
    server.put(*range(100))
    while len(server.got) < 100:
        time.sleep(0.01)
    server.there.clear()
    server.put(100, 101)
    time.sleep(0.1)
    assert len(server.got) == 100
    server.there.set()
    assert server.box.close(idle_seconds=5) == 0
    assert server.got == list(range(102))


def test_a_server_that_stays_away_costs_a_bounded_wait(server: Server) -> None:
    server.there.clear()
    server.put(1, 2, 3)
    started = time.monotonic()
    assert server.box.close(idle_seconds=0.2) == 3
    assert time.monotonic() - started < 2
    assert isinstance(server.box.error, ConnectionError)


def test_slow_work_is_waited_for_while_the_server_answers(server: Server) -> None:
    server.put(1)
    server.box.put(lambda: time.sleep(0.5))
    server.put(2)
    while not server.got:
        time.sleep(0.01)
    assert server.box.close(idle_seconds=0.05) == 0
    assert server.got == [1, 2]


def test_a_server_that_has_never_answered_is_not_waited_for(server: Server) -> None:
    server.box.put(lambda: time.sleep(5))
    started = time.monotonic()
    assert server.box.close(idle_seconds=0.2) == 1
    assert time.monotonic() - started < 2


def test_a_call_that_never_ends_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_CALL_SECONDS", 0.2)
    forever = threading.Event()
    server.put(1)
    server.box.put(forever.wait)
    while not server.got:
        time.sleep(0.01)
    assert server.box.close(idle_seconds=0.05) == 1
    forever.set()


def test_a_call_that_is_refused_does_not_hold_up_the_others(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def refused() -> None:
        raise ValueError("no such metric name")

    server.put(1)
    server.box.put(refused)
    server.put(2)
    assert server.box.close(idle_seconds=5) == 1
    assert server.got == [1, 2]
    assert "gave up one entry: no such metric name" in caplog.text
