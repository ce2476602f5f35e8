"""Pictures from data URIs and from the network, and everything that must not be fetched."""

import asyncio
import base64
import gzip
import os
import time
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest

from glm_frontend.errors import APIError, overloaded
from glm_frontend.media.fetch import ImageFetcher, Picture, create_transport, resolve
from glm_frontend.settings import Settings
from unit.frontend.fakes import PIXEL
from waiting import TIMEOUT, until

PUBLIC = "93.184.215.14"
BYTES = b"\x89PNG picture"
BASE64 = base64.b64encode(BYTES).decode()
URL = "https://pictures.example/a.png"
PNG = {"content-type": "image/png"}


class Web:
    """Every host is at ``addresses``; ``answer`` answers; ``requests`` are those that were sent."""

    def __init__(
        self,
        answer: Callable[[httpx2.Request], httpx2.Response] | None = None,
        addresses: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.requests: list[httpx2.Request] = []
        self._answer = answer or (lambda request: png())
        self._addresses = addresses or {}

    def fetcher(self, **settings: Any) -> ImageFetcher:
        return ImageFetcher(Settings(**settings), httpx2.MockTransport(self._send), self._resolve)

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._answer(request)

    async def _resolve(self, host: str, port: int) -> Sequence[str]:
        return self._addresses.get(host, [PUBLIC])


def png(body: bytes = BYTES, headers: Mapping[str, str] = PNG) -> httpx2.Response:
    return httpx2.Response(200, headers=headers, stream=httpx2.ByteStream(body))


def redirect(location: str, status: int = 302) -> httpx2.Response:
    return httpx2.Response(status, headers={"location": location})


async def load(source: str | bytes, *, web: Web | None = None, **settings: Any) -> bytes:
    fetcher = (web or Web()).fetcher(**settings)
    (data,) = await fetcher.load_all([Picture(source, "here")])
    return data


async def refused(source: str | bytes, **options: Any) -> APIError:
    with pytest.raises(APIError) as error:
        await load(source, **options)
    assert (error.value.status, error.value.param) == (400, "here")
    assert error.value.message.startswith("here: ")
    return error.value


# Inline


@pytest.mark.parametrize(
    "uri",
    [
        f"data:image/png;base64,{BASE64}",
        f"DATA:IMAGE/PNG;BASE64,{BASE64}",
        f"data:image/png;name=a.png;base64,{BASE64}",
        f"data:image/png;base64,{BASE64.rstrip('=')}",
        f"  data:image/png;base64,\n{BASE64[:7]}\r\n{BASE64[7:]} \n",
        f"data:image/png;base64,{BASE64.replace('=', '%3D')}",
        f"data:;base64,{BASE64}",
        f"data:None;base64,{BASE64}",
        f"data:text/plain;base64,{BASE64}",
        f"data:application/octet-stream;base64,{BASE64}",
        f"data:image/png; base64,{BASE64}",
        f"data:image/png;charset=utf-8; BASE64 ,{BASE64}",
        f"data:image/png;base64,{BASE64[:8]}%0D%0A%20{BASE64[8:]}",
        "data:image/png,%89PNG%20picture",
        BASE64,
        f"{BASE64[:5]}\n{BASE64[5:].rstrip('=')}",
    ],
)
async def test_data_uris(uri: str) -> None:
    assert await load(uri) == BYTES


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,abc!",
        "data:image/png;base64,/9j/4AAQSkZJRgABAQE...",
        "data:image/png;base64,A",
        "data:image/png;base64,QUJD=QUJD",
        "data:image/png;base64,图片",
        "data:image/png,图片",
        f"data:image/png;base64{BASE64}",
        "data:",
    ],
)
async def test_broken_data_uris_point_to_the_prefix(uri: str) -> None:
    error = await refused(uri)
    assert error.code == "invalid_base64"
    assert "base64" in error.message
    assert "the prefix data:image/xxx;base64, must be complete" in error.message


async def test_an_empty_picture() -> None:
    assert (await refused("data:image/png;base64,")).code == "empty_image"
    assert (await refused(b"")).code == "empty_image"


