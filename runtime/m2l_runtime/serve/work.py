"""Do the work of requests: decoding, images and encoding, each in its place, within limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from starlette.requests import Request

from m2l_runtime.serve.batcher import MicroBatcher
from m2l_runtime.serve.body import decompress, header_value, read_body, while_connected
from m2l_runtime.serve.errors import RETRY_AFTER, HttpError
from m2l_runtime.serve.metrics import Metrics
from m2l_runtime.serve.model import Job, ModelHolder, run_jobs
from m2l_runtime.serve.options import ServeOptions
from m2l_runtime.types import Image

_T = TypeVar("_T")


class Workshop:
    """Hold what the requests of a service share: the model, the batcher, threads, metrics."""

    def __init__(self, holder: ModelHolder, options: ServeOptions) -> None:
        settings = holder.current.synthesizer.settings
        self.holder: Final = holder
        self.options: Final = options
        max_batch = options.max_batch or settings.batch_size
        at_once = max_batch * settings.streams
        self.max_requests: Final = options.max_requests or max(8, 4 * at_once)
        """Requests that are let in at once."""
        self.max_receiving: Final = max(64, 8 * self.max_requests)
        """Requests whose bodies are read at once: one that is sent slowly takes no place of those that are let in."""
        self.metrics: Final = Metrics()
        self.batcher: Final[MicroBatcher[Job, Image]] = MicroBatcher(
            run_jobs,
            max_batch=max_batch,
            max_queue=options.max_queue or max(16, 2 * at_once),
            max_delay_s=options.max_delay_ms / 1000,
            workers=settings.streams,
            group_of=lambda job: job.model,
            on_batch=self.metrics.count_batch,
        )
        self._codecs = ThreadPoolExecutor(options.codec_threads, "m2l-codec")
        self._admitted = self._receiving = 0
        self.metrics.watch(lambda: self.batcher.queue_length, lambda: self._admitted + self._receiving)
        self.metrics.describe_bundle(holder.current)

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Let a request in for the length of a block.

        Raises:
            HttpError: 503 of one too many.
        """
        self._check_room(self._admitted, self.max_requests)
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def receive(self, request: Request) -> bytes:
        """Read the body of a request that is to be let in then.

        Raises:
            HttpError: 503 before anything is read, of one too many or of a service that is stopping; what
                :func:`m2l_runtime.serve.body.read_body` raises.
            ClientDisconnect: the client has gone before its end.
        """
        if not self.holder.is_ready:
            raise HttpError(503, "the service is stopping; ask another one, or later", RETRY_AFTER)
        self._check_room(self._admitted, self.max_requests)
        self._check_room(self._receiving, self.max_receiving)
        self._receiving += 1
        try:
            return await read_body(request, self.options)
        finally:
            self._receiving -= 1

    def _check_room(self, count: int, limit: int) -> None:
        if count >= limit:
            self.metrics.count_refused("requests")
            raise HttpError(503, f"{count} requests are under way, as many as may be; try again later", RETRY_AFTER)

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        """Run what takes the processor for a while on one of the threads for it."""
        return await asyncio.get_running_loop().run_in_executor(self._codecs, function)

    async def unpack(self, request: Request, body: bytes) -> bytes:
        """Undo the Content-Encoding of a body; see :func:`m2l_runtime.serve.body.decompress`."""
        encoding = header_value(request, "content-encoding")
        if encoding is None:
            return body
        return await self.in_thread(lambda: decompress(body, encoding, self.options.max_body_bytes))

    async def synthesize(self, request: Request, jobs: Sequence[Job]) -> list[Image]:
        """Synthesize the images of a request, as long as its client waits.

        Raises:
            QueueFull: more would wait than may.
            EngineError: the engine failed.
            HttpError: 503 of images that do not come in time.
        """
        return await while_connected(request, self.batcher.submit(jobs), self.options.request_timeout_s)

    async def close(self) -> None:
        """Finish what is under way, and free the threads and the engine."""
        self.holder.is_ready = False
        await self.batcher.close()
        self._codecs.shutdown(wait=False, cancel_futures=True)
