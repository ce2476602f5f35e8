"""From what a request names as a picture or a video to its bytes. The only place that dials out.

Whether the bytes are one is for Triton's preprocessing to say; here they are only bounded.
"""

import asyncio
import socket
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain, zip_longest
from typing import Any, Literal

import httpx2

from glm_frontend.error_codes import ErrorCode
from glm_frontend.errors import APIError, invalid
from glm_frontend.media.addresses import NamedHosts, is_public
from glm_frontend.media.folder import NotInFolder, read_file
from glm_frontend.media.inline import (
    NotBase64,
    TooLong,
    data_uri_parts,
    from_base64,
    from_escaped,
    scheme_of,
)
from glm_frontend.media.memory import MediaMemory
from glm_frontend.settings import Settings

MAX_REDIRECTS = 5
# Of those below, the other ports are of mail servers, remote shells and the like.
WEB_PORTS = frozenset({80, 443, *range(1024, 65536)})
MAX_ADDRESSES = 8
"""Of one host that are tried, in turn."""
CONNECT_SECONDS = 2.0
"""For one of them to answer, before the next is tried."""

_LONGEST_URL = 2048
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_COMPLETE = frozenset({200, 203, 206})
_PRESIGNED = frozenset({"s3", "gs", "az", "abfs"})
# For zlib: a header of gzip, or of zlib.
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}
_BROKEN = (httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ConnectTimeout)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
OnFetched = Callable[[str, str, float], None]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, or a video, as the request names it.

    Attributes:
        source: a data URI, base64, or a URL; bytes are the file itself.
        param: where it stands in the request, for errors.
        max_pixels: that the model sees of a picture; 0 for the checkpoint's own limit.
        kind: which of the two it is.
        is_frame: whether it is a picture that stands for a frame of a video.
        options: of a video, which of its frames are looked at, with the model server's names.
        uuid: the client's own name for it; beside one, ``source`` may be empty.
    """

    source: str | bytes
    param: str
    max_pixels: int = 0
    kind: Literal["image", "video"] = "image"
    is_frame: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    uuid: str | None = None

    @property
    def format(self) -> Literal["image", "video"]:
        """What its file is."""
        return "image" if self.is_frame else self.kind


@dataclass(frozen=True, slots=True)
class _Kind:
    """What pictures, or videos, are called, and how many and how large they may be.

    Attributes:
        code: begins the codes of errors.
        accept: of what kinds servers are asked for.
    """

    noun: str
    code: str
    accept: str
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


def create_transport(proxy: str = "") -> httpx2.AsyncBaseTransport:
    """What dials out, with a new connection for each request, and by no proxy but this one.

    A connection to a pinned address is made for one host name; another name at that address must
    not get it.
    """
    return httpx2.AsyncHTTPTransport(
        trust_env=False,
        proxy=proxy or None,
        limits=httpx2.Limits(max_connections=64, max_keepalive_connections=0),
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
            "image": _Kind("picture", "image", "image/*, */*;q=0.5", *images),
            "video": _Kind("video", "video", "video/*, image/gif, */*;q=0.5", *videos),
        }
        self._max_total_bytes = settings.max_body_bytes
        self._enabled = settings.image_fetch
        self._timeout = settings.image_fetch_timeout
        self._allowed_hosts = frozenset(host.lower() for host in settings.image_fetch_allowed_hosts)
        self._named_hosts = NamedHosts(settings.media_allowed_hosts)
        self._has_proxy = bool(settings.media_proxy)
        self._folder = settings.media_folder
        self._memory = MediaMemory(settings.media_memory)
        self._transport = transport
        self._resolve = resolve
        self._on_fetched = on_fetched

    def surplus(self, pictures: Sequence[Picture]) -> list[Picture]:
        """The oldest ones, as many as there are above the numbers that one request may have."""
        return [
            picture
            for kind in self._kinds
            for own in [[p for p in pictures if p.kind == kind and not p.is_frame]]
            for picture in own[: max(0, len(own) - self._kinds[kind].max_count)]
        ]

    async def load_all(
        self,
        pictures: Sequence[Picture],
        hold: Callable[[int], None] = lambda size: None,
        tenant: str = "",
    ) -> list[bytes]:
        """The files of all, in order; what must be fetched is fetched at the same time.

        Args:
            hold: called with the size of every chunk in bytes; what it raises ends all downloads.
            tenant: whose they are: what another one named by a uuid is not found.

        Raises:
            APIError: 400, naming the picture or video.
        """
        for name, kind in self._kinds.items():
            own = [p for p in pictures if p.kind == name and not p.is_frame]
            if len(own) > kind.max_count:
                raise invalid(
                    own[kind.max_count].param,
                    f"the request has {len(own)} {kind.noun}s, and {kind.max_count} are allowed; "
                    f"the oldest is {own[0].param}: leave out its message, or the {kind.noun}",
                    code=kind.error("too_many_{}s"),
                )
        budget = _Budget(self._max_total_bytes, hold)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._load_or_recall(picture, budget, tenant))
                    for picture in pictures
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def aclose(self) -> None:
        """Close the transport."""
        await self._transport.aclose()

    async def _load_or_recall(self, picture: Picture, budget: "_Budget", tenant: str) -> bytes:
        if picture.uuid is None:
            return await self._load(picture, budget)
        name = tenant, picture.kind, picture.uuid
        if picture.source:
            data = await self._load(picture, budget)
            self._memory.put(name, data)
            return data
        remembered = self._memory.get(name)
        if remembered is None:
            raise invalid(
                picture.param,
                f"there is no {self._kinds[picture.kind].noun} with this uuid, or it is no longer "
                "remembered; send it again",
                code=ErrorCode.MEDIA_NOT_REMEMBERED,
            )
        budget.hold(len(remembered))
        return remembered

    async def _load(self, picture: Picture, budget: "_Budget") -> bytes:
        source, param, kind = picture.source, picture.param, self._kinds[picture.format]
        if isinstance(source, bytes):
            return _bounded(source, param, kind)
        source = source.strip()
        if source[:5].lower() == "data:":
            return _from_data_uri(source, param, kind)
        scheme = scheme_of(source)
        if scheme is None:
            return _from_base64(source, param, kind, is_bare=True)
        if scheme == "file" and self._folder is not None:
            return await self._from_folder(source, param, kind)
        if scheme not in ("http", "https"):
            instead = "; send a presigned https URL" if scheme in _PRESIGNED else ""
            raise invalid(
                param,
                f"{scheme}: URLs are not accepted, only data, http and https{instead}",
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

    async def _from_folder(self, url: str, param: str, kind: _Kind) -> bytes:
        assert self._folder is not None
        try:
            data = await asyncio.to_thread(read_file, url, self._folder, kind.max_bytes)
        except NotInFolder:
            raise invalid(
                param,
                "there is no such file in the folder that this server reads",
                code=kind.error("{}_host_not_allowed"),
            ) from None
        return _bounded(data, param, kind)

    async def _fetch_in_time(
        self, source: str, param: str, kind: _Kind, budget: "_Budget"
    ) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    return await self._fetch(source, param, kind, budget)
                except _BROKEN:  # once more: a connection may break for any reason
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
            response = await self._get(url, param, kind)
            try:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or location is None:
                    return await self._read(response, param, kind, budget)
            finally:
                await response.aclose()
            url = url.join(location)
        raise _failed(param, kind, f"more than {MAX_REDIRECTS} redirects")

    async def _get(self, url: httpx2.URL, param: str, kind: _Kind) -> httpx2.Response:
        """The beginning of the answer of the first of the host's addresses that answers."""
        addresses = await self._addresses(url, param, kind)
        for place, address in enumerate(addresses, start=1):
            request = _request(url, address, kind)
            if place < len(addresses):
                request.extensions["timeout"] = {"connect": CONNECT_SECONDS}
            try:
                response = await self._transport.handle_async_request(request)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if place == len(addresses):
                    raise
                continue
            response.request = request
            return response
        raise AssertionError("there is no host without addresses")

    async def _addresses(self, url: httpx2.URL, param: str, kind: _Kind) -> Sequence[str | None]:
        """The addresses that ``url`` may be fetched from, whatever DNS says afterwards.

        None stands for the proxy, which finds the host itself.
        """
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            raise invalid(
                param,
                "is not an http(s) URL without user name",
                code=kind.error("invalid_{}_url"),
            )
        host = url.raw_host.decode("ascii").lower()
        is_named = self._named_hosts.has(host)
        if self._allowed_hosts and host not in self._allowed_hosts and not is_named:
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
            addresses = list(await self._resolve(host, port))
        except (OSError, UnicodeError):
            if self._has_proxy:  # where there is one, there may be no other resolver
                return [None]
            raise _failed(param, kind, f"the host {host} is not known") from None
        if not addresses or not (is_named or all(map(self._may_dial, addresses))):
            raise invalid(
                param,
                f"the host {host} is not on the public internet",
                code=kind.error("{}_host_not_allowed"),
            )
        return [None] if self._has_proxy else _alternating(addresses)[:MAX_ADDRESSES]

    def _may_dial(self, address: str) -> bool:
        return is_public(address) or self._named_hosts.has_address(address)

    async def _read(
        self, response: httpx2.Response, param: str, kind: _Kind, budget: "_Budget"
    ) -> bytes:
        if response.status_code not in _COMPLETE or _is_part(response):
            raise _failed(param, kind, f"the server answered with status {response.status_code}")
        data = bytearray()
        async for chunk in _decompressed(response, kind.max_bytes + 1, param, kind):
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
        media_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if bytes(data[:64]).lstrip()[:1] in (b"<", b"{") and media_type in _TEXT:
            raise _failed(param, kind, f"the server sent {media_type!r}, not a {kind.noun}")
        return _bounded(bytes(data), param, kind)


