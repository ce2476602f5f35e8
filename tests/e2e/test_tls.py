"""Triton's gRPC with mutual TLS, and pings between requests: real certificates, a real server."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
import trustme

from e2e.calls import chat, content, post, running
from glm_client import TLS, Client, GenerationRequest, UnavailableError
from tools.stack import ROOT, Stack

REQUEST = GenerationRequest(text_input="Who are you?", sampling_parameters={"max_tokens": 3})
PING_SECONDS = 10
# gRPC closes a connection at the third ping that comes too early.
IDLE_SECONDS = 4 * PING_SECONDS + 5


def _write(folder: Path, name: str, ca: trustme.CA, *identities: str) -> TLS:
    """PEM files of a party whose certificate is signed by `ca`."""
    issued = ca.issue_cert(*identities)
    root, certificate, key = (folder / f"{name}-{part}.pem" for part in ("root", "cert", "key"))
    ca.cert_pem.write_to_path(root)
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return TLS(root_certificate=root, certificate=certificate, key=key)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def parties(folder: Path) -> dict[str, TLS]:
    ca = trustme.CA()
    return {
        "server": _write(folder, "server", ca, "127.0.0.1"),
        "client": _write(folder, "client", ca, "client.example"),
        "stranger": _write(folder, "stranger", trustme.CA(), "client.example"),
    }


@pytest.fixture(scope="module")
def secured(folder: Path, parties: dict[str, TLS]) -> Iterator[Stack]:
    """A server whose Triton asks for the certificates of its clients, the frontend among them."""
    server, client = parties["server"], parties["client"]
    options = {
        "grpc-use-ssl": "true",
        "grpc-use-ssl-mutual": "true",
        "grpc-server-cert": server.certificate,
        "grpc-server-key": server.key,
        "grpc-root-cert": server.root_certificate,
    }
    settings = {
        "GLM_TRITON_OPTIONS": " ".join(f"--{name}={value}" for name, value in options.items()),
        "GLM_TRITON_ROOT_CERTIFICATE": str(client.root_certificate),
        "GLM_TRITON_CERTIFICATE": str(client.certificate),
        "GLM_TRITON_KEY": str(client.key),
    }
    with running(folder / "launcher.log", **settings) as stack:
        yield stack


def test_the_frontend_and_a_direct_client_are_answered(
    secured: Stack, parties: dict[str, TLS]
) -> None:
    assert content(post(secured, chat("Who are you?")))
    with Client(secured.grpc_url, tls=parties["client"]) as client:
        assert client.server_ready()
        assert client.generate(REQUEST).num_output_tokens == 3


@pytest.mark.parametrize(
    ("who", "reason"),
    [
        ("nobody", "Socket closed"),
        ("no certificate", "Socket closed"),
        ("stranger", "Socket closed"),
        ("wrong root", "CERTIFICATE_VERIFY_FAILED"),
        ("other host", "Hostname Verification Check failed"),
    ],
)
def test_others_are_not_let_in(
    secured: Stack, parties: dict[str, TLS], who: str, reason: str
) -> None:
    client, stranger = parties["client"], parties["stranger"]
    root, url = client.root_certificate, secured.grpc_url
    tls = {
        "nobody": None,
        "no certificate": TLS(root_certificate=root),
        "stranger": replace(stranger, root_certificate=root),
        "wrong root": replace(client, root_certificate=stranger.root_certificate),
        "other host": client,
    }[who]
    if who == "other host":  # the certificate does not name it
        url = url.replace("127.0.0.1", "localhost")
    with Client(url, tls=tls) as direct, pytest.raises(UnavailableError, match=reason):
        direct.generate(REQUEST, timeout=20)


def test_the_command_line_takes_the_files(secured: Stack, parties: dict[str, TLS]) -> None:
    tls = parties["client"]
    command = [
        sys.executable, "-m", "client", "--url", secured.grpc_url, "--max-tokens", "200",
        "--root-certificate", str(tls.root_certificate),
        "--certificate", str(tls.certificate), "--key", str(tls.key), "Who are you?",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip(), done.stderr
    plain = [*command[:7], "Who are you?"]
    done = subprocess.run(plain, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "closed the connection: it may use TLS" in done.stderr
    without = [word for word in command if word not in ("--key", str(tls.key))]
    done = subprocess.run(without, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "certificate and key: give both" in done.stderr


@pytest.mark.slow
def test_pings_keep_an_idle_connection_open(secured: Stack, parties: dict[str, TLS]) -> None:
    tls = parties["client"]
    files = [tls.root_certificate, tls.key, tls.certificate]
    credentials = grpc.ssl_channel_credentials(*(Path(str(file)).read_bytes() for file in files))
    options = [
        ("grpc.keepalive_time_ms", PING_SECONDS * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    states: list[grpc.ChannelConnectivity] = []
    with grpc.secure_channel(secured.grpc_url, credentials, options) as channel:
        channel.subscribe(states.append, try_to_connect=True)
        grpc.channel_ready_future(channel).result(timeout=60)
        time.sleep(IDLE_SECONDS)
        assert states[-1] is grpc.ChannelConnectivity.READY
        assert states.count(grpc.ChannelConnectivity.READY) == 1
    with Client(secured.grpc_url, tls=tls, keepalive=PING_SECONDS) as client:
        assert client.generate(REQUEST).num_output_tokens == 3
