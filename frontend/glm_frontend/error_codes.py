"""Every ``code`` that an error of this server may have: its status and type in each API, what it
means, and what to do about it."""

from enum import StrEnum
from http import HTTPStatus
from typing import Literal, Self

ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]
"""OpenAI's types that this server uses."""

_ANTHROPIC_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_too_large",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.INTERNAL_SERVER_ERROR: "api_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "overloaded_error",  # the one that says: later
    HTTPStatus.GATEWAY_TIMEOUT: "timeout_error",
}


class ErrorCode(StrEnum):
    """A code, as programs read it, with what belongs to it.

    Attributes:
        status: of the HTTP response; an error in the middle of a stream has none of its own.
        triton: the status of the same error where Triton is asked directly, by Triton's name; None
            for what only the frontend refuses.
        meaning: for the documentation.
        remedy: what the caller can do about it, for the documentation.
    """

    status: HTTPStatus
    triton: str | None
    meaning: str
    remedy: str

    def __new__(
        cls, code: str, status: int, meaning: str, remedy: str, triton: str | None = None
    ) -> Self:
        """One row of the table below."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.status = HTTPStatus(status)
        member.meaning, member.remedy, member.triton = meaning, remedy, triton
        return member

    @classmethod
    def named(cls, code: str) -> "ErrorCode | None":
        """The code with this text; a newer model server may have one that is not known here."""
        return cls.__members__.get(code.upper())

    @property
    def type(self) -> ErrorType:
        """In OpenAI's APIs."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    @property
    def anthropic_type(self) -> str:
        """In Anthropic's API."""
        return _ANTHROPIC_TYPES.get(self.status, "invalid_request_error")

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may pass later; then there is a ``retry-after``."""
        return self.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

    MISSING_FIELD = "missing_field", 400, "A field is absent.", "Give the field in `param`."
    INVALID_VALUE = (
        "invalid_value",
        400,
        "A field has a value that is out of range, of another type, or cannot be honoured.",
        "The message says what `param` must be.",
        "INVALID_ARG",
    )
    UNKNOWN_FIELD = (
        "unknown_field",
        400,
        "No API here has this field.",
        "Check its spelling, or leave it out.",
    )
    UNSUPPORTED_FIELD = (
        "unsupported_field",
        400,
        "A field of the API that this server does not support.",
        "Leave it out.",
    )
    INVALID_JSON = (
        "invalid_json",
        400,
        "The body, or a field of a form, is not valid JSON.",
        "The message says where it breaks off.",
    )
    TOO_MANY_VALUES = (
        "too_many_values",
        400,
        "The body has more lists, objects and entries than any request needs.",
        "Send less at a time.",
    )
    CONTEXT_LENGTH_EXCEEDED = (
        "context_length_exceeded",
        400,
        "Prompt and answer together exceed the model's context.",
        "Shorten the conversation, use smaller pictures or `detail: low`, a shorter video, or "
        "lower `max_tokens`.",
        "INVALID_ARG",
    )
    TOO_MANY_IMAGES = (
        "too_many_images",
        400,
        "More pictures than the server accepts.",
        "Send fewer.",
        "INVALID_ARG",
    )
    INVALID_BASE64 = (
        "invalid_base64",
        400,
        "The base64 text of a picture or a video is broken.",
        "Send `data:image/png;base64,...`, the prefix complete and nothing cut off.",
        "INVALID_ARG",
    )
    EMPTY_IMAGE = "empty_image", 400, "A picture has no bytes.", "Send its file.", "INVALID_ARG"
    IMAGE_TOO_LARGE = (
        "image_too_large",
        400,
        "A picture's file is larger than the server accepts.",
        "Scale it down first.",
    )
    INVALID_IMAGE_URL = (
        "invalid_image_url",
        400,
        "A picture is neither a data URI nor an http(s) URL.",
        "Send one of the two.",
    )
    IMAGE_FETCH_FAILED = (
        "image_fetch_failed",
        400,
        "A picture's URL gave no picture in time.",
        "Send the picture itself.",
    )
    IMAGE_FETCH_DISABLED = (
        "image_fetch_disabled",
        400,
        "This server fetches no pictures.",
        "Send the picture itself.",
    )
    IMAGE_HOST_NOT_ALLOWED = (
        "image_host_not_allowed",
        400,
        "A picture's host is not public, or it or the port is not allowed here.",
        "Send the picture itself.",
    )
    MEDIA_NOT_REMEMBERED = (
        "media_not_remembered",
        400,
        "A picture or a video is named by a `uuid` that the server does not know, or no longer.",
        "Send it again, with its `uuid`.",
    )
    TOO_MANY_VIDEOS = (
        "too_many_videos",
        400,
        "More videos than the server accepts.",
        "Send fewer.",
        "INVALID_ARG",
    )
    EMPTY_VIDEO = "empty_video", 400, "A video has no bytes.", "Send its file.", "INVALID_ARG"
    VIDEO_TOO_LARGE = (
        "video_too_large",
        400,
        "A video's file is larger than the server accepts.",
        "Cut it, or scale it down.",
    )
    INVALID_VIDEO_URL = (
        "invalid_video_url",
        400,
        "A video is neither a data URI nor an http(s) URL.",
        "Send one of the two.",
    )
    VIDEO_FETCH_FAILED = (
        "video_fetch_failed",
        400,
        "A video's URL gave no video in time.",
        "Send the video itself.",
    )
    VIDEO_FETCH_DISABLED = (
        "video_fetch_disabled",
        400,
        "This server fetches no videos.",
        "Send the video itself.",
    )
    VIDEO_HOST_NOT_ALLOWED = (
        "video_host_not_allowed",
        400,
        "A video's host is not public, or it or the port is not allowed here.",
        "Send the video itself.",
    )
    BAD_REQUEST = (
        "bad_request",
        400,
        "The request is not HTTP that this server reads.",
        "The message says what is wrong with it.",
    )
    INVALID_API_KEY = (
        "invalid_api_key",
        401,
        "The key is missing or unknown.",
        "Send `Authorization: Bearer KEY`; `/v1/messages` also takes `x-api-key`.",
    )
    MODEL_NOT_FOUND = (
        "model_not_found",
        404,
        "Another model than the served one.",
        "`GET /v1/models` tells its name.",
    )
    NOT_FOUND = (
        "not_found",
        404,
        "There is no such path, or a stored response is asked for: none is stored.",
        "This page lists all paths; send the items of earlier answers in `input`.",
    )
    METHOD_NOT_ALLOWED = (
        "method_not_allowed",
        405,
        "The path has another method.",
        "This page lists all.",
    )
    BODY_TIMEOUT = "body_timeout", 408, "The body did not arrive in time.", "Send it again."
    BODY_TOO_LARGE = (
        "body_too_large",
        413,
        "The body is larger than the server accepts.",
        "Send fewer or smaller pictures.",
    )
    UNSUPPORTED_MEDIA_TYPE = (
        "unsupported_media_type",
        415,
        "The body is of another media type.",
        "Set `content-type: application/json`.",
    )
    OVERLOADED = (
        "overloaded",
        429,
        "As many requests are under way as the server accepts.",
        "Try again after `retry-after` seconds.",
        "UNAVAILABLE",
    )
    RATE_LIMIT_EXCEEDED = (
        "rate_limit_exceeded",
        429,
        "The rate limit of the API key, or of the address, is reached.",
        "Wait as long as `retry-after` says.",
    )
    HEADERS_TOO_LARGE = (
        "headers_too_large",
        431,
        "The headers are larger than the server accepts.",
        "Send smaller ones.",
    )
    INTERNAL_ERROR = (
        "internal_error",
        500,
        "The server failed.",
        "The operator finds the cause in the log under the request id.",
        "INTERNAL",
    )
    TOO_MANY_CONNECTIONS = (
        "too_many_connections",
        503,
        "As many connections are open as the server accepts.",
        "Try again later, and reuse connections.",
    )
    UNAVAILABLE = (
        "unavailable",
        503,
        "The model is loading, stopping or gone.",
        "`GET /v1/health` tells which; try again later.",
        "UNAVAILABLE",
    )
    API_UNREACHABLE = (
        "api_unreachable",
        503,
        "The web page cannot reach the API server.",
        "Try again later.",
    )
    DRAINING = (
        "draining",
        503,
        "The server is shutting down.",
        "Ask another one, or try again later.",
    )
    OUT_OF_MEMORY = (
        "out_of_memory",
        503,
        "There is not enough memory to run this request now.",
        "Use smaller or fewer pictures (`detail: low`), shorter prompts and answers; the "
        "operator can lower `GLM_MAX_IMAGE_SIDE` or `GLM_MAX_NUM_SEQS`.",
        "UNAVAILABLE",
    )
    CANCELLED = (
        "cancelled",
        503,
        "The model server cancelled the request.",
        "Try again.",
        "CANCELLED",
    )
    TIMEOUT = (
        "timeout",
        504,
        "The answer took longer than the server's limit.",
        "Lower `max_tokens`, or ask the operator for more time.",
    )


def as_markdown() -> str:
    """All codes as a table."""
    rows = [
        f"| {code.status} | `{code}` | {code.meaning} | {code.remedy} |"
        for code in sorted(ErrorCode, key=lambda code: code.status)
    ]
    return "\n".join(["| status | code | meaning | what to do |", "|---|---|---|---|", *rows])
