"""A running `cnnkit serve`, and clients that need more than a library gives."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.apps.conftest import PROGRAM


@dataclass(frozen=True)
class Server:
    """A process, the address of its model, and how to end it."""

    process: subprocess.Popen
    model: str

    @property
    def root(self):
        return self.model.partition("/v1/")[0]

    @property
    def address(self):
        host, _, port = self.root.removeprefix("http://").rpartition(":")
        return host, int(port)

    def get(self, path=""):
        return httpx.get(self.model + path, timeout=30)

    def post(self, verb, body):
        return httpx.post(f"{self.model}:{verb}", content=json.dumps(body), timeout=30)

    def raw(self, content):
        """Sends bytes and returns all that comes back until the server closes."""
        with socket.create_connection(self.address, timeout=30) as client:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                client.sendall(content)
            return received(client)

    def memory(self):
        """Returns the resident bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", text)[1])


def received(client):
    found = b""
    with contextlib.suppress(ConnectionResetError, TimeoutError):
        while part := client.recv(1 << 16):
            found += part
    return found


def head(path, length, *more):
    """Returns the head of a request."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@contextlib.contextmanager
def serving(bundle, *options, **environment):
    """Runs the installed command until the end of the block."""
    process = subprocess.Popen(
        [PROGRAM, "serve", bundle, "--port", "0", *map(str, options)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        line = process.stdout.readline()
        yield Server(process, re.search(r"on (http://\S+)\. Ctrl-C", line)[1])
    finally:
        process.kill()
        process.communicate()


def wait_until(condition, seconds=20):
    """Waits for something to become so."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)