async def test_the_url_safe_alphabet() -> None:
    data = bytes(range(256))
    text = base64.urlsafe_b64encode(data).decode()
    assert "-" in text and "_" in text
    for sent in (text, text.replace("-", "%2D").replace("_", "%5f")):
        assert await load(f"data:image/png;base64,{sent}") == data


@pytest.mark.parametrize("source", ["cat.jpg", "/tmp/cat.png", "www.pictures.example"])
async def test_what_is_neither_a_uri_nor_base64(source: str) -> None:
    error = await refused(source)
    assert error.code == "invalid_image_url"
    assert "is neither a data URI, an http(s) URL nor base64" in error.message


async def test_a_data_uri_without_base64_has_a_limit() -> None:
    assert (await refused("data:image/png," + "%00" * 11, max_image_bytes=10)).code == (
        "image_too_large"
    )


@pytest.mark.parametrize("size", [9, 10, 11])
async def test_the_size_limit_inline(size: int) -> None:
    uri = "data:image/png;base64," + base64.b64encode(b"x" * size).decode()
    for source in (uri, b"x" * size):
        if size <= 10:
            assert await load(source, max_image_bytes=10) == b"x" * size
        else:
            assert (await refused(source, max_image_bytes=10)).code == "image_too_large"


async def test_order_and_number() -> None:
    sources: list[str | bytes] = [b"1", URL, PIXEL, b"2", URL]
    pictures = [Picture(source, f"p{i}") for i, source in enumerate(sources)]
    files = await Web().fetcher(max_images=5).load_all(pictures)
    assert [files[i] for i in (0, 1, 3, 4)] == [b"1", BYTES, b"2", BYTES]
    with pytest.raises(APIError) as error:
        await Web().fetcher(max_images=4).load_all(pictures)
    assert (error.value.param, error.value.code) == ("p4", "too_many_images")


async def test_no_pictures() -> None:
    assert await Web().fetcher(max_images=0).load_all([]) == []


# From the network


async def test_fetch_dials_the_checked_address() -> None:
    web = Web()
    assert await load("https://pictures.example:8443/a.png?b=c#d", web=web) == BYTES
    (request,) = web.requests
    assert str(request.url).startswith(f"https://{PUBLIC}:8443/a.png?b=c")
    assert request.headers["host"] == "pictures.example:8443"
    assert request.extensions["sni_hostname"] == "pictures.example"
    assert request.headers["accept-encoding"] == "identity"


async def test_fetch_from_an_ipv6_address() -> None:
    web = Web(addresses={"pictures.example": ["2606:4700:4700::1111"]})
    assert await load(URL, web=web) == BYTES
    assert web.requests[0].url.host == "2606:4700:4700::1111"


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://pictures.example/a.png",
        "gopher://pictures.example/",
        "javascript:alert(1)",
        "unix:///run/docker.sock",
    ],
)
async def test_other_schemes_are_refused_by_name(url: str) -> None:
    web = Web()
    error = await refused(url, web=web)
    assert f"{url.partition(':')[0]}: URLs are not accepted" in error.message
    assert not web.requests


@pytest.mark.parametrize(
    "url",
    [
        "https:///a.png",
        "https:a.png",
        "https:/\\pictures.example/",
        "https://user:pw@pictures.example/",
        "https://pictures.example\\@127.0.0.1/",
        "https://[::1/",
        "https://①②⑦.0.0.1/",
        "https://pictures.example:8o/",
        "https://pictures.example\t/",
    ],
)
async def test_bad_urls(url: str) -> None:
    web = Web()
    assert (await refused(url, web=web)).code == "invalid_image_url"
    assert not web.requests


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["169.254.169.254"],
        ["::1"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        [PUBLIC, "192.168.0.1"],
        [],
    ],
)
async def test_hosts_inside_are_refused(addresses: list[str]) -> None:
    web = Web(addresses={"pictures.example": addresses})
    assert (await refused(URL, web=web)).code == "image_host_not_allowed"
    assert not web.requests


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "0x7f.1",
        "0x7f000001",
        "2130706433",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "0",
        "127。0。0。1",
        "169.254.169.254",
        "2852039166",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fe80::1%lo]",
    ],
)
async def test_the_systems_resolver_knows_all_spellings_of_inside(host: str) -> None:
    web = Web()
    fetcher = ImageFetcher(Settings(), httpx2.MockTransport(web._send), resolve)
    with pytest.raises(APIError) as error:
        await fetcher.load_all([Picture(f"http://{host}/a.png", "here")])
    assert error.value.code in ("image_host_not_allowed", "invalid_image_url")
    assert not web.requests


