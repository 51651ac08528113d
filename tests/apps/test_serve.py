"""`cnnkit serve`: real servers in processes of their own, real sockets, clients of every kind."""

import asyncio
import base64
import contextlib
import io
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import json_format
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from apps.report import snippets
from apps.rest import Limits
from apps.serve import choose
from apps.serve import listen
from export import bundle as bundles
from tests.apps.served import head
from tests.apps.served import received
from tests.apps.served import serving
from tests.apps.served import wait_until
from tests.export import corners

pytestmark = pytest.mark.export
README = Path(__file__).parents[2] / "README.md"
FORMATS = ["tflite", "tflite-int8", "onnx", "savedmodel"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle."""
    folder = tmp_path_factory.mktemp("served")
    subject = corners.subject(corners.save(folder / "corners.npz"))
    bundles.write(subject, FORMATS, out=folder / "corners")
    return folder / "corners"


@pytest.fixture(scope="module")
def server(folder):
    """A server of the float32 `.tflite` file."""
    with serving(folder, "--format", "tflite") as server:
        yield server


@pytest.fixture(scope="module")
def want():
    x, _ = corners.pictures(6, seed=3)
    return x, np.asarray(corners.network(end="deployable")(x.astype("float32")))


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def check(server, want):
    """Asks for what must be answered as if nothing had happened."""
    x, y = want
    reply = server.post("predict", {"instances": x.tolist()})
    assert reply.status_code == 200, reply.text
    np.testing.assert_allclose(reply.json()["predictions"], y, atol=1e-4)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_answers_every_form_of_a_request(folder, want, name):
    x, y = want
    files = [b64(png(picture)) for picture in x]
    by_name = {"signature_name": "serving_bytes"}
    bodies = [
        ({"instances": x.tolist()}, "predictions"),
        ({"instances": [{"image": row} for row in x.tolist()]}, "predictions"),
        ({"inputs": x.tolist(), "signature_name": "serving_default"}, "outputs"),
        ({"inputs": {"image": x.tolist()}}, "outputs"),
        ({"instances": files, **by_name}, "predictions"),
        ({"instances": [{"image_bytes": file} for file in files], **by_name}, "predictions"),
        ({"inputs": files, **by_name}, "outputs"),
        ({"inputs": {"image_bytes": files}, **by_name}, "outputs"),
    ]
    with serving(folder, "--format", name) as server:
        for body, key in bodies:
            reply = server.post("predict", body)
            assert reply.status_code == 200, reply.text
            assert reply.headers["content-type"] == "application/json"
            assert set(reply.json()) == {key}
            np.testing.assert_allclose(reply.json()[key], y, atol=0.05 if "int8" in name else 1e-4)
        with ThreadPoolExecutor(6) as pool:  # at once: batches where there are any
            one = [{"instances": [row]} for row in x.tolist()]
            replies = list(pool.map(lambda body: server.post("predict", body), one * 5))
        got = [reply.json()["predictions"][0] for reply in replies]
        np.testing.assert_allclose(got, np.tile(y, (5, 1)), atol=0.05 if "int8" in name else 1e-4)


def test_classify(server, want):
    x, y = want
    examples = [{"image_bytes": b64(png(picture))} for picture in x[:3]]
    examples += [{"image": picture.ravel().astype(float).tolist()} for picture in x[3:]]
    body = {"signature_name": "serving_classify", "examples": examples, "context": {"who": "me"}}
    reply = server.post("classify", body)
    assert reply.status_code == 200, reply.text
    for row, p in zip(reply.json()["results"], y, strict=True):
        order = np.argsort(-p)
        assert [label for label, _ in row] == [corners.LABELS[k] for k in order]
        np.testing.assert_allclose([score for _, score in row], p[order], atol=1e-4)


def test_the_bodies_of_the_bundle_are_for_both(folder, server):
    for name, verb in (("example", "predict"), ("bytes", "predict"), ("classify", "classify")):
        body = json.loads((folder / f"serving/request_{name}.json").read_text("utf-8"))
        assert server.post(verb, body).status_code == 200


def test_status_and_metadata_are_those_of_tf_serving(folder, server):
    fine = {"error_code": "OK", "error_message": ""}
    status = {"version": "1", "state": "AVAILABLE", "status": fine}
    for path in ("", "/versions/1"):
        assert server.get(path).json() == {"model_version_status": [status]}
    proto = saved_model_pb2.SavedModel.FromString(
        (folder / "serving/corners/1/saved_model.pb").read_bytes()
    )
    for path in ("/metadata", "/versions/1/metadata"):
        told = server.get(path).json()
        assert told["model_spec"] == {"name": "corners", "signature_name": "", "version": "1"}
        found = told["metadata"]["signature_def"]["signature_def"]
        assert set(found) == {"serving_default", "serving_bytes", "serving_classify"}
        for name, signature in found.items():
            tensors = {**signature["inputs"], **signature["outputs"]}
            wanted = json_format.MessageToDict(
                proto.meta_graphs[0].signature_def[name],
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            wanted.pop("defaults")
            for key, tensor in {**wanted["inputs"], **wanted["outputs"]}.items():
                tensor["name"] = tensors[key]["name"]  # a matter of the graph
            assert signature == wanted


def test_health_and_metrics(server, want):
    check(server, want)
    assert server.raw(b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"ok\n")
    text = server.raw(METRICS).decode()
    assert "content-type: text/plain; version=0.0.4" in text
    counts = dict(re.findall(r"^(cnnkit_\S+) (\S+)$", text, re.MULTILINE))
    assert int(counts['cnnkit_requests_total{verb="predict",status="200"}']) >= 1
    assert int(counts["cnnkit_pictures_total"]) >= len(want[0])
    total = counts["cnnkit_request_seconds_count"]
    assert counts['cnnkit_request_seconds_bucket{le="+Inf"}'] == total
    assert counts["cnnkit_held_bytes"] == counts["cnnkit_waiting_requests"] == "0"


def bomb():
    """A PNG of 900 million white pixels in a few kilobytes."""
    rows = zlib.compress(b"\0" * 4000 * 1000, 9)

    def chunk(kind, content):
        check_sum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + check_sum

    size = (30_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def animated():
    file = io.BytesIO()
    first, second = (Image.new("L", (8, 8), value) for value in (0, 255))
    first.save(file, "GIF", save_all=True, append_images=[second])
    return file.getvalue()


def white(side):
    """A PNG that takes long and is short."""
    file = io.BytesIO()
    Image.new("1", (side, side), 1).save(file, "PNG")
    return file.getvalue()


GOOD = [[[0.0]] * 8] * 8
METRICS = b"GET /metrics HTTP/1.0\r\n\r\n"
# Has the server close the connection, which ends its answer.
LAST = b"GET /healthz HTTP/1.0\r\n\r\n"
CUT = png(corners.pictures(1)[0][0])[:60]
PREDICT = {
    "empty": (b"", "JSON Parse error"),
    "no JSON": (b'{"instances": [', "JSON Parse error"),
    "no text": (b"\xff\xfe\x00\xd8", "JSON Parse error"),
    "a list": (b"[1]", "not a JSON object"),
    "no input": (b"{}", "'instances' or 'inputs'"),
    "two inputs": (b'{"inputs": [1], "instances": [1]}', "'instances' or 'inputs'"),
    "no rows": (b'{"instances": []}', "no picture"),
    "no list": (b'{"instances": 3}', "to be a list"),
    "a scalar": (b'{"inputs": 3}', "Expected a list"),
    "one file": (b'{"inputs": {"b64": ""}, "signature_name": "serving_bytes"}', "Expected a list"),
    "another signature": (b'{"signature_name": "x", "instances": [1]}', "'x' not found"),
    "a number of signature": (b'{"signature_name": 7, "instances": [1]}', "7 not found"),
    "classify's": (b'{"signature_name": "serving_classify", "inputs": []}', "for :classify"),
    "another name": (b'{"instances": [{"picture": []}]}', "must have the key 'image'"),
    "mixed": (b'{"instances": [{"image": []}, []]}', "must have the key 'image'"),
    "shape": (json.dumps({"instances": [GOOD[:7]]}), "Expected shape (n, 8, 8, 1)"),
    "ragged": (json.dumps({"instances": [[*GOOD[:7], [[0.0]]]]}), "Expected shape"),
    "texts": (json.dumps({"instances": [[[["1"]] * 8] * 8]}), "Expected numbers"),
    "nulls": (json.dumps({"instances": [[[[None]] * 8] * 8]}), "Expected numbers"),
    "truths": (json.dumps({"instances": [[[[True]] * 8] * 8]}), "Expected numbers"),
    "objects": (json.dumps({"instances": [[[[{}]] * 8] * 8]}), "Expected numbers"),
    "NaN": (json.dumps({"instances": [[[[float("nan")]] * 8] * 8]}), "NaN or infinity"),
    "infinity": (json.dumps({"instances": [[[[float("inf")]] * 8] * 8]}), "NaN or infinity"),
    "1e39": (json.dumps({"instances": [[[[1e39]] * 8] * 8]}), "NaN or infinity"),
    "long integer": (json.dumps({"instances": [[[[10**400]] * 8] * 8]}), "NaN or infinity"),
    "longer integer": (b'{"instances": [' + b"9" * 10_000 + b"]}", "JSON Parse error"),
    "deep": (b'{"instances": ' + b"[" * 5_000 + b"]" * 5_000 + b"}", "nested too deeply"),
    "deep objects": (b'{"a":' * 5_000 + b"1" + b"}" * 5_000, "nested too deeply"),
    "65 deep": (b'{"instances": ' + b"[" * 65 + b"]" * 65 + b"}", "Expected shape"),
    "a long text": (
        json.dumps({"instances": [["x" * 10**6, *range(10**5)]]}),
        "Expected shape",
    ),
}
FILES = {
    "text": (b64(b"a letter"), "not-a-picture"),
    "nothing": (b64(b""), "empty"),
    "cut": (b64(CUT), "truncated"),
    "bomb": (b64(bomb()), "too-large"),
    "animated": (b64(animated()), "animated"),
    "no Base64": ({"b64": "?"}, "base64"),
    "not said": ("a letter", "not-a-picture"),
    "half a letter": ("\ud800", "not-a-picture"),
    "a number": (7, "for a picture file"),
    "more keys": ({"b64": "", "b": 1}, "must have the key"),
}
CLASSIFY = {
    "without its signature": ({"examples": [{}]}, 'Add "signature_name": "serving_classify"'),
    "no examples": ({"signature_name": "serving_classify"}, "Expected 'examples'"),
    "none": ({"signature_name": "serving_classify", "examples": []}, "no picture"),
    "no object": ({"signature_name": "serving_classify", "examples": [1]}, "a JSON object"),
    "nothing in it": ({"signature_name": "serving_classify", "examples": [{}]}, "must have"),
    "integers": (
        {"signature_name": "serving_classify", "examples": [{"image": [0] * 64}]},
        "decimal point",
    ),
    "too few": (
        {"signature_name": "serving_classify", "examples": [{"image": [0.5] * 63}]},
        "Expected 64 numbers",
    ),
    "two files": (
        {"signature_name": "serving_classify", "examples": [{"image_bytes": [b64(b"")] * 2}]},
        "Expected one value",
    ),
}


@pytest.mark.parametrize("name", PREDICT)
def test_a_bad_predict_request(server, want, name):
    body, message = PREDICT[name]
    content = body if isinstance(body, bytes) else body.encode()
    reply = server.raw(head("/v1/models/corners:predict", len(content)) + content + LAST)
    refused(reply, 400, message)
    check(server, want)


def refused(reply, status, message):
    start, _, rest = reply.partition(b"\r\n\r\n")
    assert start.startswith(f"HTTP/1.1 {status} ".encode()), reply[:500]
    assert b"content-type: application/json" in start
    length = int(re.search(rb"content-length: (\d+)", start)[1])
    error = json.loads(rest[:length])["error"]
    assert message in error
    assert len(error) < 400


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file(server, want, name):
    value, message = FILES[name]
    reply = server.post("predict", {"signature_name": "serving_bytes", "instances": [value]})
    assert reply.status_code == 400
    assert message in reply.json()["error"]
    check(server, want)


@pytest.mark.parametrize("name", CLASSIFY)
def test_a_bad_classify_request(server, name):
    body, message = CLASSIFY[name]
    reply = server.post("classify", body)
    assert reply.status_code == 400
    assert message in reply.json()["error"]


def test_a_bad_file_is_a_matter_of_its_own_request(folder, want):
    """Also where it is in one batch with others."""
    x, y = want
    with serving(folder, "--format", "onnx", "--batch-wait", 200) as server:
        bodies = [{"signature_name": "serving_bytes", "instances": [b64(png(p))]} for p in x]
        bodies[2] = {"signature_name": "serving_bytes", "instances": [b64(b"a letter")]}
        with ThreadPoolExecutor(6) as pool:
            replies = list(pool.map(lambda body: server.post("predict", body), bodies))
        assert [reply.status_code for reply in replies] == [200, 200, 400, 200, 200, 200]
        for k in (0, 1, 3, 4, 5):
            np.testing.assert_allclose(replies[k].json()["predictions"][0], y[k], atol=1e-4)
        text = server.raw(METRICS).decode()
        assert int(re.search(r"^cnnkit_model_calls_total (\d+)", text, re.MULTILINE)[1]) < 5


def test_paths_that_are_not_there(server):
    for request, status in (
        (b"GET /", 404),
        (b"GET /v1/models/other", 404),
        (b"GET /v1/models/corners/versions/2/metadata", 404),
        (b"GET /v1/models/corners/versions/x", 404),
        (b"POST /v1/models/other:predict", 404),
        (b"POST /v1/models/corners:regress", 405),
        (b"DELETE /v1/models/corners", 405),
        (b"GET /v1/models/<script>", 404),
    ):
        reply = server.raw(request + b" HTTP/1.1\r\nConnection: close\r\nHost: t\r\n\r\n")
        refused(reply, status, "")


def test_limits_of_size(server, want):
    path = "/v1/models/corners:predict"
    refused(server.raw(head(path, 10**12)), 413, "longer than 16777216 bytes")
    endless = head(path, 0, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    refused(server.raw(endless + 17 * chunk), 413, "longer than")
    lists = b'{"instances": [' + b"[]," * 10**5 + b"[]]}"
    refused(server.raw(head(path, len(lists)) + lists), 413, "More lists")
    many = {"signature_name": "serving_bytes", "instances": [""] * 129}
    reply = server.post("predict", many)
    assert (reply.status_code, "limit is 128" in reply.text) == (413, True)
    zipped = head(path, 3, "Content-Encoding: gzip") + b"abc"
    refused(server.raw(zipped), 415, "Compressed")
    reply = server.raw(b"GET / HTTP/1.1\r\nX: " + b"x" * 10**5)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert server.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\r\n\r\n").startswith(
        b"HTTP/1.1 400 "
    )
    check(server, want)


def test_slow_clients(folder, want):
    body = json.dumps({"instances": want[0].tolist()}).encode()
    start = head("/v1/models/corners:predict", len(body))

    def drip(content, first=0):
        """Sends some of it at once, and the rest so slowly that it never ends."""
        with socket.create_connection(server.address, timeout=30) as client:
            client.sendall(content[:first])
            begun = time.monotonic()
            client.settimeout(0.2)
            reply = b""
            for k in range(first, len(content)):
                try:
                    client.sendall(content[k : k + 1])
                    if (part := client.recv(1 << 16)) == b"":
                        break
                    reply += part
                except TimeoutError:
                    continue
                except (BrokenPipeError, ConnectionResetError):
                    break
            return reply, time.monotonic() - begun

    with serving(folder, "--timeout", 3) as server, ThreadPoolExecutor(8) as pool:
        silent = pool.submit(lambda: received(socket.create_connection(server.address, timeout=30)))
        heads = [pool.submit(drip, start) for _ in range(3)]
        halves = [pool.submit(drip, start + body, len(start) + 9) for _ in range(3)]
        check(server, want)
        assert silent.result() == b""
        for reply, seconds in (task.result() for task in heads):
            assert (reply, seconds < 6) == (b"", True)
        for reply, seconds in (task.result() for task in halves):
            refused(reply, 408, "time")
            assert seconds < 9
        check(server, want)


def test_many_connections(server, want):
    """Some hundreds that say nothing, and some hundreds that ask at once."""
    body = json.dumps({"instances": [want[0][0].tolist()]}).encode()
    request = head("/v1/models/corners:predict", len(body), "Connection: close") + body

    async def ask():
        reader, writer = await asyncio.open_connection(*server.address)
        writer.write(request)
        reply = await reader.read()
        writer.close()
        return reply.split(b" ", 2)[1]

    async def crowd():
        silent = [await asyncio.open_connection(*server.address) for _ in range(300)]
        statuses = await asyncio.gather(*(ask() for _ in range(300)))
        for _, writer in silent:
            writer.close()
        return statuses

    assert set(asyncio.run(crowd())) <= {b"200", b"503"}
    check(server, want)


def test_the_pixels_of_a_file_are_counted_before_it_is_decoded(folder, server, want):
    """A file of 28 kB that would become 81 MB, or 243 in colour; nobody could wait for 128."""
    many = {"signature_name": "serving_bytes", "instances": [b64(white(9000))] * 128}
    reply = server.post("predict", many)
    assert reply.status_code == 400
    assert "9000 x 9000 pixels, the limit is 50,000,000 in all (too-large)" in reply.text
    one = {"signature_name": "serving_bytes", "instances": [b64(white(3000))]}
    assert server.post("predict", one).status_code == 200
    with serving(folder, "--format", "tflite", "--max-megapixels", 8) as strict:
        assert "the limit is 8,000,000" in strict.post("predict", one).text
    check(server, want)


def test_a_full_queue_says_so_at_once(folder, want):
    """Pictures that take long hold the worker; others wait, as many as there is room for."""
    long = {"signature_name": "serving_bytes", "instances": [b64(white(7000))] * 80}
    body = json.dumps({"instances": [want[0][0].tolist()]}).encode()
    request = head("/v1/models/corners:predict", len(body)) + body
    options = ("--workers", 1, "--timeout", 4, "--format", "tflite")
    with serving(folder, *options) as server, ThreadPoolExecutor(1) as pool:
        busy = pool.submit(server.post, "predict", long)
        time.sleep(1)
        clients = [socket.create_connection(server.address, timeout=30) for _ in range(300)]
        for client in clients:
            client.sendall(request)
        statuses = [client.recv(12)[9:] for client in clients]
        for client in clients:
            client.close()
        assert statuses.count(b"503") == 300 - Limits.waiting
        assert set(statuses) <= {b"200", b"503", b"504"}
        assert busy.result().status_code == 504
        check(server, want)


def test_many_long_bodies_at_once(folder, want):
    """Each is short enough, but all together are not."""
    content = head("/v1/models/corners:predict", 2**20) + b" " * (2**20 - 10)
    with serving(folder, "--max-body", 1, "--timeout", 6) as server:
        clients = []
        for _ in range(20):  # of which 16 may be read
            clients.append(socket.create_connection(server.address, timeout=30))
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                clients[-1].sendall(content)
        replies = []
        for client in clients:
            with contextlib.suppress(ConnectionResetError):
                replies.append(client.recv(12)[9:])
            client.close()
        assert set(replies) == {b"503", b"408"}
        wait_until(lambda: b"\ncnnkit_held_bytes 0\n" in server.raw(METRICS))
        check(server, want)


def test_the_memory_does_not_grow(server, want):
    bad = [PREDICT["a long text"][0].encode(), PREDICT["deep"][0], b"{" * 10**6]
    for round_ in range(6):
        for body in bad:
            server.raw(head("/v1/models/corners:predict", len(body), "Connection: close") + body)
        check(server, want)
        if round_ == 2:
            before = server.memory()
    assert server.memory() - before < 30 * 2**20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_end_waits_for_the_answers_that_are_due(folder, want, number):
    body = json.dumps({"instances": want[0].tolist()}).encode()
    with serving(folder) as server:
        with socket.create_connection(server.address, timeout=30) as client:
            client.sendall(head("/v1/models/corners:predict", len(body)) + body[:100])
            idle = socket.create_connection(server.address, timeout=30)
            check(server, want)
            server.process.send_signal(number)
            wait_until(lambda: not reachable(server))
            assert idle.recv(10) == b""
            client.sendall(body[100:])
            reply = received(client)
        assert reply.startswith(b"HTTP/1.1 200 ")
        np.testing.assert_allclose(
            json.loads(reply.partition(b"\r\n\r\n")[2])["predictions"], want[1], atol=1e-4
        )
        assert server.process.wait(30) == 0


def reachable(server):
    try:
        socket.create_connection(server.address, timeout=5).close()
    except ConnectionError:
        return False
    return True


def test_answers_are_sent_at_once():
    """Without TCP_NODELAY, each waits 40 ms for the client's acknowledgement."""
    with listen("127.0.0.1", 0) as at, socket.create_connection(at.getsockname()):
        server, _ = at.accept()
        with server:
            assert server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_tensorflow_stays_out(folder):
    code = (
        "import sys\nfrom pathlib import Path\nfrom apps.serve import choose, open_served\n"
        "from apps.rest import application\nfrom export.bundle import Bundle\n"
        "b = Bundle.open(Path(sys.argv[1]))\nrow = choose(b, None)\nopen_served(b, row, 2)\n"
        "print(row.module, *({'tensorflow', 'keras', 'jax', 'onnx'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert done.stdout == "tflite\n", done.stderr


def test_the_fastest_file_answers_unless_another_is_wanted(folder):
    opened = bundles.Bundle.open(folder)
    took = {row["format"]: row["latency_ms"] for row in opened.manifest["verdicts"]}
    assert choose(opened, None).name == min(("tflite", "tflite-int8"), key=took.get)
    assert choose(opened, "onnx").name == "onnx"


def test_what_a_user_does_wrong(folder, cnnkit, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cnnkit("serve", folder, "--port", port)
        assert (done.code, len(done.errors)) == (2, 1)
        assert "Address already in use" in done.err
        assert "--port" in done.err
    for argv, words in (
        (("serve", tmp_path), "Not a bundle"),
        (("serve", folder, "--format", "tflight"), "Closest: tflite"),
        (("serve", folder, "--format", "tflite-fp16"), "no file in the format tflite-fp16"),
        (("serve", folder, "--host", "no such host"), "Cannot listen there"),
        (("serve", folder, "--port", 65536), "65535"),
    ):
        done = cnnkit(*argv)
        assert (done.code, len(done.errors)) == (2, 1), done.err
        assert words in done.err


def test_a_file_that_was_changed_is_not_served(folder, cnnkit, tmp_path):
    own = Path(shutil.copytree(folder, tmp_path / "own"))
    path = own / "tflite" / "corners_float32.tflite"
    path.write_bytes(path.read_bytes() + b"\0")
    done = cnnkit("serve", own, "--format", "tflite", "--port", 0)
    assert (done.code, "changed after the export" in done.err) == (2, True)


def test_the_commands_of_the_readme(digits):
    text = README.read_text("utf-8")
    (serve,) = re.findall(r"cnnkit (serve saved_models/digits)$", text, re.MULTILINE)
    (curl,) = re.findall(r"^curl -d .*$", text, re.MULTILINE)
    where = digits.bundle.parents[1]
    with serving(where / serve.split()[1]) as server:
        port = str(server.address[1])
        command = shlex.split(curl.replace("8501", port))
        done = subprocess.run([*command, "-s"], cwd=where, capture_output=True, text=True)
    ((best, *_),) = json.loads(done.stdout)["results"]
    golden = json.loads((digits.bundle / "golden.json").read_text("utf-8"))
    assert best[0] == golden["pictures"][0]["label"]


def test_the_curl_program_of_the_report(folder, server):
    (program,) = snippets.write(folder, "corners", ["savedmodel"])
    command = program.text.splitlines()[-1].replace("8501", str(server.address[1]))
    done = subprocess.run([*shlex.split(command), "-s"], cwd=folder, capture_output=True, text=True)
    (first, *_) = json.loads((folder / "golden.json").read_text("utf-8"))["pictures"]
    got = json.loads(done.stdout)["predictions"][0]
    np.testing.assert_allclose(got, first["expected"]["savedmodel"], atol=1e-4)
