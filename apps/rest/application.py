"""The ASGI application: TF Serving's REST paths, `/healthz` and `/metrics`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp
from starlette.types import Message
from starlette.types import Receive
from starlette.types import Scope
from starlette.types import Send

from apps.rest import bodies
from apps.rest.batching import Batcher
from apps.rest.bodies import Asked
from apps.rest.bodies import RequestError
from apps.rest.metrics import Requests
from apps.rest.served import Limits
from apps.rest.served import Served

# Longer bodies are read by a thread, so that others are answered meanwhile.
_SHORT = 64 * 2**10
_VERBS = {"predict": bodies.predict, "classify": bodies.classify}
# The connection ends with these: what follows of the request is not read.
_FINAL = {408, 413, 415, 503, 504}


def application(model: Served, limits: Limits) -> ASGIApp:
    """Returns the application for a model."""
    return _Timed(_Interface(model, limits), limits)


class _Interface:
    """The answers. Bodies of requests are read up to the limits, and all together."""

    def __init__(self, model: Served, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.requests, self.held = Requests(), 0
        paths = ("/v1/models/{name}", "/v1/models/{name}/versions/{version}")
        routes = [Route("/healthz", self._health), Route("/metrics", self._metrics)]
        for path in paths:
            # The longer ones first: a name may hold a colon as far as routes are concerned.
            routes += [Route(f"{path}:{v}", self._ask(v), methods=["POST"]) for v in _VERBS]
            routes += [Route(f"{path}/metadata", self._tell(bodies.metadata))]
        routes += [Route(path, self._tell(bodies.status)) for path in paths]
        handlers: dict[Any, Any] = {
            RequestError: lambda _, error: failure(error.status, str(error)),
            HTTPException: _unknown,
            TimeoutError: lambda _, error: failure(504, "The time for this request is up"),
            ClientDisconnect: lambda _, error: Response(status_code=400),
            Exception: lambda _, error: failure(500, f"Internal error: {type(error).__name__}"),
        }
        self.app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.batcher = Batcher(self.model, self.limits)
        async with self.batcher.running():
            yield

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _metrics(self, _: Request) -> Response:
        counters = {
            "model_calls_total": self.batcher.calls,
            "pictures_total": self.batcher.pictures,
        }
        gauges = {"waiting_requests": self.batcher.queue.qsize(), "held_bytes": self.held}
        text = self.requests.text(counters, gauges)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    def _tell(self, what: Callable[[Served], dict[str, Any]]) -> Callable[[Request], Any]:
        async def tell(request: Request) -> Response:
            self._require_model(request)
            return answer(what(self.model))

        return tell

    def _ask(self, verb: str) -> Callable[[Request], Any]:
        async def ask(request: Request) -> Response:
            self._require_model(request)
            deadline = time.monotonic() + self.limits.seconds
            body = bytearray()
            try:
                async for part in self._parts(request):
                    body += part
                    self.held += len(part)
                    if len(body) > self.limits.body_bytes:
                        raise _too_long(self.limits)
                    if self.held > self.limits.held_bytes:
                        raise RequestError("Too much is being read: try again later", 503)
                request.scope["read"] = True
                asked = await self._read(verb, body)
                y = await self.batcher.predict(asked.pictures, deadline)
            finally:
                self.held -= len(body)
            return answer(asked.answer(y, self.model.labels))

        return ask

    def _parts(self, request: Request) -> AsyncIterator[bytes]:
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError("Compressed bodies are not read", 415)
        if int(request.headers.get("content-length", 0)) > self.limits.body_bytes:
            raise _too_long(self.limits)
        return request.stream()

    async def _read(self, verb: str, body: bytearray) -> Asked:
        def read() -> Asked:
            return _VERBS[verb](body, self.model.input_shape, self.limits.pictures)

        return read() if len(body) <= _SHORT else await self.batcher.apart(read)

    def _require_model(self, request: Request) -> None:
        name, version = request.path_params["name"], request.path_params.get("version")
        if name != self.model.name or version not in (None, self.model.version):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise RequestError(f"Servable not found for request: {wanted}", 404)


class _Timed:
    """Cuts off what takes too long, and counts. A client may be slow on purpose."""

    def __init__(self, interface: _Interface, limits: Limits) -> None:
        self.interface, self.limits = interface, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.interface.app(scope, receive, send)
            return
        start, status = time.monotonic(), 0

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            async with asyncio.timeout(self.limits.seconds):
                await self.interface.app(scope, receive, noted)
        except TimeoutError:
            if status:  # the client does not take the answer
                raise
            late = failure(504 if scope.get("read") else 408, "The time for this request is up")
            await late(scope, receive, noted)
        finally:
            verb = scope["path"].rpartition(":")[2]
            seconds = time.monotonic() - start
            self.interface.requests.add(verb if verb in _VERBS else "other", status, seconds)


def answer(content: dict[str, Any], status: int = 200) -> Response:
    """Returns JSON; NaN is written as TF Serving writes it, which is what JSON leaves open."""
    headers = {"connection": "close"} if status in _FINAL else None
    return Response(json.dumps(content), status, headers, "application/json")


def failure(status: int, message: str) -> Response:
    """Returns TF Serving's form of an error."""
    return answer({"error": message}, status)


def _unknown(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return failure(status, f"Malformed request: {request.method} {request.url.path}")


def _too_long(limits: Limits) -> RequestError:
    return RequestError(f"The body is longer than {limits.body_bytes} bytes, the limit", 413)
