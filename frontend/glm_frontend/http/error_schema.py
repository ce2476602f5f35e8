"""The body of every error."""

from typing import Literal

from pydantic import BaseModel, Field


class ErrorDetails(BaseModel):
    """What went wrong."""

    message: str = Field(description="For people; begins with the field's path if there is one.")
    type: str = Field(description="`invalid_request_error`, `rate_limit_error` or `server_error`.")
    param: str | None = Field(
        description="Path of the field, such as `messages[0].content[1].image_url.url`."
    )
    code: str | None = Field(description="For programs, such as `model_not_found`.")
    request_id: str = Field(description="The id of the request in the server's log.")


class ErrorResponse(BaseModel):
    """OpenAI's error shape."""

    error: ErrorDetails


class MessagesErrorDetails(BaseModel):
    """What went wrong."""

    type: str = Field(description="Such as `invalid_request_error` or `rate_limit_error`.")
    message: str = Field(
        description="For people; begins with the path of the field if there is one, such as "
        "`messages[0].content[1].source.data`."
    )


class MessagesErrorResponse(BaseModel):
    """Anthropic's error shape."""

    type: Literal["error"]
    error: MessagesErrorDetails
    request_id: str = Field(description="The id of the request in the server's log.")