async def test_a_host_that_does_not_exist() -> None:
    async def fail(host: str, port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    fetcher = ImageFetcher(Settings(), httpx2.MockTransport(lambda request: png()), fail)
    with pytest.raises(APIError, match="is not known"):
        await fetcher.load_all([Picture(URL, "here")])


@pytest.mark.parametrize("host", ["127.0.0.1.", "localhost%00.pictures.example", "a" * 300])
async def test_names_that_are_none_are_never_dialled(host: str) -> None:
    web = Web()
    fetcher = ImageFetcher(Settings(), httpx2.MockTransport(web._send), resolve)
    with pytest.raises(APIError):
        await fetcher.load_all([Picture(f"http://{host}/a.png", "here")])
    assert not web.requests


async def test_a_name_is_resolved_once_and_its_address_is_dialled() -> None:
    asked: list[str] = []

    async def rebind(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) > 1 else [PUBLIC]

    web = Web()
    fetcher = ImageFetcher(Settings(), httpx2.MockTransport(web._send), rebind)
    assert await fetcher.load_all([Picture(URL, "here")]) == [BYTES]
    assert (asked, web.requests[0].url.host) == (["pictures.example"], PUBLIC)
    with pytest.raises(APIError) as error:
        await fetcher.load_all([Picture(URL, "here")])
    assert error.value.code == "image_host_not_allowed"


@pytest.mark.parametrize("port", [80, 443, 1024, 8443, 65535])
async def test_ports_that_may_be_dialled(port: int) -> None:
    assert await load(f"http://pictures.example:{port}/a.png") == BYTES


@pytest.mark.parametrize("port", [0, 1, 22, 25, 81, 1023, 65536, 99999])
async def test_ports_that_may_not_be_dialled(port: int) -> None:
    web = Web()
    error = await refused(f"http://pictures.example:{port}/a.png", web=web)
    assert error.code == "image_host_not_allowed"
    assert f"port {port}" in error.message
    assert not web.requests


async def test_allowed_hosts() -> None:
    allowed: dict[str, Any] = {"image_fetch_allowed_hosts": ("Pictures.example",)}
    assert await load(URL, **allowed) == BYTES
    for url in ("https://other.example/", "https://a.pictures.example/", f"https://{PUBLIC}/"):
        web = Web()
        assert (await refused(url, web=web, **allowed)).code == "image_host_not_allowed"
        assert not web.requests


async def test_fetching_can_be_off() -> None:
    web = Web()
    error = await refused(URL, web=web, image_fetch=False)
    assert error.code == "image_fetch_disabled"
    assert not web.requests
    assert await load(PIXEL, image_fetch=False)


async def test_redirects_are_followed_and_checked() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        match request.headers["host"], request.url.path:
            case "pictures.example", "/a.png":
                return redirect("/b.png", 307)
            case "pictures.example", _:
                return redirect("https://cdn.example/c.png")
        return png()

    web = Web(answer)
    assert await load(URL, web=web) == BYTES
    assert [request.headers["host"] for request in web.requests] == [
        "pictures.example",
        "pictures.example",
        "cdn.example",
    ]


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://inside.example/", "image_host_not_allowed"),
        ("//inside.example/", "image_host_not_allowed"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("http://[::1", "invalid_image_url"),
        ("https://user@pictures.example/", "invalid_image_url"),
        ("https://pictures.example:25/", "image_host_not_allowed"),
        ("http://127.0.0.1/", "image_host_not_allowed"),
        ("data:image/png;base64,AAAA", "invalid_image_url"),
    ],
)
async def test_redirects_to_where_one_may_not_go(location: str, code: str) -> None:
    web = Web(
        lambda request: redirect(location),
        {"inside.example": ["10.0.0.1"], "127.0.0.1": ["127.0.0.1"]},
    )
    assert (await refused(URL, web=web)).code == code
    assert len(web.requests) == 1


