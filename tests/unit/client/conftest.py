"""The client with a fake in the place of tritonclient."""

import pytest

from unit.client.fake_triton import FakeTriton


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> FakeTriton:
    """Every client that is made in the test talks to this."""
    fake = FakeTriton()
    monkeypatch.setattr("glm_client.aio.InferenceServerClient", lambda url, **options: fake)
    return fake
