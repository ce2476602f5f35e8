"""What a server that is about to stop says to clients; that it loses none is an end-to-end test."""

import httpx2
from starlette.applications import Starlette
from starlette.testclient import TestClient

from unit.frontend.fakes import CHAT, chat


def test_a_draining_server_sends_clients_elsewhere(client: TestClient) -> None:
    assert isinstance(client.app, Starlette)
    client.app.state.services.draining.set()
    refused = client.post(CHAT, json=chat("hello"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
    assert refused.headers["retry-after"]
    health = client.get("/v1/health")
    assert (health.status_code, health.json()["status"]) == (503, "draining")
    live = client.get("/v1/health/live")
    assert live.status_code == 200
    for response in (refused, health, live):
        assert isinstance(response, httpx2.Response)
        assert response.headers["connection"] == "close"
