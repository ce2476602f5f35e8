"""The documentation: complete, right, and all from this server."""

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import glm_frontend
from glm_frontend.error_codes import ErrorCode
from unit.frontend.fakes import (
    CHAT,
    COUNT_TOKENS,
    DECISIONS,
    MESSAGES,
    MULTIMODAL,
    RESPONSES,
)

# Most ask for the whole document, which takes half a second to make.
pytestmark = pytest.mark.slow


@pytest.fixture
def document(client: TestClient) -> Any:
    return client.get("/openapi.json").json()


def test_the_page_asks_nobody_else(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert not re.search(r"(?:https?:)?//[\w.-]+\.\w+", page.text)
    assert '"validatorUrl": null' in page.text
    assets = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert len(assets) == 3
    for asset in assets:
        assert client.get(f"/{asset}").status_code == 200


def test_the_front_door_leads_to_the_docs(client: TestClient) -> None:
    response = client.get("/", follow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (307, "docs")


def test_all_endpoints_are_there(document: Any) -> None:
    assert {(path, *methods) for path, methods in document["paths"].items()} == {
        (CHAT, "post"),
        (MESSAGES, "post"),
        (COUNT_TOKENS, "post"),
        (RESPONSES, "post"),
        (f"{RESPONSES}/compact", "post"),
        (f"{RESPONSES}/input_tokens", "post"),
        (MULTIMODAL, "post"),
        ("/v1/completions", "post"),
        (DECISIONS, "post"),
        ("/tokenize", "post"),
        ("/detokenize", "post"),
        ("/tokenizer_info", "get"),
        ("/v1/models", "get"),
        ("/v1/models/{model_id}", "get"),
        ("/v1/health", "get"),
        ("/v1/health/live", "get"),
    }


def test_every_reference_leads_somewhere(document: Any) -> None:
    references = set(re.findall(r"'\$ref': '#/components/schemas/([^']+)'", str(document)))
    assert references
    assert references <= set(document["components"]["schemas"])


def test_fields_are_described_with_default_and_range(document: Any) -> None:
    schemas = document["components"]["schemas"]
    fields = schemas["ChatCompletionRequest"]["properties"]
    assert fields["max_tokens"]["default"] == 512
    assert {"minimum": 0.0, "maximum": 2.0, "type": "number"} in fields["temperature"]["anyOf"]
    for name in (
        "ChatCompletionRequest",
        "MessagesRequest",
        "ResponsesRequest",
        "MultimodalRequest",
        "CompletionRequest",
        "TokenizeRequest",
    ):
        missing = [
            field
            for field, schema in schemas[name]["properties"].items()
            if not schema.get("description")
        ]
        assert missing == []


def test_both_content_types_are_documented(document: Any) -> None:
    content = document["paths"][MULTIMODAL]["post"]["requestBody"]["content"]
    assert set(content) == {"application/json", "multipart/form-data"}
    form = content["multipart/form-data"]["schema"]
    assert form["required"] == ["prompt"]
    assert {"prompt", "image", "images", "max_tokens"} <= set(form["properties"])


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        (CHAT, "ErrorResponse"),
        (RESPONSES, "ErrorResponse"),
        (MESSAGES, "MessagesErrorResponse"),
    ],
)
def test_errors_are_documented(document: Any, path: str, shape: str) -> None:
    responses = document["paths"][path]["post"]["responses"]
    assert set(responses) == {
        *("200", "400", "401", "404", "408", "413", "415", "429", "500", "503", "504")
    }
    for status, response in responses.items():
        if status != "200":
            schema = response["content"]["application/json"]["schema"]
            assert schema == {"$ref": f"#/components/schemas/{shape}"}
    assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
    assert "422" not in str(document)


def test_the_key_is_documented(document: Any) -> None:
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert document["paths"][CHAT]["post"]["security"] == [{"HTTPBearer": []}]
    either: Any = [{"HTTPBearer": []}, {"APIKeyHeader": []}]
    assert document["paths"][MESSAGES]["post"]["security"] == either
    assert document["components"]["securitySchemes"]["APIKeyHeader"]["name"] == "x-api-key"
    assert "security" not in document["paths"]["/v1/health"]["get"]


@pytest.mark.parametrize(
    "path",
    [
        CHAT,
        RESPONSES,
        MESSAGES,
        COUNT_TOKENS,
        DECISIONS,
        MULTIMODAL,
        "/v1/completions",
        "/tokenize",
        "/detokenize",
    ],
)
def test_the_examples_work(client: TestClient, document: Any, path: str) -> None:
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    assert content["examples"]
    for example in content["examples"].values():
        assert client.post(path, json=example["value"]).status_code == 200


def _raised() -> set[str]:
    """The names of all codes that the frontend's and the page's source puts into an error."""
    names = set()
    frontend = Path(glm_frontend.__file__).parents[1]
    for file in frontend.rglob("*.py"):
        text = "" if file.name == "error_codes.py" else file.read_text(encoding="utf-8")
        names |= set(re.findall(r"ErrorCode\.([A-Z_0-9]+)", text))
        for pattern in re.findall(r'kind\.error\("([^"]+)"\)', text):
            names |= {pattern.format(kind).upper() for kind in ("image", "video")}
    return names


def test_every_code_is_documented_and_used(document: Any) -> None:
    # Those of the model server come by their text; tests/contract looks at these.
    reported = {code.name for code in ErrorCode if code.triton}
    assert _raised() | reported == set(ErrorCode.__members__)
    for code in ErrorCode:
        assert code.name == code.upper()
        assert f"| {code.status} | `{code}` |" in document["info"]["description"]


def test_every_operation_and_tag_is_described(document: Any) -> None:
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"] and operation["description"]
            assert set(operation["tags"]) <= tags
