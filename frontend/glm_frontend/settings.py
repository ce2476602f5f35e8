"""Settings from the environment. A bad value stops the start; nothing falls back to a default."""

import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FilePath,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from glm_client import TLS
from glm_frontend import otel
from glm_frontend.admission.keys import APIKey, all_keys, is_key
from glm_frontend.admission.rates import parse_rates
from glm_frontend.variables import PREFIX

_HOST = re.compile(r"\.?[\w-]+(\.[\w-]+)*", re.ASCII)
_PROXY = re.compile(r"https?://[^/\s?#]+/?")
_ORIGIN = re.compile(r"\*|https?://[^/\s?#]+")


class SettingsError(Exception):
    """One or more settings are bad; the message has a line for each, naming key and value."""


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def _origin(value: str) -> str:
    if not _ORIGIN.fullmatch(value):
        raise ValueError(f"{value!r} is not an origin such as https://example.com, nor *")
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


def _visible(key: SecretStr) -> SecretStr:
    if not is_key(key.get_secret_value()):
        raise ValueError("a key may only have visible ASCII characters")
    return key


def _store(where: SecretStr) -> SecretStr:
    text = where.get_secret_value()
    if text not in ("off", "memory") and not text.startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must be off, memory, or a URL that begins with redis://")
    return where


def _rates(value: str) -> str:
    parse_rates(value)
    return value


def _named_host(value: str) -> str:
    try:
        ip_network(value)
    except ValueError as error:
        if not _HOST.fullmatch(value):
            raise ValueError(f"{value!r} is not a host, an address or a network") from error
    return value


def _proxy(value: str) -> str:
    if value and not _PROXY.fullmatch(value):
        raise ValueError("is not the URL of a proxy, such as http://proxy.example:3128")
    return value


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