_TEXT = frozenset({"text/html", "text/plain", "text/xml", "application/json", "application/xml"})


def _request(url: httpx2.URL, address: str | None, kind: _Kind) -> httpx2.Request:
    """A request for ``url`` to one address that was checked."""
    return httpx2.Request(
        "GET",
        url if address is None else url.copy_with(host=address),
        headers={
            "host": url.netloc.decode("ascii"),
            "user-agent": f"glm-triton-server/{version('glm-triton-server')}",
            "accept": kind.accept,
            "accept-encoding": "identity",
        },
        # The name that the certificate must be for.
        extensions={"sni_hostname": url.raw_host.decode("ascii").lower()},
    )


def _alternating(addresses: Sequence[str]) -> list[str]:
    """Of IPv6 and IPv4 in turn, as RFC 8305 has it: a network may lack one of them."""
    own = list(dict.fromkeys(addresses))
    families = [one for one in own if ":" in one], [one for one in own if ":" not in one]
    return [one for one in chain(*zip_longest(*families)) if one is not None]


def _is_part(response: httpx2.Response) -> bool:
    """Whether a 206 is but a part of the file, which nobody has asked for."""
    given, _, total = response.headers.get("content-range", "").partition("/")
    last = given.rpartition("-")[2]
    is_from_start = given.removeprefix("bytes ").startswith("0-")
    is_to_end = total.isdecimal() and last.isdecimal() and int(last) + 1 == int(total)
    return response.status_code == 206 and bool(given) and not (is_from_start and is_to_end)


