"""Short tasks, sent and counted in many at a time, on workers that are killed or stop answering meanwhile."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import suppress

import pytest

from diffcache.compute import dispatch
from diffcache.compute.cluster import ClusterAddress, open_cluster
from diffcache.compute.dispatch import Dispatch, InOrder, Order
from diffcache.errors import DiffcacheError, SettingError
from tests.two_workers import two_workers

TASKS = 700


def short(number: int) -> tuple[int, int]:
    """The number, and whose it was."""
    time.sleep(0.005)
    return number, os.getpid()


def none_of(number: int) -> None:
    """Nothing comes of it."""


def failing(number: int) -> None:
    """An error of ours."""
    if number == 150:
        raise SettingError("task 150 cannot be")


def test_short_tasks_while_a_worker_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_LOOK_SECONDS", 0.2)
    counted: Counter[int] = Counter()
    killed: list[int] = []
    ahead: list[int] = []

    def accept(number: int, done: tuple[int, int]) -> None:
        assert done[0] == number
        counted[number] += 1
        ahead.append(sent._ahead)
        if not killed and len(counted) > 300:
            killed.append(done[1])
            os.kill(done[1], signal.SIGKILL)

    with two_workers() as cluster:
        options = {"say": lambda text: None, "ahead": 3, "deaths": 20, "remedy": "none"}
        sent = Dispatch(cluster, order=order_of(short), accept=accept, **options)
        assert sent.run(InOrder(range(TASKS)), stop=lambda: False)
        assert counted == Counter(range(TASKS))
        assert killed
        assert max(ahead) > 10

        nothing: list[object] = []
        sent = Dispatch(cluster, order=order_of(none_of), accept=lambda _, done: nothing.append(done), **options)
        assert sent.run(InOrder(range(20)), stop=lambda: False)
        assert nothing == [None] * 20

        some: list[int] = []
        sent = Dispatch(cluster, order=order_of(failing), accept=lambda number, _: some.append(number), **options)
        with pytest.raises(DiffcacheError, match="task 150 cannot be"):
            sent.run(InOrder(range(400)), stop=lambda: False)
        assert 0 < len(some) < 400

        sent = Dispatch(cluster, order=order_of(short), accept=accept, **options)
        assert not sent.run(InOrder(range(TASKS)), stop=lambda: True)


def test_a_worker_that_stops_answering_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_LOOK_SECONDS", 0.2)
    stopped: list[int] = []
    after: list[int] = []

    def accept(number: int, done: tuple[int, int]) -> None:
        if stopped and done[1] != stopped[0]:
            after.append(number)
        elif not stopped and number > 300:
            stopped.append(done[1])
            os.kill(done[1], signal.SIGSTOP)

    try:
        with two_workers() as cluster:
            options = {"say": lambda text: None, "ahead": 3, "deaths": 20, "remedy": "none"}
            sent = Dispatch(cluster, order=order_of(short), accept=accept, **options)
            assert not sent.run(InOrder(range(5000)), stop=lambda: len(after) > 200)
            os.kill(stopped[0], signal.SIGKILL)
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_what_the_only_worker_had_done_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_LOOK_SECONDS", 0.2)
    counted: Counter[int] = Counter()
    killed: list[int] = []

    def accept(number: int, done: tuple[int, int]) -> None:
        counted[number] += 1
        if not killed and len(counted) > 100:
            killed.append(done[1])
            time.sleep(0.2)  # more of them end, and are not counted in when it goes
            os.kill(done[1], signal.SIGKILL)

    with open_cluster(ClusterAddress(workers=1)) as cluster:
        options = {"say": lambda text: None, "ahead": 3, "deaths": 20, "remedy": "none"}
        sent = Dispatch(cluster, order=order_of(short), accept=accept, **options)
        assert sent.run(InOrder(range(300)), stop=lambda: False)
    assert killed
    assert counted == Counter(range(300))


def order_of(function):
    """How a number is sent."""
    return lambda number: Order("short", f"short {number}", f"task {number}", function, (number,))
