"""``GET /v1/models``."""

from fastapi import APIRouter, Depends

from glm_frontend.apis.models.schema import ModelCard, ModelList
from glm_frontend.http.openapi import errors
from glm_frontend.http.services import Services, ServicesDep, require_key

router = APIRouter(prefix="/v1", tags=["Models"], dependencies=[Depends(require_key)])


@router.get("/models", summary="List the models", responses=errors(401))
async def list_models(services: ServicesDep) -> ModelList:
    """The one model that this server serves."""
    return ModelList(object="list", data=[_card(services)])


# Names of models may hold slashes, as on the hub.
@router.get("/models/{model_id:path}", summary="Look a model up", responses=errors(401, 404))
async def get_model(model_id: str, services: ServicesDep) -> ModelCard:
    """The model, if it is the served one."""
    services.check_model(model_id)
    return _card(services)


def _card(services: Services) -> ModelCard:
    return ModelCard(
        id=services.settings.served_model_name,
        object="model",
        created=services.started,
        owned_by="zai-org",
    )
