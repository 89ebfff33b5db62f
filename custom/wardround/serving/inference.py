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
FIRST_GUESS_S = 30.0


@dataclass(frozen=True)
class Answer:
    """mask: a NIfTI file | volumes_ml: region -> millilitres | sequences: what was used"""

    mask: bytes
    volumes_ml: dict[str, float]
    sequences: tuple[str, ...] = ()


class Model:
    """Weights on a device; kind: brats or whole_tumour | enhancing: its value in masks, 3 or 4."""

    def __init__(self, weights: Weights, kind: str, device: str, enhancing: int) -> None:
        self.weights, self.kind, self.enhancing = weights, kind, enhancing
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
        """Return the mask of a case in the geometry of its first image; damaged images: DataRefused."""
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
        )
        return Answer(
            mask,
            volumes_ml(regions, task, self.kind, volume),
            tuple(case.files.images),
        )


class Queue:
    """A place for the request that is served and for `waiting` more; one worker. None is given after `stop`.

    A place is held from before a request is read until its work has ended, so memory is bounded.
    """

    def __init__(self, waiting: int) -> None:
        self._places = self._free = 1 + waiting
        self._lock, self._stopping = threading.Lock(), False
        self._worker = ThreadPoolExecutor(1, "inference")
        self._seconds = FIRST_GUESS_S

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Hold a place; none is free: 503."""
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
        """Seconds after which a place may be free: what the last case took."""
        return str(max(1, math.ceil(self._seconds)))

    @property
    def idle(self) -> bool:
        return self._free == self._places

    def stop(self) -> None:
        """Give no more places."""
        self._stopping = True

    def close(self) -> None:
        """Wait for the case that is being computed; others are dropped."""
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
    """Given back once: by the work that took it over, when that has ended, or else by `leave`."""

    def __init__(self, queue: Queue) -> None:
        self._queue, self._taken_over = queue, False

    def work(self, work: Callable[[], Answer]) -> Future[Answer]:
        """Begin, and give the place back when the work has ended, even if nobody waits for it any more."""
        future = self._queue.start(work)
        self._taken_over = True
        future.add_done_callback(lambda _: self._queue.give_back())
        return future

    def leave(self) -> None:
        if not self._taken_over:
            self._queue.give_back()