CommaSeparated = NoDecode, BeforeValidator(_split)
Text = Annotated[str, AfterValidator(_not_blank)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """What the frontend reads from the environment; each name there begins with ``GLM_``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: Text = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    triton_url: Text = "127.0.0.1:8001"
    """Host and port of Triton's gRPC endpoint."""
    triton_root_certificate: FilePath | None = None
    """PEM file with the certificates that Triton's is signed by: TLS instead of plain text."""
    triton_certificate: FilePath | None = None
    """PEM file with the frontend's own certificate, where Triton asks for one."""
    triton_key: FilePath | None = None
    """PEM file with the key of that certificate."""
    served_model_name: Text = "glm-4.6v-flash"
    """The only name that requests may give as ``model``."""
    api_keys: Annotated[
        tuple[Annotated[SecretStr, AfterValidator(_visible)], ...], *CommaSeparated
    ] = ()
    """Accepted Bearer keys, separated by commas; empty: no key is required."""
    api_keys_file: Path | None = None
    """File with more of them, one a line; after it may stand ``name=NAME`` and ``rate=LIMITS``."""
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_origin)], ...], *CommaSeparated
    ] = ()
    """Origins whose pages may call from a browser, separated by commas; ``*`` for any."""
    unknown_fields: Annotated[Literal["ignore", "refuse"], BeforeValidator(_lower)] = "ignore"
    """What happens to fields of a request that nobody knows: left out and named, or refused."""
    max_body_bytes: int = Field(default=32 * 1024**2, ge=1)
    """Most bytes of a request's body, and of all pictures and videos fetched for one request."""
    max_images: int = Field(default=999, ge=0)
    """Most pictures in one request."""
    max_image_bytes: int = Field(default=20 * 1024**2, ge=1)
    """Most bytes of one picture's file."""
    max_videos: int = Field(default=999, ge=0)
    """Most videos in one request."""
    max_video_bytes: int = Field(default=24 * 1024**2, ge=1)
    """Most bytes of one video's file."""
    max_inflight: int = Field(default=256, ge=1)
    """Most requests at once; further ones get a 429."""
    max_inflight_bytes: int = Field(default=512 * 1024**2, ge=1)
    """Most bytes of all their bodies together; more get a 429."""
    rate_limit: Annotated[str, AfterValidator(_rates)] = ""
    """Requests of one key, or of one address where no key is asked for, as 60/minute;1000/hour."""
    body_timeout: Seconds = 60
    """Seconds for the body of a request to arrive."""
    max_connections: int = Field(default=1000, ge=1)
    """Connections open at a time."""
    header_timeout: Seconds = 30
    """Seconds for a request's headers to arrive."""
    write_timeout: Seconds = 60
    """Seconds for a client to read what is on its way to it, some tens of KB."""
    response_cache: Annotated[SecretStr, AfterValidator(_store)] = SecretStr("memory")
    """Where answers are kept to be given again: ``off``, ``memory``, or the URL of a Redis."""
    response_cache_bytes: int = Field(default=64 * 1024**2, ge=1)
    """Most bytes of answers in memory; an eighth of it for one answer."""
    response_cache_seconds: Seconds = 3600
    """Seconds that an answer is kept."""
    request_timeout: Seconds = 600
    """Seconds that an answer may take."""
    graceful_timeout: Seconds = 30
    """Seconds that answers under way have to finish when the frontend is stopped."""
    drain_seconds: float = Field(default=2, ge=0, allow_inf_nan=False)
    """Seconds after SIGTERM in which requests are refused before the port is closed."""
    image_fetch: bool = True
    """Whether pictures and videos may be given as http(s) URLs."""
    image_fetch_allowed_hosts: Annotated[tuple[str, ...], *CommaSeparated] = ()
    """Hosts that they may be fetched from, separated by commas; empty: any public host."""
    image_fetch_timeout: Seconds = 10
    """Seconds for one of them, redirects included."""
    media_allowed_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_named_host)], ...], *CommaSeparated
    ] = ()
    """Hosts, addresses and networks that they may be fetched from though they are not public."""
    media_proxy: Annotated[str, AfterValidator(_proxy)] = ""
    """URL of the HTTP proxy that they are fetched by; empty: none, whatever other variables say."""
    media_folder: Path | None = None
    """Folder whose files may be named by ``file://`` URLs; absent: none."""
    media_memory: int = Field(default=256 * 1024**2, ge=0)
    """Bytes of pictures and videos that are remembered by the ``uuid`` that clients give them."""
    media_overflow: Annotated[Literal["refuse", "oldest"], BeforeValidator(_lower)] = "refuse"
    """What happens to a request with more of them than fit: it is refused, or the oldest go."""
    status_file: Path | None = None
    """Where the launcher says what it is starting again."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = (
        "info"
    )
    """Least severe records that are logged."""
    log_format: Annotated[Literal["text", "json"], BeforeValidator(_lower)] = "text"
    """Whether a log line is text or a JSON object."""
    metrics_public: bool = False
    """Whether ``/metrics`` is for everybody, also where there are keys."""

    _keys: tuple[APIKey, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _read_keys(self) -> Self:
        self._keys = all_keys(self.api_keys, self.api_keys_file)
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.triton_certificate is None) != (self.triton_key is None):
            raise ValueError(
                f"{PREFIX}TRITON_CERTIFICATE and {PREFIX}TRITON_KEY: set both or none of them"
            )
        if self.triton_certificate is not None and self.triton_root_certificate is None:
            raise ValueError(f"{PREFIX}TRITON_CERTIFICATE needs {PREFIX}TRITON_ROOT_CERTIFICATE")
        return self

    @model_validator(mode="after")
    def _check_tracing(self) -> Self:
        otel.is_on()  # its variables are not ours, but a bad value of theirs stops the start, too
        return self

    @property
    def triton_tls(self) -> TLS | None:
        """The certificates for the connection to Triton; None for plain text."""
        if self.triton_root_certificate is None:
            return None
        return TLS(
            root_certificate=self.triton_root_certificate,
            certificate=self.triton_certificate,
            key=self.triton_key,
        )

    @property
    def keys(self) -> tuple[APIKey, ...]:
        """All accepted keys."""
        return self._keys


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: naming every bad key with its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(describe(error)) from None


def describe(error: ValidationError) -> str:
    """One line for each bad setting: its key, its value (no secret's) and what is wrong with it."""
    return "\n".join(_line(details) for details in error.errors())


_SECRETS = ("api_keys", "response_cache", "media_proxy")


def _line(details: Mapping[str, Any]) -> str:
    reason: str = details["msg"].removeprefix("Value error, ")
    if not details["loc"]:  # about several settings together
        return reason
    name = str(details["loc"][0])
    value = "" if name in _SECRETS else f"={details['input']!r}"
    return f"{PREFIX}{name.upper()}{value}: {reason}"
