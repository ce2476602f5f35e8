"""``GET /v1/health``."""

from typing import Literal

from pydantic import BaseModel, Field

PartState = Literal["ok", "loading", "restarting", "failed", "overloaded", "unreachable"]


class Health(BaseModel):
    """Whether a request could be answered now."""

    status: Literal["ok", "full", "unavailable", "draining"] = Field(
        description="`full`: requests are answered, and further ones refused for a moment."
    )
    checks: dict[str, PartState] = Field(
        description="The state of each part that an answer needs: `triton` (the server), "
        "`preprocessing` and `generation` (its two models)."
    )
    message: str


class Live(BaseModel):
    """That the frontend runs."""

    status: Literal["live"]
