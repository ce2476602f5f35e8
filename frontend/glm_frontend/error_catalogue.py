"""Every ``code`` that an error of this server may have: what it means, and what to do about it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Entry(NamedTuple):
    """One code.

    Attributes:
        status: of the HTTP response; an error in the middle of a stream has none of its own.
    """

    status: int
    meaning: str
    cure: str


CATALOGUE: Mapping[str, Entry] = MappingProxyType(
    {
        "missing_field": Entry(400, "A field is absent.", "Give the field in `param`."),
        "invalid_value": Entry(
            400,
            "A field has a value that is out of range, of another type, or cannot be done.",
            "The message says what `param` has to be.",
        ),
        "unknown_field": Entry(
            400, "A field that no API has here.", "Check its spelling, or leave it out."
        ),
        "unsupported_field": Entry(
            400, "A field of the API that this server does not have.", "Leave it out."
        ),
        "invalid_json": Entry(400, "The body, or a field of a form, is not JSON.", "Mend it."),
        "context_length_exceeded": Entry(
            400,
            "Prompt and answer together are longer than the model's context.",
            "Shorten the conversation, use smaller pictures or `detail: low`, a shorter video, or "
            "lower `max_tokens`.",
        ),
        "too_many_images": Entry(400, "More pictures than the server takes.", "Send fewer."),
        "invalid_base64": Entry(
            400,
            "The base64 text of a picture or a video is broken.",
            "Send `data:image/png;base64,...`, the prefix complete and nothing cut off.",
        ),
        "empty_image": Entry(400, "A picture has no bytes.", "Send its file."),
        "image_too_large": Entry(
            400, "A picture's file is larger than the server takes.", "Scale it down before."
        ),
        "invalid_image_url": Entry(
            400, "A picture is neither a data URI nor an http(s) URL.", "Send one of the two."
        ),
        "image_fetch_failed": Entry(
            400, "A picture's URL gave no picture in time.", "Send the picture itself."
        ),
        "image_fetch_disabled": Entry(
            400, "This server fetches no pictures.", "Send the picture itself."
        ),
        "image_host_not_allowed": Entry(
            400,
            "A picture's host is not public, or it or the port is not allowed here.",
            "Send the picture itself.",
        ),
        "too_many_videos": Entry(400, "More videos than the server takes.", "Send fewer."),
        "empty_video": Entry(400, "A video has no bytes.", "Send its file."),
        "video_too_large": Entry(
            400, "A video's file is larger than the server takes.", "Cut it, or scale it down."
        ),
        "invalid_video_url": Entry(
            400, "A video is neither a data URI nor an http(s) URL.", "Send one of the two."
        ),
        "video_fetch_failed": Entry(
            400, "A video's URL gave no video in time.", "Send the video itself."
        ),
        "video_fetch_disabled": Entry(400, "This server fetches no videos.", "Send it itself."),
        "video_host_not_allowed": Entry(
            400,
            "A video's host is not public, or it or the port is not allowed here.",
            "Send the video itself.",
        ),
        "bad_request": Entry(400, "The request is no HTTP that this server reads.", "Mend it."),
        "headers_too_large": Entry(
            431, "The headers are larger than the server takes.", "Send smaller ones."
        ),
        "invalid_api_key": Entry(
            401,
            "The key is missing or unknown.",
            "Send `Authorization: Bearer KEY`; `/v1/messages` also takes `x-api-key`.",
        ),
        "model_not_found": Entry(
            404, "Another model than the served one.", "`GET /v1/models` tells its name."
        ),
        "not_found": Entry(
            404,
            "There is no such path, or a stored response is asked for: none is stored.",
            "This page lists all paths; send the items of earlier answers in `input`.",
        ),
        "method_not_allowed": Entry(405, "The path has another method.", "This page lists all."),
        "too_many_values": Entry(
            400,
            "The body has more lists, objects and entries than any request needs.",
            "Send less at a time.",
        ),
        "body_too_large": Entry(
            413, "The body is larger than the server takes.", "Send fewer or smaller pictures."
        ),
        "unsupported_media_type": Entry(
            415, "The body is of another kind.", "Set `content-type: application/json`."
        ),
        "overloaded": Entry(
            429,
            "As many requests are under way as the server takes.",
            "Try again after `retry-after` seconds.",
        ),
        "too_many_connections": Entry(
            503,
            "As many connections are open as the server takes.",
            "Try again later, and use connections again.",
        ),
        "rate_limit_exceeded": Entry(
            429,
            "The rate limit of the API key, or of the address, is reached.",
            "Wait as long as `retry-after` says.",
        ),
        "body_timeout": Entry(408, "The body did not arrive in time.", "Send it again."),
        "internal_error": Entry(
            500,
            "The server failed.",
            "The operator finds the cause in the log under the request id.",
        ),
        "unavailable": Entry(
            503,
            "The model is loading, stopping or gone.",
            "`GET /v1/health` tells which; try again later.",
        ),
        "draining": Entry(503, "The server is about to stop.", "Ask another one, or try again."),
        "out_of_memory": Entry(
            503,
            "There is not the memory to run this request now.",
            "Use smaller or fewer pictures (`detail: low`), shorter prompts and answers; the "
            "operator can lower `GLM_MAX_IMAGE_SIDE` or `GLM_MAX_NUM_SEQS`.",
        ),
        "cancelled": Entry(503, "The model server gave the request up.", "Try again."),
        "timeout": Entry(
            504,
            "The answer took longer than the server's limit.",
            "Lower `max_tokens`, or ask the operator for more time.",
        ),
    }
)


def as_markdown() -> str:
    """The catalogue as a table."""
    rows = [
        f"| {entry.status} | `{code}` | {entry.meaning} | {entry.cure} |"
        for code, entry in sorted(CATALOGUE.items(), key=lambda item: item[1].status)
    ]
    return "\n".join(["| status | code | meaning | what to do |", "|---|---|---|---|", *rows])
