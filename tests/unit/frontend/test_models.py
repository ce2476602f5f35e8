"""``GET /v1/models``."""

import pytest
from starlette.testclient import TestClient

from glm_frontend.app import create_app
from glm_frontend.settings import Settings
from unit.frontend.fakes import FakeBackend


@pytest.mark.parametrize("name", ["glm-4.6v-flash", "zai-org/GLM-4.6V-Flash"])
def test_models(name: str) -> None:
    with TestClient(create_app(Settings(served_model_name=name), FakeBackend())) as client:
        listed = client.get("/v1/models").json()
        card = client.get(f"/v1/models/{name}").json()
        assert listed == {"object": "list", "data": [card]}
        assert (card["id"], card["object"]) == (name, "model")
        assert isinstance(card["created"], int)
        missing = client.get("/v1/models/other")
        assert missing.status_code == 404
        assert missing.json()["error"]["code"] == "model_not_found"
