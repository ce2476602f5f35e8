"""``GET /v1/models``."""

from datetime import UTC, datetime

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse

from glm_frontend.apis.models.schema import ModelCard, ModelList
from glm_frontend.http.openapi import errors
from glm_frontend.http.services import Services, ServicesDep, require_key_or_x_api_key

router = APIRouter(prefix="/v1", tags=["Models"], dependencies=[Depends(require_key_or_x_api_key)])


@router.get(
    "/models/",
    include_in_schema=False,
    response_model=ModelList,
    response_model_exclude_unset=True,
)
@router.get(
    "/models",
    summary="List the models",
    response_model=ModelList,
    response_model_exclude_unset=True,
    responses=errors(401),
)
async def list_models(request: Request, services: ServicesDep) -> ModelList | JSONResponse:
    """The one model that this server serves."""
    if _asks_anthropic(request):
        own = _anthropic_card(services)
        page = {"first_id": own["id"], "last_id": own["id"], "has_more": False}
        return JSONResponse({"data": [own], **page})
    return ModelList(object="list", data=[await _card(services)])


# Names of models may hold slashes, as on the hub.
@router.get(
    "/models/{model_id:path}",
    summary="Look a model up",
    response_model=ModelCard,
    response_model_exclude_unset=True,
    responses=errors(401, 404),
)
async def get_model(
    model_id: str, request: Request, services: ServicesDep
) -> ModelCard | JSONResponse:
    """The model, if it is the served one."""
    services.check_model(model_id)
    if _asks_anthropic(request):
        return JSONResponse(_anthropic_card(services))
    return await _card(services)


def _asks_anthropic(request: Request) -> bool:
    return "anthropic-version" in request.headers


def _anthropic_card(services: Services) -> dict[str, str]:
    name = services.settings.served_model_name
    created = datetime.fromtimestamp(services.started, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": name, "display_name": name, "created_at": created}


async def _card(services: Services) -> ModelCard:
    name = services.settings.served_model_name
    limits = await services.model_info.get()
    card = ModelCard(
        id=name,
        object="model",
        created=services.started,
        owned_by="zai-org",
        root=name,
        parent=None,
    )
    if "max_model_len" in limits:
        card.max_model_len = int(limits["max_model_len"])
    return card