async def _decompressed(
    response: httpx2.Response, max_bytes: int, param: str, kind: _Kind
) -> AsyncIterator[bytes]:
    """The body as it was before the server compressed it; little more than ``max_bytes`` of it."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        async for chunk in response.aiter_raw():
            yield chunk
        return
    if encoding not in _WINDOWS:
        raise _failed(
            param,
            kind,
            f"the server compressed the {kind.noun} without being asked to ({encoding})",
        )
    inflater = zlib.decompressobj(_WINDOWS[encoding])
    try:
        async for chunk in response.aiter_raw():
            yield inflater.decompress(chunk, max_bytes)
            while inflater.unconsumed_tail:
                yield inflater.decompress(inflater.unconsumed_tail, max_bytes)
        yield inflater.flush()
    except zlib.error:
        raise _failed(param, kind, f"what the server compressed by {encoding} is damaged") from None
    if not inflater.eof:
        raise _failed(param, kind, f"what the server compressed by {encoding} is not complete")


class _Budget:
    """Bytes that all fetched pictures and videos of one request may have together."""

    def __init__(self, size: int, hold: Callable[[int], None]) -> None:
        self._left = size
        self.hold = hold

    def take(self, size: int) -> bool:
        self.hold(size)
        self._left -= size
        return self._left >= 0


def _failed(param: str, kind: _Kind, reason: str) -> APIError:
    return invalid(
        param,
        f"the {kind.noun} could not be fetched: {reason}",
        code=kind.error("{}_fetch_failed"),
    )


def _from_data_uri(uri: str, param: str, kind: _Kind) -> bytes:
    parts = data_uri_parts(uri)
    if parts is None:
        raise invalid(
            param,
            f"is a data URI without a comma; the prefix {kind.prefix} must be complete",
            code=ErrorCode.INVALID_BASE64,
        )
    _, data, is_base64 = parts
    if is_base64:
        return _from_base64(data, param, kind)
    try:
        file = from_escaped(data, kind.max_bytes)
    except TooLong:
        raise _too_large(param, kind) from None
    except NotBase64 as error:
        raise _not_base64(param, kind, error) from None
    return _bounded(file, param, kind)


def _from_base64(text: str, param: str, kind: _Kind, *, is_bare: bool = False) -> bytes:
    try:
        data = from_base64(text, kind.max_bytes)
    except TooLong:
        raise _too_large(param, kind) from None
    except NotBase64 as error:
        if is_bare and "." in text[:_LONGEST_URL]:  # as the name of a file or a host has
            raise invalid(
                param,
                "is neither a data URI, an http(s) URL nor base64; for base64 the prefix "
                f"{kind.prefix} must be complete",
                code=kind.error("invalid_{}_url"),
            ) from None
        raise _not_base64(param, kind, error) from None
    return _bounded(data, param, kind)


def _not_base64(param: str, kind: _Kind, error: NotBase64) -> APIError:
    return invalid(
        param,
        f"invalid base64 ({error}); the prefix {kind.prefix} must be complete",
        code=ErrorCode.INVALID_BASE64,
    )


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
