"""Measures `cnnkit serve` against the bare runtime, for minutes, and with 10,000 connections.

    python -m benchmarks.serving                              # about nine minutes; two cores
    python -m benchmarks.serving saved_models/mine --seconds 20

The bundle is `saved_models/lenet_8kb` if no other is named. The server is a process of its own, as
`cnnkit serve` starts it, and the client, which shares the cores with it, sends requests of one
picture over connections that stay open: each the next one when it has its answer. `pixels` are
numbers in JSON, `file` is a PNG in Base64. The row with the most pixels takes `--seconds`, the
others a fifth of that. The bare runtime gets the same picture from as many threads, each with an
interpreter, before and after. Errors are answers that are not 200, or not those of the bare
runtime. Memory is that of the server's process, a fifth of the time into a row and at its end.

Then `--connections` clients connect and say nothing, while others ask as before. The server closes
the silent ones when the time for a request's head is up. The rows go into `benchmarks/serving.md`.
"""

import argparse
import asyncio
import base64
import io
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from apps.rest.served import cores
from apps.serve import allow_many_files
from apps.serve import choose
from cnnkit import files
from cnnkit.data.pictures import of_pixels
from export.bundle import Bundle
from export.runtime import open_model

TABLE = Path(__file__).with_suffix(".md")
BUNDLE = Path("saved_models/lenet_8kb")
# What is sent, and over how many connections.
CASES = (("pixels", 1), ("pixels", 16), ("file", 16))
LONGEST = ("pixels", 16)
SHARE = 5
HEAD = "| what | at once | requests/s | p50 ms | p99 ms | errors | memory MB |\n" + "|---" * 7 + "|"


