"""``GET /v1/models``."""

from fastapi import APIRouter, Depends

from glm_frontend.apis.models.schema import ModelCard, ModelList
from glm_frontend.http.openapi import errors
from glm_frontend.http.services import Services, ServicesDep, require_key

router = APIRouter(prefix="/v1", tags=["Models"], dependencies=[Depends(require_key)])


@router.get("/models/", include_in_schema=False)
@router.get(
    "/models", summary="List the models", response_model_exclude_unset=True, responses=errors(401)
)
async def list_models(services: ServicesDep) -> ModelList:
    """The one model that this server serves."""
    return ModelList(object="list", data=[await _card(services)])


# Names of models may hold slashes, as on the hub.
@router.get(
    "/models/{model_id:path}",
    summary="Look a model up",
    response_model_exclude_unset=True,
    responses=errors(401, 404),
)
async def get_model(model_id: str, services: ServicesDep) -> ModelCard:
    """The model, if it is the served one."""
    services.check_model(model_id)
    return await _card(services)


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
