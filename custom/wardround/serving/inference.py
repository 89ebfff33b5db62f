"""One model in memory, and one case at a time through it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from wardround import __version__
from wardround.core.errors import ModelRefused
from wardround.data.volumes import encode_mask, read_images
from wardround.models.fingerprint import fingerprint
from wardround.serving.limits import UploadRefused
from wardround.serving.upload import UploadedCase
from wardround.training import origin
from wardround.training.prediction import Weights, ready, regions_of, volumes_ml

MASK = "mask.nii.gz"
# What Retry-After says until a first case has been measured.
FIRST_GUESS_S = 30.0


@dataclass(frozen=True)
class Answer:
    """What the service found in one case.

    mask: a NIfTI file.
    volumes_ml: millilitres of each region.
    sequences: the sequences that were used.
    """

    mask: bytes
    volumes_ml: dict[str, float]
    sequences: tuple[str, ...] = ()


class Model:
    """Weights on a device, ready for cases.

    kind: brats or whole_tumour.
    enhancing: the value of enhancing tumour in masks, 3 or 4.
    """

    def __init__(
        self,
        weights: Weights,
        kind: str,
        device: str,
        enhancing: int,
    ) -> None:
        self.weights = weights
        self.kind = kind
        self.enhancing = enhancing
        self._model = ready(weights, device)
        values = {"0": "background", "1": "whole tumour"}
        if kind == "brats":
            values |= {
                "1": "necrotic core",
                "2": "oedema",
                str(enhancing): "enhancing tumour",
            }
        if not weights.task.brats_masks:
            raise ModelRefused(
                f"the model {weights.file}",
                found=f"one of another task: {', '.join(weights.task.outputs.names)}",
                expected="a model of brain tumours: the service takes uploads of their four sequences",
                fix="use `wardround predict FOLDER --model FILE` with it",
            )
        self.about: dict[str, Any] = {
            "wardround": __version__,
            "fingerprint": fingerprint(weights.spec),
            "network": type(weights.spec).__name__,
            "sequences": list(weights.task.inputs.names),
            "labels": values,
            "candidate": weights.meta.get("candidate"),
            "round": weights.meta.get("round"),
            "usable": weights.meta.get("usable"),
            "trained_on": origin.data_of(weights.meta),
            "trained_on_words": origin.words(weights.meta),
            "not_a_medical_device": True,
        }

    def predict(self, case: UploadedCase) -> Answer:
        """Return the mask of a case in the geometry of its first image. Damaged images
        are refused with DataRefused.
        """
        volume, task = read_images(case.files, case.read), self.weights.task
        outputs = task.outputs
        regions = regions_of(volume, self.weights, self._model) & outputs.known(self.kind)[:, None, None, None]
        reference = next(iter(case.files.images.values()))
        mask = encode_mask(
            MASK,
            outputs.labels(regions, self.kind),
            reference,
            self.enhancing,
            case.read,
            notice=origin.notice(self.weights.meta),
        )
        return Answer(
            mask,
            volumes_ml(regions, task, self.kind, volume),
            tuple(case.files.images),
        )


class Queue:
    """One worker, with a place for the request that it serves and for `waiting` more.
    After `stop` no place is given.

    A place is held from before a request is read until its work has ended, so that
    memory is bounded.
    """

    def __init__(self, waiting: int) -> None:
        self._places = self._free = 1 + waiting
        # The lock guards the count of free places: it is taken on the event loop, and
        # given back on the worker's thread.
        self._lock, self._stopping = threading.Lock(), False
        self._worker = ThreadPoolExecutor(1, "inference")
        self._seconds = FIRST_GUESS_S

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Hold a place while the request is served. Where none is free, the request is
        refused with 503.
        """
        with self._lock:
            if self._stopping or not self._free:
                raise UploadRefused(
                    503,
                    "the service",
                    found="as many requests as it takes",
                    expected="a free place",
                    fix="send it again after the seconds in Retry-After",
                )
            self._free -= 1
        held = Place(self)
        try:
            yield held
        finally:
            held.leave()

    @property
    def retry_after(self) -> str:
        """The seconds after which a place may be free, as a header's text: what the
        last case took.
        """
        return str(max(1, math.ceil(self._seconds)))

    @property
    def idle(self) -> bool:
        return self._free == self._places

    def stop(self) -> None:
        """Give no more places."""
        self._stopping = True

    def close(self) -> None:
        """Wait for the case that is being computed. Cases that wait are dropped."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def start(self, work: Callable[[], Answer]) -> Future[Answer]:
        return self._worker.submit(self._timed, work)

    def give_back(self) -> None:
        with self._lock:
            self._free += 1

    def _timed(self, work: Callable[[], Answer]) -> Answer:
        begun = time.monotonic()
        answer = work()
        self._seconds = time.monotonic() - begun
        return answer


class Place:
    """One place in the queue. It is given back once: by the work that took it over,
    when that has ended, or else by `leave`.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue, self._taken_over = queue, False

    def work(self, work: Callable[[], Answer]) -> Future[Answer]:
        """Begin the work, and give the place back when it has ended, even if nobody
        waits for it any more.
        """
        future = self._queue.start(work)
        self._taken_over = True
        # Not when the request ends: a client that hangs up must not make room while its
        # case is still in memory.
        future.add_done_callback(lambda _: self._queue.give_back())
        return future

    def leave(self) -> None:
        if not self._taken_over:
            self._queue.give_back()
