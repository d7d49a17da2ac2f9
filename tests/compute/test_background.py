"""Work in a thread beside the caller's: order, bounds, errors, and no thread left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from diffcache.compute import Behind, ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("diffcache-")]


class TestAhead:
    def test_gives_the_same_items(self) -> None:
        assert list(ahead(iter(range(50)), count=3)) == list(range(50))
        assert list(ahead(iter([None, 0, False]), count=2)) == [None, 0, False]
        assert list(ahead(iter([]), count=2)) == []
        assert not threads()

    def test_without_a_thread(self) -> None:
        closed: list[str] = []

        def items() -> Iterator[int]:
            try:
                yield from range(3)
            finally:
                closed.append(threading.current_thread().name)

        assert list(ahead(items(), count=0)) == [0, 1, 2]
        given = ahead(items(), count=0)
        assert next(given) == 0
        given.close()
        assert closed == [threading.current_thread().name] * 2

    def test_makes_at_most_count_ahead(self) -> None:
        made: list[int] = []
        third = threading.Event()

        def items() -> Iterator[int]:
            for i in range(10):
                made.append(i)
                if i == 3:
                    third.set()
                yield i

        given = ahead(items(), count=3)
        assert next(given) == 0
        assert third.wait(10)  # 0 was taken, 1 to 3 are made while the caller does something else
        given.close()
        assert made == [0, 1, 2, 3]

    def test_an_error_comes_where_the_item_would(self) -> None:
        def items() -> Iterator[int]:
            yield 1
            yield 2
            raise OSError("third")

        given = ahead(items(), count=2)
        assert [next(given), next(given)] == [1, 2]
        with pytest.raises(OSError, match="third"):
            next(given)
        assert not threads()

    def test_closing_closes_the_items_in_their_thread(self) -> None:
        where: list[str] = []

        def items() -> Iterator[int]:
            try:
                yield from range(100)
            finally:
                where.append(threading.current_thread().name)

        given = ahead(items(), count=2)
        next(given)
        given.close()
        assert len(where) == 1
        assert where[0].startswith("diffcache-ahead")
        assert not threads()


class TestBehind:
    def test_runs_all_in_order(self) -> None:
        done: list[int] = []
        with Behind(count=2) as behind:
            for i in range(20):
                behind.submit(done.append, i)
            behind.wait()
            assert done == list(range(20))
            behind.submit(done.append, 20)
        assert done == list(range(21))
        assert not threads()

    def test_without_a_thread(self) -> None:
        where: list[str] = []
        with Behind(count=0) as behind:
            behind.submit(lambda: where.append(threading.current_thread().name))
            assert where == [threading.current_thread().name]
        with pytest.raises(ZeroDivisionError), Behind(count=0) as behind:
            behind.submit(lambda: 1 // 0)

    def test_waits_while_too_many_are_unfinished(self) -> None:
        go, submitted = threading.Event(), []

        def submit() -> None:
            with Behind(count=2) as behind:
                for i in range(3):
                    behind.submit(go.wait, 10)
                    submitted.append(i)

        caller = threading.Thread(target=submit)
        caller.start()
        caller.join(0.2)
        assert submitted == [0, 1]
        go.set()
        caller.join(10)
        assert submitted == [0, 1, 2]

    def test_the_first_error_is_raised_and_nothing_runs_after_it(self) -> None:
        done: list[int] = []

        def fail(text: str) -> None:
            raise OSError(text)

        with pytest.raises(OSError, match="first"), Behind(count=10) as behind:
            behind.submit(done.append, 1)
            behind.submit(fail, "first")
            behind.submit(fail, "second")
            behind.submit(done.append, 2)
        assert done == [1]
        assert not threads()

    def test_an_error_of_the_caller_is_the_one_raised(self) -> None:
        def fail() -> None:
            raise OSError("behind")

        with pytest.raises(KeyError, match="caller"), Behind(count=10) as behind:
            behind.submit(fail)
            raise KeyError("caller")
        assert not threads()
