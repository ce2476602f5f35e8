"""``GET /v1/health``. Open to everybody: load balancers have no key."""

from http import HTTPStatus
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from glm_frontend.core.health import Health
from glm_frontend.http.services import ServicesDep

router = APIRouter(tags=["Health"])


class Live(BaseModel):
    """That the frontend runs."""

    status: Literal["live"]


# What load balancers of other servers ask.
@router.get("/health", include_in_schema=False)
@router.api_route("/ping", methods=["GET", "POST"], include_in_schema=False)
@router.get(
    "/v1/health",
    summary="Whether a request could be answered now",
    responses={503: {"model": Health, "description": "No request could be answered now."}},
)
async def get_health(services: ServicesDep, response: Response) -> Health:
    """200 only when requests are answered: one was a moment ago, or the queue is full of them.

    Otherwise 503, and `checks` tells which part is missing.
    """
    if services.draining.is_set():
        health = Health(status="draining", checks={}, message="The server is shutting down.")
    else:
        health = await services.health.check()
    # Who takes a full server out makes the next one full; its 429 says when to come back.
    if health.status not in ("ok", "full"):
        response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
    return health


@router.get("/version", include_in_schema=False)
async def get_version() -> dict[str, str]:
    """The version of this server."""
    return {"version": version("glm-triton-server")}


@router.get("/v1/health/live", summary="Whether the frontend itself runs")
async def get_live() -> Live:
    """Always 200. For who starts it again when it does not answer; whether it is any use, see
    `/v1/health`.
    """
    return Live(status="live")
