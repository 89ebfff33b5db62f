import threading
from concurrent.futures import Future, wait

import pytest

from wardround.serving.inference import Answer, Queue
from wardround.serving.limits import UploadRefused

ANSWER = Answer(b"", {})


def test_places_are_bounded_and_given_back() -> None:
    queue = Queue(1)
    with queue.place(), queue.place():
        assert not queue.idle
        with pytest.raises(UploadRefused) as caught, queue.place():
            pass
        assert caught.value.status == 503
    assert queue.idle
    with queue.place():
        pass


def test_a_place_is_held_until_its_work_has_ended_even_if_nobody_waits() -> None:
    queue, go = Queue(0), threading.Event()

    def work() -> Answer:
        go.wait(60)
        return ANSWER

    with queue.place() as place:
        future = place.work(work)
    with pytest.raises(UploadRefused), queue.place():
        pass
    go.set()
    assert future.result(60) is ANSWER
    queue.close()
    assert queue.idle


def test_one_at_a_time() -> None:
    queue, running, most = Queue(2), threading.Semaphore(1), []

    def work() -> Answer:
        most.append(running.acquire(blocking=False))
        threading.Event().wait(0.02)
        running.release()
        return ANSWER

    futures: list[Future[Answer]] = []
    for _ in range(3):
        with queue.place() as place:
            futures.append(place.work(work))
    wait(futures, 60)
    assert most == [True, True, True]


def test_work_that_fails_gives_its_place_back() -> None:
    queue = Queue(0)

    def work() -> Answer:
        raise ZeroDivisionError

    with queue.place() as place:
        future = place.work(work)
    assert isinstance(future.exception(60), ZeroDivisionError)
    queue.close()
    assert queue.idle


def test_none_is_given_after_stop() -> None:
    queue = Queue(3)
    queue.stop()
    with pytest.raises(UploadRefused), queue.place():
        pass