@pytest.mark.parametrize("count", [5, 6])
async def test_five_redirects_are_enough(count: int) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        done = int(request.url.params.get("n", "0"))
        return png() if done == count else redirect(f"/?n={done + 1}")

    web = Web(answer)
    if count == 5:
        assert await load(URL, web=web) == BYTES
    else:
        assert "more than 5 redirects" in (await refused(URL, web=web)).message
        assert len(web.requests) == 6


async def test_a_loop_of_redirects_ends() -> None:
    web = Web(lambda request: redirect(str(request.url.path)))
    assert "more than 5 redirects" in (await refused(URL, web=web)).message
    assert len(web.requests) == 6


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (httpx2.Response(404), "status 404"),
        (httpx2.Response(302), "status 302"),
        (httpx2.Response(206, headers=PNG | {"content-range": "bytes 0-3/9"}), "status 206"),
        (httpx2.Response(206, headers=PNG | {"content-range": "bytes 5-8/9"}), "status 206"),
        (png(b"\n<html>", {"content-type": "text/html; charset=utf-8"}), "'text/html'"),
        (png(b'{"error": 1}', {"content-type": "application/json"}), "'application/json'"),
        (png(headers=PNG | {"content-encoding": "gzip"}), "compressed by gzip is damaged"),
        (png(headers=PNG | {"content-encoding": "br"}), "compressed"),
        (png(gzip.compress(BYTES)[:-9], PNG | {"content-encoding": "gzip"}), "not complete"),
        (png(b""), "empty"),
    ],
)
async def test_answers_that_are_no_picture(response: httpx2.Response, reason: str) -> None:
    assert reason in (await refused(URL, web=Web(lambda request: response))).message


@pytest.mark.parametrize(
    "content_type",
    [
        "image/jpeg", "Application/Octet-Stream", "binary/octet-stream", "application/mp4",
        "text/plain", "text/html", "video/mp4", "nonsense", None,
    ],
)  # fmt: skip
async def test_content_types_that_are_taken(content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = httpx2.Response(200, headers=headers, stream=httpx2.ByteStream(BYTES))
    assert await load(URL, web=Web(lambda request: response)) == BYTES


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(203, headers=PNG, stream=httpx2.ByteStream(BYTES)),
        httpx2.Response(206, headers=PNG, stream=httpx2.ByteStream(BYTES)),
        httpx2.Response(
            206,
            headers=PNG | {"content-range": f"bytes 0-{len(BYTES) - 1}/{len(BYTES)}"},
            stream=httpx2.ByteStream(BYTES),
        ),
        png(gzip.compress(BYTES), PNG | {"content-encoding": "gzip"}),
        png(gzip.compress(BYTES), PNG | {"content-encoding": "X-GZIP"}),
        png(zlib.compress(BYTES), PNG | {"content-encoding": "deflate"}),
    ],
)
async def test_other_answers_that_are_complete(response: httpx2.Response) -> None:
    assert await load(URL, web=Web(lambda request: response)) == BYTES


async def test_what_a_server_compressed_has_the_same_limit() -> None:
    bomb = gzip.compress(bytes(100_000_000))
    web = Web(lambda request: png(bomb, PNG | {"content-encoding": "gzip"}))
    began = time.process_time()
    assert (await refused(URL, web=web, max_image_bytes=100_000)).code == "image_too_large"
    assert time.process_time() - began < 1


async def test_the_server_hears_who_asks() -> None:
    web = Web()
    await load(URL, web=web)
    assert web.requests[0].headers["user-agent"].startswith("glm-triton-server/")
    assert web.requests[0].headers["accept"] == "image/*, */*;q=0.5"


# Hosts of several addresses, and connections that break

OTHER, SIXTH = "93.184.215.15", "2606:4700:4700::1111"


