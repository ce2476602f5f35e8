"""The body of every error."""

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
