"""From the pictures of many requests to few calls of the model, by a thread for each core."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from apps.rest.bodies import Pictures
from apps.rest.bodies import RequestError
from apps.rest.served import Limits
from apps.rest.served import Predict
from apps.rest.served import Served
from cnnkit.data import PictureError
from cnnkit.data.pictures import decode_here

Result = TypeVar("Result")


@dataclass(frozen=True)
class Job:
    """The pictures of one request.

    Attributes:
        pictures: As they were sent.
        deadline: On the monotonic clock; afterwards nobody waits for the answer.
        answer: Its probabilities.
    """

    pictures: Pictures
    deadline: float
    answer: asyncio.Future[np.ndarray]


class Batcher:
    """Workers, one for each predictor, and the queue before them.

    Where the runtime has batches, a worker takes what waits, and waits a moment for more.
    Otherwise it takes one request.

    Args:
        model: What computes.
        limits: Of the queue and of batches.
    """

    def __init__(self, model: Served, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.size = limits.batch if model.batches else 1
        self.queue: queue.Queue[Job | None] = queue.Queue(limits.waiting)
        self.collecting = threading.Lock()
        # One at a time: what is read may be many times as large as its text.
        self.reader = ThreadPoolExecutor(1, "reader")
        self.calls = self.pictures = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the workers at work."""
        loop = asyncio.get_running_loop()
        workers = [
            threading.Thread(target=self._work, args=(predict, loop), daemon=True)
            for predict in self.model.predictors
        ]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            self.queue.put(None)
            for worker in workers:
                worker.join()
            self.reader.shutdown()

    async def predict(self, pictures: Pictures, deadline: float) -> np.ndarray:
        """Returns the probabilities for the pictures of a request.

        Raises:
            RequestError: If one cannot be decoded, or too many requests wait already.
        """
        job = Job(pictures, deadline, asyncio.get_running_loop().create_future())
        try:
            self.queue.put_nowait(job)
        except queue.Full:
            raise RequestError("Too many requests are waiting: try again later", 503) from None
        return await job.answer

    async def apart(self, function: Callable[[], Result]) -> Result:
        """Returns what a function does that would keep others waiting."""
        return await asyncio.get_running_loop().run_in_executor(self.reader, function)

    def _work(self, predict: Predict, loop: asyncio.AbstractEventLoop) -> None:
        while jobs := self._collect():
            results = self._compute(predict, jobs)
            loop.call_soon_threadsafe(self._deliver, jobs, results)

    def _collect(self) -> list[Job]:
        """Returns the next jobs, none at the end."""
        jobs: list[Job] = []
        with self.collecting, contextlib.suppress(queue.Empty):
            job = self.queue.get()
            end = time.monotonic() + self.limits.batch_wait_s
            while job is not None:
                jobs.append(job)
                if sum(len(job.pictures) for job in jobs) >= self.size:
                    return jobs
                job = self.queue.get(timeout=max(0.0, end - time.monotonic()))
            self.queue.put(None)  # for the other workers
        return jobs

    def _compute(self, predict: Predict, jobs: Sequence[Job]) -> list[np.ndarray | Exception]:
        """Returns what becomes of each job. A bad picture is a matter of its own request."""
        found: list[np.ndarray | Exception] = []
        for job in jobs:
            try:
                found.append(self._decoded(job))
            except Exception as error:
                found.append(error)
        good = [x for x in found if not isinstance(x, Exception)]
        if not good:
            return found
        try:
            y = predict(np.concatenate(good))
        except Exception as error:
            return [x if isinstance(x, Exception) else error for x in found]
        rows = iter(np.split(y, np.cumsum([len(x) for x in good])[:-1]))
        return [x if isinstance(x, Exception) else next(rows) for x in found]

    def _decoded(self, job: Job) -> np.ndarray:
        (height, width, channels), pixels = self.model.input_shape, []
        for number, picture in enumerate(job.pictures):
            if job.answer.cancelled() or time.monotonic() > job.deadline:
                raise TimeoutError
            if isinstance(job.pictures, np.ndarray):
                return job.pictures
            if isinstance(picture, bytes):
                try:
                    picture = decode_here(
                        picture, (height, width), channels, self.model.resize, self.limits.pixels
                    )
                except PictureError as error:
                    raise RequestError(f"Picture {number}: {error.reason} ({error.code})") from None
            pixels.append(picture)
        return np.stack(pixels)

    def _deliver(self, jobs: Sequence[Job], results: Sequence[np.ndarray | Exception]) -> None:
        done = [y for y in results if not isinstance(y, Exception)]
        self.calls += bool(done)
        self.pictures += sum(map(len, done))
        for job, result in zip(jobs, results, strict=True):
            if job.answer.done():  # its client does not wait any more
                continue
            if isinstance(result, Exception):
                job.answer.set_exception(result)
            else:
                job.answer.set_result(result)
