"""From what a request names as a picture or a video to its bytes. The only place that dials out.

Whether the bytes are one is for Triton's preprocessing to say; here they are only bounded.
"""

import asyncio
import binascii
import re
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import httpx2

from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, invalid
from glm_frontend.media.addresses import is_public
from glm_frontend.settings import Settings

MAX_REDIRECTS = 3
# Of those below, the other ports are of mail servers, remote shells and the like.
WEB_PORTS = frozenset({80, 443, *range(1024, 65536)})

# Possessive, or a long text without a comma would be tried in a quadratic number of ways.
_DATA_URI = re.compile(r"data:(?P<type>[^,;]*+)(?P<parameters>[^,]*+),", re.IGNORECASE)
# All of base64's letters that a URL may escape, and those of its alphabet for URLs. A general
# decoder takes seconds for a large file.
_ESCAPED = (
    *(("%2B", "+"), ("%2b", "+"), ("%2F", "/"), ("%2f", "/"), ("%3D", "="), ("%3d", "=")),
    *(("-", "+"), ("_", "/")),
)
# The file itself says what it is.
_ANY_TYPE = "application/octet-stream"
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
OnFetched = Callable[[str, str, float], None]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, or a video, as the request names it.

    Attributes:
        source: a data URI or an http(s) URL; bytes are the file itself.
        param: where it stands in the request, for errors.
        plain_base64: whether ``source`` may also be base64 text without a prefix.
        max_pixels: that the model sees of a picture; 0 for the checkpoint's own limit.
        kind: which of the two it is.
    """

    source: str | bytes
    param: str
    plain_base64: bool = False
    max_pixels: int = 0
    kind: Literal["image", "video"] = "image"


@dataclass(frozen=True, slots=True)
class _Kind:
    """What pictures, or videos, are called, and how many and how large they may be.

    Attributes:
        code: begins the codes of errors, and the media types that a data URI may have.
        media_types: beginnings of what a server may say that it sends.
    """

    noun: str
    code: str
    media_types: tuple[str, ...]
    max_count: int
    max_bytes: int

    @property
    def prefix(self) -> str:
        return f"data:{self.code}/xxx;base64,"

    def error(self, pattern: str) -> ErrorCode:
        """The code of an error about a file of this kind, such as ``empty_{}``."""
        return ErrorCode[pattern.format(self.code).upper()]


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of ``host``, by the system's resolver.

    Raises:
        OSError: there are none.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def create_transport() -> httpx2.AsyncBaseTransport:
    """What dials out, without proxies, and with a new connection for each request.

    A connection to a pinned address is made for one host name; another name at that address must
    not get it.
    """
    return httpx2.AsyncHTTPTransport(
        limits=httpx2.Limits(max_connections=64, max_keepalive_connections=0)
    )


class ImageFetcher:
    """Loads the pictures and videos of requests, within the limits of the settings.

    Args:
        transport: sends one request to one address; see :func:`create_transport`.
        resolve: from host and port to addresses.
        on_fetched: notified of each download: image or video, ``ok`` or the code of the
            error, and the seconds that it took.
    """

    def __init__(
        self,
        settings: Settings,
        transport: httpx2.AsyncBaseTransport,
        resolve: Resolve = resolve,
        on_fetched: OnFetched | None = None,
    ) -> None:
        images = settings.max_images, settings.max_image_bytes
        videos = settings.max_videos, settings.max_video_bytes
        self._kinds = {
            "image": _Kind("picture", "image", ("image/",), *images),
            "video": _Kind("video", "video", ("video/", "image/gif"), *videos),
        }
        self._max_total_bytes = settings.max_body_bytes
        self._enabled = settings.image_fetch
        self._timeout = settings.image_fetch_timeout
        self._allowed_hosts = frozenset(host.lower() for host in settings.image_fetch_allowed_hosts)
        self._transport = transport
        self._resolve = resolve
        self._on_fetched = on_fetched

    async def load_all(
        self, pictures: Sequence[Picture], hold: Callable[[int], None] = lambda size: None
    ) -> list[bytes]:
        """The files of all, in order; what must be fetched is fetched at the same time.

        Args:
            hold: called with the size of every chunk in bytes; what it raises ends all downloads.

        Raises:
            APIError: 400, naming the picture or video.
        """
        for name, kind in self._kinds.items():
            own = [picture for picture in pictures if picture.kind == name]
            if len(own) > kind.max_count:
                raise invalid(
                    own[kind.max_count].param,
                    f"the request has {len(own)} {kind.noun}s, and {kind.max_count} are allowed",
                    code=kind.error("too_many_{}s"),
                )
        budget = _Budget(self._max_total_bytes, hold)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._load(picture, budget)) for picture in pictures]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()

    async def _load(self, picture: Picture, budget: "_Budget") -> bytes:
        source, param, kind = picture.source, picture.param, self._kinds[picture.kind]
        if isinstance(source, bytes):
            return _bounded(source, param, kind)
        source = source.strip()
        if source[:5].lower() == "data:":
            return _from_data_uri(source, param, kind)
        scheme = _SCHEME.match(source)
        if scheme is None:
            if picture.plain_base64:
                return _from_base64(source, param, kind, hint="")
            raise invalid(
                param,
                "is neither a data URI nor an http(s) URL; for base64 the prefix "
                f"{kind.prefix} must be complete",
                code=kind.error("invalid_{}_url"),
            )
        if scheme["scheme"].lower() not in ("http", "https"):
            raise invalid(
                param,
                f"{scheme['scheme'].lower()}: URLs are not accepted, only data, http and https",
                code=kind.error("invalid_{}_url"),
            )
        if not self._enabled:
            raise invalid(
                param,
                f"this server does not fetch {kind.noun}s; send {kind.prefix}...",
                code=kind.error("{}_fetch_disabled"),
            )
        began, result = time.perf_counter(), "cancelled"
        try:
            file = await self._fetch_in_time(source, param, kind, budget)
            result = "ok"
            return file
        except APIError as error:
            result = str(error.code)
            raise
        finally:
            if self._on_fetched is not None:
                self._on_fetched(kind.code, result, time.perf_counter() - began)

    async def _fetch_in_time(
        self, source: str, param: str, kind: _Kind, budget: "_Budget"
    ) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._fetch(source, param, kind, budget)
        except TimeoutError:
            raise _failed(param, kind, f"the server took more than {self._timeout:g} s") from None
        except httpx2.InvalidURL:
            raise invalid(param, "is not a valid URL", code=kind.error("invalid_{}_url")) from None
        except (httpx2.TransportError, OSError) as error:
            raise _failed(param, kind, type(error).__name__) from None

    async def _fetch(self, source: str, param: str, kind: _Kind, budget: "_Budget") -> bytes:
        url = httpx2.URL(source)
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._pinned(url, param, kind)
            response = await self._transport.handle_async_request(request)
            response.request = request
            try:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or location is None:
                    return await self._read(response, param, kind, budget)
            finally:
                await response.aclose()
            url = url.join(location)
        raise _failed(param, kind, f"more than {MAX_REDIRECTS} redirects")

    async def _pinned(self, url: httpx2.URL, param: str, kind: _Kind) -> httpx2.Request:
        """A request for ``url`` to one address that was checked, whatever DNS says afterwards."""
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            raise invalid(
                param,
                "is not an http(s) URL without user name",
                code=kind.error("invalid_{}_url"),
            )
        host = url.raw_host.decode("ascii").lower()
        if self._allowed_hosts and host not in self._allowed_hosts:
            raise invalid(
                param,
                f"{kind.noun}s are not fetched from {host}",
                code=kind.error("{}_host_not_allowed"),
            )
        port = (443 if url.scheme == "https" else 80) if url.port is None else url.port
        if port not in WEB_PORTS:
            raise invalid(
                param,
                f"{kind.noun}s are not fetched from port {port}, only from 80, 443 and those "
                "above 1023",
                code=kind.error("{}_host_not_allowed"),
            )
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise _failed(param, kind, f"the host {host} is not known") from None
        if not addresses or not all(is_public(address) for address in addresses):
            raise invalid(
                param,
                f"the host {host} is not on the public internet",
                code=kind.error("{}_host_not_allowed"),
            )
        return httpx2.Request(
            "GET",
            url.copy_with(host=addresses[0]),
            headers={
                "host": url.netloc.decode("ascii"),
                "user-agent": "glm-frontend",
                "accept": ", ".join(t + "*" * t.endswith("/") for t in kind.media_types),
                "accept-encoding": "identity",
            },
            # The name that the certificate must be for.
            extensions={"sni_hostname": host},
        )

    async def _read(
        self, response: httpx2.Response, param: str, kind: _Kind, budget: "_Budget"
    ) -> bytes:
        if response.status_code != 200:
            raise _failed(param, kind, f"the server answered with status {response.status_code}")
        media_type = response.headers.get("content-type", _ANY_TYPE)
        media_type = media_type.partition(";")[0].strip().lower()
        if not media_type.startswith((*kind.media_types, _ANY_TYPE)):
            raise _failed(param, kind, f"the server sent {media_type!r}, not a {kind.noun}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _failed(
                param, kind, f"the server compressed the {kind.noun} without being asked to"
            )
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > kind.max_bytes:
                raise _too_large(param, kind)
            if not budget.take(len(chunk)):
                raise invalid(
                    param,
                    f"the {kind.noun}s of this request have more than the {self._max_total_bytes} "
                    "bytes allowed together",
                    code=kind.error("{}_too_large"),
                )
        return _bounded(bytes(data), param, kind)


class _Budget:
    """Bytes that all fetched pictures and videos of one request may have together."""

    def __init__(self, size: int, hold: Callable[[int], None]) -> None:
        self._left = size
        self._hold = hold

    def take(self, size: int) -> bool:
        self._hold(size)
        self._left -= size
        return self._left >= 0


def _failed(param: str, kind: _Kind, reason: str) -> APIError:
    return invalid(
        param,
        f"the {kind.noun} could not be fetched: {reason}",
        code=kind.error("{}_fetch_failed"),
    )


def _from_data_uri(uri: str, param: str, kind: _Kind) -> bytes:
    head = _DATA_URI.match(uri)
    if (
        head is None
        or not (head["type"].lower() or _ANY_TYPE).startswith((*kind.media_types, _ANY_TYPE))
        or not head["parameters"].lower().endswith(";base64")
    ):
        raise invalid(
            param,
            f"is not a {kind.noun} in base64; the prefix {kind.prefix} must be complete",
            code=ErrorCode.INVALID_BASE64,
        )
    hint = f"; the prefix {kind.prefix} must be complete"
    return _from_base64(uri[head.end() :], param, kind, hint=hint)


def _from_base64(text: str, param: str, kind: _Kind, *, hint: str) -> bytes:
    for escaped, letter in _ESCAPED:
        text = text.replace(escaped, letter)
    text = "".join(text.split())
    text += "=" * (-len(text) % 4)
    if len(text) // 4 * 3 - 2 > kind.max_bytes:
        raise _too_large(param, kind)
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        reason = str(error).removeprefix("Invalid base64-encoded string: ")
        raise invalid(
            param, f"invalid base64 ({reason}){hint}", code=ErrorCode.INVALID_BASE64
        ) from None
    return _bounded(data, param, kind)


def _bounded(data: bytes, param: str, kind: _Kind) -> bytes:
    if not data:
        raise invalid(param, f"the {kind.noun} is empty", code=kind.error("empty_{}"))
    if len(data) > kind.max_bytes:
        raise _too_large(param, kind)
    return data


def _too_large(param: str, kind: _Kind) -> APIError:
    return invalid(
        param,
        f"the {kind.noun} has more than the {kind.max_bytes} bytes allowed",
        code=kind.error("{}_too_large"),
    )
