"""From the pictures of many requests to few calls of the model, in a pool of threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from collections.abc import Callable
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from dataclasses import field
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


@dataclass
class Job:
    """The pictures of one request.

    Attributes:
        pictures: As they were sent.
        deadline: On the monotonic clock; afterwards nobody waits for the answer.
        answer: Its probabilities.
    """

    pictures: Pictures
    deadline: float
    answer: asyncio.Future[np.ndarray] = field(default_factory=asyncio.Future)


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
        self.pool = ThreadPoolExecutor(len(model.predictors), "model")
        self.queue: asyncio.Queue[Job] = asyncio.Queue(limits.waiting)
        self.collecting = asyncio.Lock()
        self.calls = self.pictures = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the workers at work."""
        workers = [asyncio.create_task(self._work(p)) for p in self.model.predictors]
        try:
            yield
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            self.pool.shutdown()

    async def predict(self, pictures: Pictures, deadline: float) -> np.ndarray:
        """Returns the probabilities for the pictures of a request.

        Raises:
            RequestError: If one cannot be decoded, or too many requests wait already.
        """
        job = Job(pictures, deadline)
        try:
            self.queue.put_nowait(job)
        except asyncio.QueueFull:
            raise RequestError("Too many requests are waiting: try again later", 503) from None
        return await job.answer

    async def apart(self, function: Callable[[], Result]) -> Result:
        """Returns what a function does in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function)

    async def _work(self, predict: Predict) -> None:
        while True:
            async with self.collecting:
                jobs = await self._collect()
            results = await self.apart(lambda jobs=jobs: self._compute(predict, jobs))  # type: ignore[misc]
            for job, result in zip(jobs, results, strict=True):
                if job.answer.done():  # its client does not wait any more
                    continue
                if isinstance(result, Exception):
                    job.answer.set_exception(result)
                else:
                    job.answer.set_result(result)

    async def _collect(self) -> list[Job]:
        jobs = [await self.queue.get()]
        try:
            async with asyncio.timeout(self.limits.batch_wait_s):
                while sum(len(job.pictures) for job in jobs) < self.size:
                    jobs.append(await self.queue.get())
        except TimeoutError:
            pass
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
        self.calls, self.pictures = self.calls + 1, self.pictures + len(y)
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
                    picture = decode_here(picture, (height, width), channels, self.model.resize)
                except PictureError as error:
                    raise RequestError(f"Picture {number}: {error.reason} ({error.code})") from None
            pixels.append(picture)
        return np.stack(pixels)
