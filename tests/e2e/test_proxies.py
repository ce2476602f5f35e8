"""The examples of ``deploy/proxy``: large pictures pass, streams are not held back."""

import base64
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tools.stack import ROOT, Stack, free_ports, wait_until

pytestmark = pytest.mark.slow

FOLDER = ROOT / "deploy" / "proxy"
START_SECONDS = 30
SERVER, PROXY = "127.0.0.1:8000", "127.0.0.1:8080"
MODEL = "glm-4.6v-flash"
# GLM_MAX_IMAGE_BYTES is 20 MiB; in base64 these are 27 MB, of the 32 MiB that a body may have.
SIDE = 2580
PROXIES = {
    "nginx": ("nginx.conf", ["-g", "daemon off;", "-c"]),
    "haproxy": ("haproxy.cfg", ["-db", "-f"]),
    "envoy": ("envoy.yaml", ["--log-level", "warn", "--use-dynamic-base-id", "-c"]),
}


def noise(side: int) -> bytes:
    """A PNG that nothing could compress."""
    row = 3 * side
    rows = b"".join(b"\0" + os.urandom(row) for _ in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 0)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def program(name: str) -> str | None:
    """Where a proxy is; Envoy comes from PyPI, the others from Debian, beside the system's."""
    places = (os.environ["PATH"], str(Path(sys.executable).parent), "/usr/sbin")
    return shutil.which(name, path=os.pathsep.join(places))


@pytest.fixture(scope="module", params=PROXIES)
def proxy(
    request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a proxy before the server, run with its example's ports and folders changed."""
    name: str = request.param
    file, arguments = PROXIES[name]
    binary = program(name)
    if binary is None:
        pytest.skip(f"{name} is not installed; tests/run.sh says how")
    folder, (port,) = tmp_path_factory.mktemp(name), free_ports(1)
    text = (FOLDER / file).read_text()
    changes = {SERVER: f"127.0.0.1:{stack.port}", PROXY: f"127.0.0.1:{port}"}
    if name == "envoy":
        changes = {
            f"address: 127.0.0.1, port_value: {end}": f"address: 127.0.0.1, port_value: {new}"
            for end, new in ((8000, stack.port), (8080, port))
        }
    if name == "nginx":
        changes["/tmp/"] = f"{folder}/"  # also where other tests would find their own
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    config = folder / file
    config.write_text(text)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [binary, *arguments, str(config)], stdout=log, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or is_healthy(url), START_SECONDS)
        assert process.poll() is None, (folder / "log").read_text()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)


def is_healthy(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/v1/health").status_code == 200
    except httpx2.TransportError:
        return False


def in_flight(stack: Stack) -> int:
    """Requests in the frontend, by its own count."""
    (line,) = (
        line
        for line in httpx2.get(f"{stack.base_url}/metrics").text.splitlines()
        if line.startswith("glm_frontend_requests_in_flight ")
    )
    return int(float(line.split()[1]))


def test_a_large_picture_passes(proxy: str) -> None:
    picture = noise(SIDE)
    assert 19_500_000 < len(picture) < 20 * 2**20
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    image = {"type": "image_url", "image_url": {"url": url, "detail": "low"}}
    content = [image, {"type": "text", "text": "What is in this image?"}]
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        "reasoning_effort": "none",
    }
    answer = httpx2.post(f"{proxy}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["prompt_tokens_details"]["image_tokens"] > 0


def test_what_is_too_large_is_a_413(proxy: str) -> None:
    body = b'{"x": "' + b"x" * 34_000_000 + b'"}'
    headers = {"content-type": "application/json"}
    answer = httpx2.post(f"{proxy}/v1/chat/completions", content=body, headers=headers, timeout=60)
    assert answer.status_code == 413


def test_a_stream_is_not_held_back_and_leaving_cancels_it(proxy: str, stack: Stack) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Who are you?"}],
        "max_tokens": 3000,
        "ignore_eos": True,
        "stream": True,
    }
    with httpx2.stream("POST", f"{proxy}/v1/chat/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200
        lines = (line for line in answer.iter_lines() if line.startswith("data: "))
        chunks = [json.loads(next(lines).removeprefix("data: ")) for _ in range(3)]
        assert chunks[1]["choices"][0]["delta"]
        assert in_flight(stack) == 1  # the answer is not complete
    wait_until(lambda: in_flight(stack) == 0, 20)


def test_a_requests_id_goes_through(proxy: str, stack: Stack) -> None:
    answer = httpx2.get(f"{proxy}/v1/models", headers={"x-request-id": "through-a-proxy"})
    assert answer.headers["x-request-id"] == "through-a-proxy"
    wait_until(lambda: "through-a-proxy" in stack.log, 10)