def bare(path: Path, picture: np.ndarray, threads: int, seconds: float) -> list[float]:
    """Returns the seconds of each call of the runtime, from several threads."""
    predictors = [open_model(path).predict for _ in range(threads)]
    taken: list[list[float]] = [[] for _ in predictors]
    end = time.perf_counter() + seconds

    def work(predict: Callable[[np.ndarray], np.ndarray], mine: list[float]) -> None:
        while (start := time.perf_counter()) < end:
            predict(picture)
            mine.append(time.perf_counter() - start)

    workers = [
        threading.Thread(target=work, args=pair) for pair in zip(predictors, taken, strict=True)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return [t for mine in taken for t in mine]


@contextmanager
def serving(bundle: Path, form: str) -> Any:
    """Starts the server, and yields its process and the address of the model."""
    code = "import sys; from apps.cli import main; sys.exit(main())"
    options = ["serve", str(bundle), "--port", "0", "--format", form]
    command = [sys.executable, "-c", code, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline() if process.stdout else ""
        found = re.search(r"on http://([\d.]+):(\d+)(\S+)\. Ctrl-C", line)
        if not found:
            raise SystemExit(f"the server did not start: {line}")
        try:
            yield process, (found[1], int(found[2]), found[3])
        finally:
            process.terminate()


def request(path: str, kind: str, picture: np.ndarray) -> bytes:
    """Returns a whole request."""
    if kind == "pixels":
        body: dict[str, Any] = {"instances": picture.astype(float).tolist()}
    else:
        file = io.BytesIO()
        of_pixels(picture[0]).save(file, "PNG")
        content = {"b64": base64.b64encode(file.getvalue()).decode()}
        body = {"signature_name": "serving_bytes", "instances": [content]}
    text = json.dumps(body).encode()
    return (
        f"POST {path}:predict HTTP/1.1\r\nHost: b\r\nContent-Length: {len(text)}\r\n\r\n".encode()
        + text
    )


class Load:
    """Clients that ask the same again and again.

    Args:
        address: Host, port and path of the model.
        sent: A whole request.
        want: The probabilities that must come back.
    """

    def __init__(self, address: tuple[str, int, str], sent: bytes, want: np.ndarray) -> None:
        self.host, self.port, _ = address
        self.sent, self.want = sent, want
        self.taken: list[float] = []
        self.errors = 0

    async def run(self, clients: int, seconds: float) -> None:
        """Asks from several connections for some seconds."""
        end = time.perf_counter() + seconds
        await asyncio.gather(*(self._client(end) for _ in range(clients)))

    async def _client(self, end: float) -> None:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        last = b""
        while (start := time.perf_counter()) < end:
            writer.write(self.sent)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            self.taken.append(time.perf_counter() - start)
            if not head.startswith(b"HTTP/1.1 200 ") or (body != last and not self._right(body)):
                self.errors += 1
            last = body
        writer.close()

    def _right(self, body: bytes) -> bool:
        return np.allclose(json.loads(body)["predictions"], self.want, atol=1e-4)


def memory(process: Any) -> float:
    """Returns the megabytes that a process has in memory, on Linux."""
    text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+)", text)
    return int(found[1]) * 1024 / 1e6 if found else float("nan")


async def loaded(load: Load, process: Any, clients: int, seconds: float) -> tuple[float, float]:
    """Returns the memory a fifth into some seconds of load, and at their end."""
    work = asyncio.create_task(load.run(clients, seconds))
    await asyncio.sleep(seconds / SHARE)
    early = memory(process)
    await work
    return early, memory(process)


async def crowded(load: Load, process: Any, count: int, seconds: float) -> tuple[list[str], str]:
    """Returns the row of a load beside many silent connections, and what became of those."""
    start = time.perf_counter()
    silent = []
    for _ in range(0, count, 100):
        opened = (asyncio.open_connection(load.host, load.port) for _ in range(100))
        silent += await asyncio.gather(*opened)
    connected = time.perf_counter() - start
    before = time.perf_counter()
    await load.run(LONGEST[1], seconds)
    row = line(
        f"pixels, beside {len(silent):,} silent connections",
        LONGEST[1],
        load.taken,
        time.perf_counter() - before,
    )
    most = memory(process)
    ends = await asyncio.gather(*(reader.read() for reader, _ in silent))
    closed = time.perf_counter() - start
    for _, writer in silent:
        writer.close()
    told = (
        f"{len(silent):,} connections were open after {connected:.1f} s. The server had closed the "
        f"last of them {closed:.1f} s after the first; {sum(map(bool, ends))} of them were sent "
        "something."
    )
    return [*row, str(load.errors), f"{most:.0f}"], told


def line(what: str, clients: int, taken: list[float], seconds: float) -> list[str]:
    """Returns the first cells of a row."""
    p50, p99 = (1000 * float(np.percentile(taken, q)) for q in (50, 99))
    return [what, str(clients), f"{len(taken) / seconds:.0f}", f"{p50:.2f}", f"{p99:.2f}"]


def measure(bundle: Path, seconds: float, connections: int) -> str:
    """Returns the page."""
    opened = Bundle.open(bundle)
    row = choose(opened, None)
    path = bundle / row.path(opened.name)
    shape = open_model(path).input_shape
    picture = np.random.default_rng(0).integers(0, 256, (1, *shape)).astype(np.uint8)
    want = open_model(path).predict(picture)
    share, rows = seconds / SHARE, []

    def alone(threads: int) -> None:
        taken = bare(path, picture, threads, share)
        rows.append([*line("bare runtime", threads, taken, share), "", ""])

    for threads in range(1, cores() + 1):
        alone(threads)
    with serving(bundle, row.name) as (process, address):
        for kind, clients in CASES:
            load = Load(address, request(address[2], kind, picture), want)
            long = seconds if (kind, clients) == LONGEST else share
            early, late = asyncio.run(loaded(load, process, clients, long))
            cells = line(kind, clients, load.taken, long)
            rows.append([*cells, str(load.errors), f"{early:.0f}, {late:.0f}"])
        load = Load(address, request(address[2], LONGEST[0], picture), want)
        crowd, told = asyncio.run(crowded(load, process, connections, min(share, 5.0)))
        rows.append(crowd)
    for threads in range(1, cores() + 1):
        alone(threads)
    text = "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
    return (
        f"# cnnkit serve\n\n{row.name} of `{bundle.as_posix()}`, pictures of "
        f"{'x'.join(map(str, shape))}; the longest row takes {seconds:g} s. Made by `python -m "
        "benchmarks.serving`, whose text says what the columns are, on a machine of "
        f"{cores()} cores that client and server share.\n\n{HEAD}\n{text}\n\n{told}\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Measures a bundle and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="?", type=Path, default=BUNDLE)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--table", type=Path, default=TABLE)
    args = parser.parse_args(argv)
    allow_many_files()
    files.write_text(args.table, measure(args.bundle, args.seconds, args.connections))
    return 0


if __name__ == "__main__":
    sys.exit(main())
