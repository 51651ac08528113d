"""`cnnkit serve`: a bundle behind TF Serving's REST interface, for development.

Which file of the bundle answers, and the server around the application of `apps.rest`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import signal
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from apps.rest import Limits
from apps.rest import Served
from apps.rest import application
from cnnkit.errors import UsageError
from export import formats
from export.bundle import Bundle
from export.formats import saved_model
from export.formats import signatures
from export.runtime import open_model

# What answers if nothing else is asked for: LiteRT, which starts at once, then the others.
_MODULES = ("tflite", "onnx", "saved_model")
_BACKLOG = 2048


def choose(bundle: Bundle, wanted: str | None) -> formats.Format:
    """Returns the format that serves: the one wanted, else the fastest of LiteRT's.

    How fast each is was measured when the bundle was written.

    Raises:
        UsageError: If the bundle does not have it.
    """
    there = [formats.get(name) for name in bundle.artifacts]
    if wanted is not None:
        row = formats.get(wanted)
        if row not in there:
            raise UsageError(
                f"This bundle has no file in the format {wanted}",
                where=bundle.folder,
                expected=f"one of {', '.join(bundle.artifacts) or 'none: nothing passed'}",
                received=bundle.refused.get(wanted, ""),
            )
        return row
    took = {row["format"]: row["latency_ms"] for row in bundle.manifest["verdicts"]}
    for module in _MODULES:
        rows = [row for row in there if row.module == module]
        if rows:
            return min(rows, key=lambda row: took[row.name] or math.inf)
    raise UsageError(
        "This bundle has no file that can be served",
        where=bundle.folder,
        todo="`cnnkit export RUN --format tflite`",
    )


def open_served(bundle: Bundle, row: formats.Format, workers: int) -> Served:
    """Opens a file of a bundle, once for each worker where a runtime is not for several threads.

    Raises:
        UsageError: If it is not as it was exported, or cannot be run.
    """
    place = row.path(bundle.name)
    for name, reason in bundle.broken_files().items():
        if Path(name).is_relative_to(place):
            raise UsageError("A file of this bundle", where=bundle.folder / name, received=reason)
    path = bundle.folder / place
    first = open_model(path)
    predict, single = first.predict, first.kind == "tflite"
    if first.kind == "saved_model":
        predict = saved_model.loaded(path)
    others = [open_model(path).predict if single else predict for _ in range(workers - 1)]
    classes = predict(np.zeros((1, *first.input_shape), np.float32)).shape[1]
    return Served(
        bundle.name,
        place.name if first.kind == "saved_model" else "1",
        first.input_shape,
        first.resize,
        signatures.labels_of(first.labels, classes),
        (predict, *others),
        not single,
    )


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that clients can already connect to.

    Raises:
        UsageError: If the place is taken, or not one of this machine.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(found[4][:2], family=found[0], backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(
            "Cannot listen there",
            where=f"{host}:{port}",
            received=reason,
            todo="choose another with --port, or --port 0 for any that is free",
        ) from None
    # Else the end of an answer waits 40 ms for the client to confirm its beginning: asyncio does
    # this only for sockets that were made for TCP by name.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def run(model: Served, limits: Limits, at: socket.socket) -> None:
    """Answers until SIGTERM or SIGINT, and then those requests that have come already."""
    # Pillow's remarks on odd pictures; its own way to be quiet is not for threads.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    allow_many_files()
    config = uvicorn.Config(
        application(model, limits),
        http=_protocol(limits.idle_s),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )
    _Server(config).run([at])


class _Server(uvicorn.Server):
    """Ends without an error when it is told to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _protocol(idle_s: float) -> type[asyncio.Protocol]:
    class Protocol(H11Protocol):
        """Closes a connection on which no request begins, or whose head does not end.

        uvicorn limits the time between two requests, but neither that before the first nor that of
        a head that comes byte by byte.
        """

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.end = self.loop.call_later(idle_s, self.timeout_keep_alive_handler)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle and not self.cycle.response_complete:
                self.end.cancel()

        def on_response_complete(self) -> None:
            self.end.cancel()
            self.end = self.loop.call_later(idle_s, self.timeout_keep_alive_handler)
            super().on_response_complete()
            if not self.cycle.response_complete:  # the next one was there already
                self.end.cancel()

        def connection_lost(self, exc: Exception | None) -> None:
            self.end.cancel()
            super().connection_lost(exc)

    return Protocol


def allow_many_files() -> None:
    """Allows as many connections as the system does, where it counts them."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
