"""Calls in a thread, one ahead of their results."""

from __future__ import annotations

import threading

import pytest

from lic_train.system.ahead import one_ahead


def test_results_are_in_order_and_from_one_other_thread():
    threads = []

    def call(number: int) -> int:
        threads.append(threading.current_thread())
        return number

    assert list(one_ahead(lambda number=number: call(number) for number in range(5))) == list(range(5))
    assert len(set(threads)) == 1
    assert threads[0] is not threading.main_thread()
    assert list(one_ahead([])) == []


def test_call_runs_while_the_next_one_is_made():
    """Each call ends only after the next one was taken, except the last."""
    taken = [threading.Event() for _ in range(3)]

    def calls():
        for number in range(3):
            taken[number].set()
            following = taken[min(number + 1, 2)]
            yield lambda following=following: following.wait(60)

    assert list(one_ahead(calls())) == [True, True, True]


def test_exception_is_raised_in_its_turn_and_taken_calls_are_completed():
    done = []

    def call(number: int) -> int:
        if number == 1:
            raise ValueError("second")
        done.append(number)
        return number

    results = one_ahead(lambda number=number: call(number) for number in range(10))
    assert next(results) == 0
    with pytest.raises(ValueError, match="second"):
        next(results)
    assert done == [0, 2]