async def test_addresses_are_tried_in_turn() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.host != OTHER:
            raise httpx2.ConnectError("no route")
        return png()

    web = Web(answer, {"pictures.example": [PUBLIC, OTHER, SIXTH]})
    assert await load(URL, web=web) == BYTES
    assert [request.url.host for request in web.requests] == [SIXTH, PUBLIC, OTHER]
    assert "timeout" in web.requests[0].extensions
    assert "timeout" not in web.requests[2].extensions  # the last one has all the time there is


async def test_a_host_of_many_addresses_is_not_tried_for_ever() -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("no route")

    web = Web(fail, {"pictures.example": [f"93.184.215.{number}" for number in range(1, 200)]})
    assert (await refused(URL, web=web)).code == "image_fetch_failed"
    assert len(web.requests) == 16  # eight, twice


@pytest.mark.parametrize("error", [httpx2.ReadError, httpx2.RemoteProtocolError])
async def test_a_connection_that_breaks_is_made_once_more(error: type[Exception]) -> None:
    failures = [error("broken")]

    def answer(request: httpx2.Request) -> httpx2.Response:
        if failures:
            raise failures.pop()
        return png()

    web = Web(answer)
    assert await load(URL, web=web) == BYTES
    assert len(web.requests) == 2


# Hosts that are named though they are not public

NAMED: dict[str, Any] = {
    "media_allowed_hosts": ("Store.inside", ".cdn.inside", "10.1.0.0/16", "fd00::/8", "10.2.3.4")
}


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("store.inside", "127.0.0.1"),
        ("store.inside", "192.168.0.1"),
        ("a.cdn.inside", "192.168.0.1"),
        ("other.inside", "10.1.2.3"),
        ("other.inside", "fd00::1"),
        ("10.2.3.4", "10.2.3.4"),
    ],
)
async def test_named_hosts_may_be_inside(host: str, address: str) -> None:
    url, addresses = f"http://{host}:9000/a.png", {host: [address]}
    assert await load(url, web=Web(addresses=addresses), **NAMED) == BYTES
    limited = NAMED | {"image_fetch_allowed_hosts": ("pictures.example",)}
    if host.endswith(".inside") and not host.startswith("other"):
        assert await load(url, web=Web(addresses=addresses), **limited) == BYTES
    web = Web(addresses=addresses)
    assert (await refused(url, web=web)).code == "image_host_not_allowed"
    assert not web.requests


@pytest.mark.parametrize(
    ("host", "addresses"),
    [
        ("other.inside", ["192.168.0.1"]),
        ("cdn.inside", ["192.168.0.1"]),
        ("xcdn.inside", ["192.168.0.1"]),
        ("store.inside.example", ["192.168.0.1"]),
        ("other.inside", ["10.1.2.3", "10.3.0.1"]),
        ("other.inside", ["10.2.3.5"]),
        ("other.inside", ["169.254.169.254"]),
        ("127.0.0.1", ["127.0.0.1"]),
    ],
)
async def test_hosts_beside_the_named_ones_are_refused(host: str, addresses: list[str]) -> None:
    web = Web(addresses={host: addresses})
    error = await refused(f"http://{host}/a.png", web=web, **NAMED)
    assert error.code == "image_host_not_allowed"
    assert not web.requests


async def test_a_redirect_to_a_named_host_is_followed_and_to_others_inside_is_not() -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return png() if request.headers["host"] == "store.inside" else redirect(target)

    inside = {"store.inside": ["10.0.0.9"], "other.inside": ["10.0.0.9"]}
    target = "http://store.inside/b.png"
    assert await load(URL, web=Web(answer, inside), **NAMED) == BYTES
    target = "http://other.inside/b.png"
    error = await refused(URL, web=Web(answer, inside), **NAMED)
    assert error.code == "image_host_not_allowed"


# A proxy


async def _through_proxy(host: str, addresses: list[str], port: int) -> bytes:
    proxy = f"http://127.0.0.1:{port}"

    async def find(name: str, port: int) -> Sequence[str]:
        if not addresses:
            raise OSError("no resolver")
        return addresses

    fetcher = ImageFetcher(Settings(media_proxy=proxy), create_transport(proxy), find)
    try:
        (file,) = await fetcher.load_all([Picture(f"http://{host}/a.png", "here")])
    finally:
        await fetcher.aclose()
    return file


