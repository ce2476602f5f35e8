"""From what a request names as a picture to its bytes. The only place that dials out.

Whether the bytes are a picture is for Triton's preprocessing to say; here they are only bounded.
"""

import asyncio
import binascii
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import httpx2

from glm_frontend.errors import APIError, invalid
from glm_frontend.images.addresses import is_public
from glm_frontend.settings import Settings

MAX_REDIRECTS = 3
PREFIX_HINT = "the prefix data:image/xxx;base64, must be complete"

# Possessive, or a long text without a comma would be tried in a quadratic number of ways.
_DATA_URI = re.compile(r"data:(?P<type>[^,;]*+)(?P<parameters>[^,]*+),", re.IGNORECASE)
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as the request names it.

    Attributes:
        source: a data URI or an http(s) URL; bytes are the file itself.
        param: where it stands in the request, for errors.
        plain_base64: whether ``source`` may also be base64 text without a prefix.
        max_pixels: that the model sees of it; 0 for the checkpoint's own limit.
    """

    source: str | bytes
    param: str
    plain_base64: bool = False
    max_pixels: int = 0


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
    """Loads the pictures of requests, within the limits of the settings.

    Args:
        transport: sends one request to one address; see :func:`create_transport`.
        resolve: from host and port to addresses.
    """

    def __init__(
        self,
        settings: Settings,
        transport: httpx2.AsyncBaseTransport,
        resolve: Resolve = resolve,
    ) -> None:
        self._max_images = settings.max_images
        self._max_bytes = settings.max_image_bytes
        self._max_total_bytes = settings.max_body_bytes
        self._enabled = settings.image_fetch
        self._timeout = settings.image_fetch_timeout
        self._allowed_hosts = frozenset(host.lower() for host in settings.image_fetch_allowed_hosts)
        self._transport = transport
        self._resolve = resolve

    async def load_all(self, pictures: Sequence[Picture]) -> list[bytes]:
        """The files of all pictures, in order; what has to be fetched is fetched at the same time.

        Raises:
            APIError: 400, naming the picture.
        """
        if len(pictures) > self._max_images:
            raise invalid(
                pictures[self._max_images].param,
                f"the request has {len(pictures)} pictures, and {self._max_images} are allowed",
                code="too_many_images",
            )
        budget = _Budget(self._max_total_bytes)
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
        source, param = picture.source, picture.param
        if isinstance(source, bytes):
            return self._bounded(source, param)
        source = source.strip()
        if source[:5].lower() == "data:":
            return self._from_data_uri(source, param)
        scheme = _SCHEME.match(source)
        if scheme is None:
            if picture.plain_base64:
                return self._from_base64(source, param, hint="")
            raise invalid(
                param,
                f"is neither a data URI nor an http(s) URL; for base64 {PREFIX_HINT}",
                code="invalid_image_url",
            )
        if scheme["scheme"].lower() not in ("http", "https"):
            raise invalid(
                param,
                f"{scheme['scheme'].lower()}: URLs are not taken, only data, http and https",
                code="invalid_image_url",
            )
        try:
            async with asyncio.timeout(self._timeout):
                return await self._fetch(source, param, budget)
        except TimeoutError:
            raise _failed(param, f"the server took more than {self._timeout:g} s") from None
        except httpx2.InvalidURL:
            raise invalid(param, "is not a valid URL", code="invalid_image_url") from None
        except (httpx2.TransportError, OSError) as error:
            raise _failed(param, type(error).__name__) from None

    def _from_data_uri(self, uri: str, param: str) -> bytes:
        head = _DATA_URI.match(uri)
        if (
            head is None
            or not head["type"].lower().startswith("image/")
            or not head["parameters"].lower().endswith(";base64")
        ):
            raise invalid(
                param, f"is not a picture in base64; {PREFIX_HINT}", code="invalid_base64"
            )
        return self._from_base64(uri[head.end() :], param, hint=f"; {PREFIX_HINT}")

    def _from_base64(self, text: str, param: str, *, hint: str) -> bytes:
        if "%" in text:
            text = unquote(text)
        text = "".join(text.split())
        text += "=" * (-len(text) % 4)
        if len(text) // 4 * 3 - 2 > self._max_bytes:
            raise self._too_large(param)
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except ValueError as error:
            reason = str(error).removeprefix("Invalid base64-encoded string: ")
            raise invalid(
                param, f"the base64 text is broken ({reason}){hint}", code="invalid_base64"
            ) from None
        return self._bounded(data, param)

    def _bounded(self, data: bytes, param: str) -> bytes:
        if not data:
            raise invalid(param, "the picture is empty", code="empty_image")
        if len(data) > self._max_bytes:
            raise self._too_large(param)
        return data

    def _too_large(self, param: str) -> APIError:
        return invalid(
            param,
            f"the picture has more than the {self._max_bytes} bytes allowed",
            code="image_too_large",
        )

    async def _fetch(self, source: str, param: str, budget: "_Budget") -> bytes:
        if not self._enabled:
            raise invalid(
                param,
                "this server does not fetch pictures; send data:image/xxx;base64,...",
                code="image_fetch_disabled",
            )
        url = httpx2.URL(source)
        for _ in range(MAX_REDIRECTS + 1):
            request = await self._pinned(url, param)
            response = await self._transport.handle_async_request(request)
            response.request = request
            try:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTS or location is None:
                    return await self._read(response, param, budget)
            finally:
                await response.aclose()
            url = url.join(location)
        raise _failed(param, f"more than {MAX_REDIRECTS} redirects")

    async def _pinned(self, url: httpx2.URL, param: str) -> httpx2.Request:
        """A request for ``url`` to one address that was checked, whatever DNS says afterwards."""
        if url.scheme not in ("http", "https") or not url.host or url.userinfo:
            raise invalid(
                param, "is not an http(s) URL without user name", code="invalid_image_url"
            )
        host = url.raw_host.decode("ascii").lower()
        if self._allowed_hosts and host not in self._allowed_hosts:
            raise invalid(
                param, f"pictures are not fetched from {host}", code="image_host_not_allowed"
            )
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise _failed(param, f"the host {host} is not known") from None
        if not addresses or not all(is_public(address) for address in addresses):
            raise invalid(
                param,
                f"the host {host} is not on the public internet",
                code="image_host_not_allowed",
            )
        return httpx2.Request(
            "GET",
            url.copy_with(host=addresses[0]),
            headers={
                "host": url.netloc.decode("ascii"),
                "user-agent": "glm-frontend",
                "accept": "image/*",
                "accept-encoding": "identity",
            },
            # The name that the certificate has to be for.
            extensions={"sni_hostname": host},
        )

    async def _read(self, response: httpx2.Response, param: str, budget: "_Budget") -> bytes:
        if response.status_code != 200:
            raise _failed(param, f"the server answered with status {response.status_code}")
        media_type = response.headers.get("content-type", "application/octet-stream")
        media_type = media_type.partition(";")[0].strip().lower()
        if not media_type.startswith("image/") and media_type != "application/octet-stream":
            raise _failed(param, f"the server sent {media_type!r}, not a picture")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _failed(param, "the server compressed the picture without being asked to")
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > self._max_bytes:
                raise self._too_large(param)
            if not budget.take(len(chunk)):
                raise invalid(
                    param,
                    f"the pictures of this request have more than the {self._max_total_bytes} "
                    "bytes allowed together",
                    code="image_too_large",
                )
        return self._bounded(bytes(data), param)


class _Budget:
    """Bytes that all fetched pictures of one request may have together."""

    def __init__(self, size: int) -> None:
        self._left = size

    def take(self, size: int) -> bool:
        self._left -= size
        return self._left >= 0


def _failed(param: str, reason: str) -> APIError:
    return invalid(param, f"the picture could not be fetched: {reason}", code="image_fetch_failed")
