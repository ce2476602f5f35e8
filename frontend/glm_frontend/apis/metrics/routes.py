"""``GET /metrics``, for Prometheus."""

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from starlette.responses import Response

from glm_frontend.http.services import BearerDep, ServicesDep

router = APIRouter(include_in_schema=False)


@router.get("/metrics")
async def get_metrics(services: ServicesDep, bearer: BearerDep) -> Response:
    """All metrics. Where the server has keys, for who has one, unless the operator opens it."""
    if not services.settings.metrics_public:
        services.keys.check(None if bearer is None else bearer.credentials)
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