async def test_a_proxy_is_asked_by_name_and_never_for_hosts_inside() -> None:
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).splitlines()[0])
        writer.write(HEAD + b"content-length: 5\r\n\r\nbytes")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await _through_proxy("pictures.example", [PUBLIC], port) == b"bytes"
        assert await _through_proxy("unknown.example", [], port) == b"bytes"
        for inside in ("10.0.0.1", "127.0.0.1"):
            with pytest.raises(APIError, match="not on the public internet"):
                await _through_proxy("inside.example", [inside], port)
    assert asked == [
        b"GET http://pictures.example/a.png HTTP/1.1",
        b"GET http://unknown.example/a.png HTTP/1.1",
    ]


# A folder


async def test_files_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "media"
    (folder / "sub folder").mkdir(parents=True)
    file = folder / "sub folder" / "a.png"
    file.write_bytes(BYTES)
    (folder / "link.png").symlink_to(file)
    for path in (file, folder / "link.png", folder / "sub folder" / ".." / "link.png"):
        url = "file://" + str(path).replace(" ", "%20")
        assert await load(url, media_folder=folder) == BYTES
        assert await load(url.replace("file://", "FILE://localhost"), media_folder=folder) == BYTES
    error = await refused(file.as_uri(), media_folder=folder, max_image_bytes=5)
    assert error.code == "image_too_large"
    assert "file: URLs are not accepted" in (await refused(file.as_uri())).message


async def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    folder, outside = tmp_path / "media", tmp_path / "secret.png"
    folder.mkdir()
    outside.write_bytes(b"secret")
    (folder / "link.png").symlink_to(outside)
    (folder / "above").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    sibling = tmp_path / "media2"
    sibling.mkdir()
    (sibling / "a.png").write_bytes(b"secret")
    for path in (
        "/etc/passwd",
        str(outside),
        f"{folder}/../secret.png",
        f"{folder}/%2e%2e/secret.png",
        f"{folder}/link.png",
        f"{folder}/above/secret.png",
        f"{folder}/pipe",
        f"{folder}/missing.png",
        f"{folder}",
        f"{sibling}/a.png",
        f"{folder}/a%00.png",
        "/proc/self/environ",
        "/dev/zero",
        "relative.png",
        "",
    ):
        error = await refused(f"file://{path}", media_folder=folder)
        assert error.code in ("image_host_not_allowed", "invalid_image_url"), path
        assert "secret" not in error.message
    assert (await refused(f"file://host{folder}/a.png", media_folder=folder)).code == (
        "image_host_not_allowed"
    )


@pytest.mark.parametrize("scheme", ["s3", "gs"])
async def test_object_stores_are_read_by_presigned_urls(scheme: str) -> None:
    assert "send a presigned https URL" in (await refused(f"{scheme}://bucket/a.png")).message


class Endless(httpx2.AsyncByteStream):
    """A body without an end; ``sent`` bytes were taken from it."""

    def __init__(self, delay: float) -> None:
        self.sent = 0
        self.closed = False
        self._delay = delay

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(self._delay)
            self.sent += 100
            yield b"x" * 100

    async def aclose(self) -> None:
        self.closed = True


def endless(delay: float) -> tuple[Endless, Web]:
    body = Endless(delay)
    response = httpx2.Response(200, headers=PNG, stream=body)
    return body, Web(lambda request: response)


async def test_the_size_limit_holds_while_the_bytes_come() -> None:
    body, web = endless(delay=0)
    assert (await refused(URL, web=web, max_image_bytes=1000)).code == "image_too_large"
    assert body.sent == 1100
    assert body.closed


async def test_the_pictures_of_a_request_have_a_limit_together() -> None:
    body, web = endless(delay=0)
    error = await refused(URL, web=web, max_image_bytes=10_000, max_body_bytes=500)
    assert (error.code, body.sent) == ("image_too_large", 600)


async def test_the_time_limit() -> None:
    body, web = endless(delay=0.01)
    error = await refused(URL, web=web, image_fetch_timeout=0.05)
    assert "more than 0.05 s" in error.message
    assert body.closed


