"""The queue of those who ask the model: one at a time, in the order in which they came."""

import threading

import pytest

from llava.serve.queue import Queue, QueueFull


def test_one_at_a_time_in_the_order_of_coming():
    queue, had_turn, inside = Queue(), [], []

    def ask(name: int, place) -> None:
        with place:
            place.wait()
            inside.append(name)
            had_turn.append(name)
            assert inside == [name]
            inside.remove(name)

    places = [queue.enter() for _ in range(6)]
    threads = [threading.Thread(target=ask, args=pair) for pair in enumerate(places)]
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join(10)
    assert had_turn == list(range(6))
    assert len(queue) == 0


def test_a_place_says_how_many_are_before_it_and_who_leaves_lets_the_next_move_up():
    queue = Queue()
    places = [queue.enter() for _ in range(4)]
    assert [place.before for place in places] == [0, 1, 2, 3]
    assert [place.wait(0) for place in places] == [True, False, False, False]
    places[1].leave()  # a visitor who goes away while waiting
    assert [place.before for place in (places[0], *places[2:])] == [0, 1, 2]
    places[0].leave()
    assert places[2].wait(0)
    assert len(queue) == 2


def test_it_is_a_lock_for_whoever_knows_only_that():
    queue, entered = Queue(), threading.Event()
    first = queue.enter()

    def ask() -> None:
        with queue:
            entered.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert not entered.wait(0.1)
    first.leave()
    assert entered.wait(10)
    thread.join(10)
    assert len(queue) == 0


def test_an_error_in_a_turn_ends_it():
    queue = Queue()
    with pytest.raises(RuntimeError), queue:
        raise RuntimeError
    with pytest.raises(RuntimeError), queue.enter() as place:
        assert place.wait(0)
        raise RuntimeError
    assert len(queue) == 0


def test_a_full_queue_is_told():
    queue = Queue(most=2)
    queue.enter()
    second = queue.enter()
    with pytest.raises(QueueFull, match="2 questions are waiting already"):
        queue.enter()
    with pytest.raises(QueueFull, match="waiting already"), queue:
        pass
    assert len(queue) == 2
    second.leave()
    assert queue.enter().before == 1