async def test_a_broken_connection() -> None:
    def fail(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("connection refused by 93.184.215.14")

    error = await refused(URL, web=Web(fail))
    assert error.code == "image_fetch_failed"
    assert PUBLIC not in error.message


@pytest.mark.timing
async def test_one_bad_picture_stops_the_others() -> None:
    body = Endless(delay=0.01)

    class Both(Web):
        async def _resolve(self, host: str, port: int) -> Sequence[str]:
            if host == "bad.example":
                await until(lambda: body.sent)  # by then the other is under way
                return []
            return await super()._resolve(host, port)

    web = Both(lambda request: httpx2.Response(200, headers=PNG, stream=body))
    pictures = [Picture(URL, "slow"), Picture("https://bad.example/a.png", "bad")]
    with pytest.raises(APIError) as error:
        await web.fetcher(image_fetch_timeout=TIMEOUT).load_all(pictures)
    assert error.value.param == "bad"
    assert body.closed
    sent = body.sent
    await asyncio.sleep(0.03)
    assert body.sent == sent


async def test_a_uri_made_to_be_slow_is_not() -> None:
    began = time.process_time()  # not of a machine that has others to serve
    with pytest.raises(APIError):
        await load("data:" + "a" * 1_000_000)
    assert time.process_time() - began < 1


# From a server that really answers


class Rerouted(httpx2.AsyncBaseTransport):
    """The transport of the frontend, which finds what listens on ``port`` here at any address."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._transport = create_transport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._transport.aclose()


Pieces = Sequence[tuple[bytes, float]]


async def served(pieces: Pieces, **settings: Any) -> bytes | APIError:
    """What is fetched from a server that sends each of these bytes and then waits so long.

    Returns when the server has seen that the connection is closed.
    """
    hung_up = asyncio.Event()
    settings.setdefault("image_fetch_timeout", TIMEOUT)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

        async def send() -> None:
            for piece, delay in pieces:
                writer.write(piece)
                await asyncio.sleep(delay)
            writer.close()

        sending = asyncio.create_task(send())
        with suppress(ConnectionError):  # it was closed while bytes were under way
            await reader.read()
        sending.cancel()
        await asyncio.wait([sending])
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    result: bytes | APIError
    transport = Rerouted(server.sockets[0].getsockname()[1])
    fetcher = ImageFetcher(Settings(**settings), transport, Web()._resolve)
    try:
        (result,) = await fetcher.load_all([Picture("http://pictures.example/a", "here")])
    except APIError as error:
        result = error
    try:
        async with asyncio.timeout(TIMEOUT):
            await hung_up.wait()
    finally:
        await fetcher.aclose()
        server.close()
        await server.wait_closed()
    return result


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"content-length: 5\r\n\r\nbytes and more that is not asked for",
        HEAD + b"\r\nbytes",
        HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nbyt\r\n2\r\nes\r\n0\r\n\r\n",
    ],
)
async def test_bodies_of_each_framing(answer: bytes) -> None:
    assert await served([(answer, 0)]) == b"bytes"


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"content-length: 9\r\n\r\nbytes",
        HEAD + b"content-length: -5\r\n\r\nbytes",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nbytes!",
        HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nbyt\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nxyz\r\nbyt\r\n",
        HEAD + b"x: " + b"y" * 1_000_000,
        b"220 mail.example ESMTP\r\n",
        b"",
    ],
)
async def test_answers_that_are_broken(answer: bytes) -> None:
    error = await served([(answer, 0)])
    assert isinstance(error, APIError)
    assert (error.param, error.code) == ("here", "image_fetch_failed")


async def test_a_compressed_answer() -> None:
    head = HEAD + b"content-encoding: gzip\r\n\r\n"
    assert await served([(head + gzip.compress(b"bytes"), 0)]) == b"bytes"
    error = await served([(head + b"bytes", 0)])
    assert isinstance(error, APIError)
    assert "compressed" in error.message


@pytest.mark.timing
@pytest.mark.parametrize(
    "start", [b"", HEAD, HEAD + b"\r\n", HEAD + b"transfer-encoding: chunked\r\n\r\n"]
)
async def test_a_server_that_drips_bytes_meets_the_time_limit(start: bytes) -> None:
    began = asyncio.get_running_loop().time()
    drip = b"1" if start.endswith(b"\r\n\r\n") else b"h"
    error = await served([(start, 0), *[(drip, 0.02)] * 30_000], image_fetch_timeout=0.3)
    assert isinstance(error, APIError)
    assert "more than 0.3 s" in error.message
    assert asyncio.get_running_loop().time() - began < TIMEOUT  # of 600 that it goes on


async def test_an_endless_body_is_cut_off() -> None:
    pieces = [(HEAD + b"\r\n", 0.0), *[(b"x" * 10_000, 0.001)] * 10_000]
    error = await served(pieces, max_image_bytes=50_000)
    assert isinstance(error, APIError)
    assert error.code == "image_too_large"


# Videos


async def load_video(source: str, *, web: Web | None = None, **settings: Any) -> bytes:
    fetcher = (web or Web()).fetcher(**settings)
    (data,) = await fetcher.load_all([Picture(source, "here", kind="video")])
    return data


VIDEO_URL = "https://videos.example/a.mp4"


@pytest.mark.parametrize("media_type", ["video/mp4", "video/webm", "image/gif"])
async def test_a_video_comes_from_both(media_type: str) -> None:
    assert await load_video(f"data:{media_type};base64,{BASE64}") == BYTES
    web = Web(lambda request: png(headers={"content-type": media_type}))
    assert await load_video(VIDEO_URL, web=web) == BYTES
    assert web.requests[0].headers["accept"].startswith("video/*, image/gif")


@pytest.mark.parametrize(
    ("source", "media_type", "settings", "code"),
    [
        ("data:video/mp4;base64,%%", "", {}, "invalid_base64"),
        ("data:video/mp4;base64,", "", {}, "empty_video"),
        ("ftp://videos.example/a.mp4", "", {}, "invalid_video_url"),
        (VIDEO_URL, "video/mp4", {"max_video_bytes": 5}, "video_too_large"),
        (VIDEO_URL, "video/mp4", {"max_body_bytes": 5}, "video_too_large"),
        (f"data:video/mp4;base64,{BASE64}", "", {"max_video_bytes": 5}, "video_too_large"),
        (VIDEO_URL, "video/mp4", {"max_videos": 0}, "too_many_videos"),
        (VIDEO_URL, "video/mp4", {"image_fetch": False}, "video_fetch_disabled"),
        (
            VIDEO_URL,
            "video/mp4",
            {"image_fetch_allowed_hosts": ("a.example",)},
            "video_host_not_allowed",
        ),
        ("http://127.0.0.1/a.mp4", "video/mp4", {}, "video_host_not_allowed"),
    ],
)
async def test_a_video_is_refused_by_the_rules_of_pictures(
    source: str, media_type: str, settings: dict[str, Any], code: str
) -> None:
    web = Web(
        lambda request: png(headers={"content-type": media_type}),
        {"127.0.0.1": ["127.0.0.1"]},
    )
    with pytest.raises(APIError) as error:
        await load_video(source, web=web, **settings)
    assert (error.value.status, error.value.param, error.value.code) == (400, "here", code)


async def test_pictures_and_videos_are_counted_apart() -> None:
    files = [Picture(b"1", "a"), Picture(b"2", "b", kind="video"), Picture(b"3", "c")]
    assert await Web().fetcher(max_images=2, max_videos=1).load_all(files) == [b"1", b"2", b"3"]


async def test_each_piece_that_comes_is_told_and_may_end_it() -> None:
    told: list[int] = []
    files = await Web().fetcher().load_all([Picture(URL, "here")], told.append)
    assert sum(told) == len(files[0])
    body, web = endless(delay=0.001)

    def refuse(size: int) -> None:
        raise overloaded("full", "bytes")

    with pytest.raises(APIError) as error:
        await web.fetcher().load_all([Picture(URL, "here")], refuse)
    assert error.value.status == 429
    assert body.closed
