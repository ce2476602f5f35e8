"""What asks for nothing is accepted, what is unknown is left out and named, and history is data."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from glm_client import InvalidRequestError
from glm_frontend.app import create_app
from glm_frontend.media.fetch import ImageFetcher
from glm_frontend.settings import Settings
from unit.frontend.fakes import CHAT, MESSAGES, MULTIMODAL, PIXEL, RESPONSES, FakeBackend, chat

IGNORED = "x-glm-ignored-fields"
BARE = PIXEL.partition(",")[2]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def say(client: TestClient, body: dict[str, Any], path: str = CHAT) -> httpx2.Response:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response


def respond_to(**fields: Any) -> dict[str, Any]:
    return {"model": "glm-4.6v-flash", "input": "hi", **fields}


def message_of(**fields: Any) -> dict[str, Any]:
    turn = {"role": "user", "content": "hi"}
    return {"model": "glm-4.6v-flash", "max_tokens": 64, "messages": [turn], **fields}


# ---- unknown fields ----


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (CHAT, chat(novelty=1), "novelty"),
        (CHAT, chat(**{"~text": 1}), "~text"),
        (
            CHAT,
            chat([{"type": "text", "text": "x", "weight": 2}]),
            "messages[0].content[0].weight",
        ),
        (CHAT, chat(stream_options={"x": 1}, a=1), "stream_options.x, a"),
        (CHAT, chat(tools=[{**TOOL, "colour": "red"}]), "tools[0].colour"),
        (CHAT, chat(tools=[TOOL, {"type": "web_search"}]), "tools[1]"),
        (RESPONSES, respond_to(novelty={"a": [1]}), "novelty"),
        (RESPONSES, respond_to(tools=[{"type": "web_search"}]), "tools[0]"),
        (
            RESPONSES,
            respond_to(input=[{"type": "web_search_call"}, {"role": "user", "content": "?"}]),
            "input.web_search_call",
        ),
        (MESSAGES, message_of(novelty=1), "novelty"),
        (MESSAGES, message_of(tools=[{"type": "bash_20250124", "name": "bash"}]), "tools[0]"),
        (MULTIMODAL, {"prompt": "hi", "novelty": 1}, "novelty"),
    ],
)
def test_unknown_fields_are_left_out_and_named(
    client: TestClient, path: str, body: dict[str, Any], named: str
) -> None:
    assert say(client, body, path).headers[IGNORED] == named


LOOSE = {
    "type": "object",
    "properties": {
        "a": {"type": "array", "uniqueItems": True, "items": {"type": "string", "format": "iri"}},
        "not": {"type": "string", "pattern": "^(?!x)"},
        "b": {"$ref": "#/$defs/b"},
    },
    "$defs": {"b": {"anyOf": [{"type": "object", "propertyNames": {}}, {"type": "null"}]}},
    "minProperties": 1,
}
LEFT_OUT = (
    "properties.a.uniqueItems",
    "properties.a.items.format",
    "properties.not.pattern",
    "$defs.b.anyOf[0].propertyNames",
)


def left_out(path: str, *names: str) -> str:
    return ", ".join(f"{path}.{name}" for name in names)


def function(name: str = "f", **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": LOOSE, **fields}}


OWN = {"type": "function", "name": "g", "parameters": LOOSE}
STRICT = function("s", strict=True, parameters={"type": "object", "properties": {}})
JSON_SCHEMA = {"name": "x", "schema": LOOSE}
PARAMETERS = "tools[0].function.parameters"
ARGUMENTS = ("minProperties", *LEFT_OUT)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        (
            CHAT,
            chat(tools=[function()], tool_choice="required"),
            left_out(PARAMETERS, *ARGUMENTS),
        ),
        (
            CHAT,
            chat(
                tools=[function(), function("g")],
                tool_choice={"type": "function", "function": {"name": "g"}},
            ),
            left_out("tools[1].function.parameters", *ARGUMENTS),
        ),
        (CHAT, chat(tools=[function(), STRICT]), left_out(PARAMETERS, *ARGUMENTS)),
        (
            CHAT,
            chat(response_format={"type": "json_schema", "json_schema": JSON_SCHEMA}),
            left_out("response_format.json_schema.schema", *LEFT_OUT),
        ),
        (
            CHAT,
            chat(response_format={"type": "json_object", "schema": LOOSE}),
            left_out("response_format.schema", *LEFT_OUT),
        ),
        (
            RESPONSES,
            respond_to(tools=[OWN], tool_choice="required"),
            left_out("tools[0].parameters", *ARGUMENTS),
        ),
        (
            RESPONSES,
            respond_to(text={"format": {"type": "json_schema", "name": "x", "schema": LOOSE}}),
            left_out("text.format.schema", *LEFT_OUT),
        ),
        (
            MESSAGES,
            message_of(tools=[{"name": "f", "input_schema": LOOSE}], tool_choice={"type": "any"}),
            left_out("tools[0].input_schema", *ARGUMENTS),
        ),
    ],
)
def test_keywords_that_cannot_be_enforced_are_named(
    client: TestClient, path: str, body: dict[str, Any], named: str
) -> None:
    assert say(client, body, path).headers[IGNORED] == named


@pytest.mark.parametrize(
    "body",
    [
        chat(tools=[function()]),  # nothing is enforced
        chat(tools=[function()], tool_choice="none"),
        chat(tools=[function(strict=True)], tool_choice="required"),  # or is refused
        chat(
            response_format={"type": "json_schema", "json_schema": {**JSON_SCHEMA, "strict": True}}
        ),
        chat(structured_outputs={"json": LOOSE}),
        chat(
            tools=[function(parameters={"properties": {"x": {"enum": [{"not": 1}]}}})],
            tool_choice="required",
        ),
    ],
)
def test_what_is_enforced_or_refused_is_not_named(
    client: TestClient, backend: FakeBackend, body: dict[str, Any]
) -> None:
    assert IGNORED not in say(client, body).headers
    assert "x-guidance" not in str(backend.requests[0].sampling_parameters)


def test_the_engine_learns_what_it_may_leave_out(client: TestClient, backend: FakeBackend) -> None:
    say(client, chat(response_format={"type": "json_schema", "json_schema": JSON_SCHEMA}))
    schema = backend.requests[0].sampling_parameters["structured_outputs"]["json"]
    assert schema == {**LOOSE, "x-guidance": {"lenient": True}}


def test_what_asks_for_nothing_is_not_named(client: TestClient) -> None:
    body = chat(store=True, user=7, metadata={"a": 1}, novelty=None, n=1, use_beam_search=False)
    assert IGNORED not in say(client, body).headers


def test_the_names_fit_in_a_header(client: TestClient) -> None:
    names = {f"{'ü' * 40}{i}": 1 for i in range(200)}
    header = say(client, chat(**names)).headers[IGNORED]
    assert header.isascii() and len(header) <= 1024


def test_a_form_may_have_more_fields(client: TestClient) -> None:
    fields = {"prompt": (None, "hi"), "colour": (None, "red")}
    response = client.post(MULTIMODAL, files=fields)
    assert response.status_code == 200 and response.headers[IGNORED] == "colour"


@pytest.fixture
def strict() -> Iterator[TestClient]:
    settings = Settings(unknown_fields="refuse")
    fetcher = ImageFetcher(settings, httpx2.MockTransport(lambda request: httpx2.Response(500)))
    with TestClient(create_app(settings, FakeBackend(), fetcher)) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (CHAT, chat(novelty=1), "novelty"),
        (CHAT, chat(stream=True, stream_options={"x": 1}), "stream_options.x"),
        (CHAT, chat([{"type": "text", "text": "x", "weight": 2}]), "messages[0].content[0].weight"),
        (RESPONSES, respond_to(novelty=1), "novelty"),
        (MESSAGES, message_of(novelty=1), "novelty"),
        (MULTIMODAL, {"prompt": "hi", "novelty": 1}, "novelty"),
    ],
)
def test_they_may_be_refused(
    strict: TestClient, path: str, body: dict[str, Any], param: str
) -> None:
    response = strict.post(path, json=body)
    assert response.status_code == 400
    assert f"{param}: is not a known field" in response.text


def test_an_error_besides_is_the_error(client: TestClient) -> None:
    error = client.post(CHAT, json=chat(novelty=1, temperature=9)).json()["error"]
    assert error["param"] == "temperature" and "novelty" not in error["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"use_beam_search": True},
        {"bad_words": ["x"]},
        {"documents": [{"text": "x"}]},
        {"chat_template": "x"},
        {"functions": [{"name": "f"}]},
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(
    client: TestClient, fields: dict[str, Any]
) -> None:
    error = client.post(CHAT, json=chat(**fields)).json()["error"]
    assert (error["param"], error["code"]) == (next(iter(fields)), "unsupported_field")


# ---- other vendors' words ----


@pytest.mark.parametrize(
    ("fields", "thinks"),
    [
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "enabled", "clear_thinking": False}}, True),
        ({"enable_thinking": False}, False),
        ({"chat_template_kwargs": {"thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": False, "thinking": True, "x": 1}}, False),
        ({"reasoning_effort": "xhigh"}, True),
        ({"reasoning": {"effort": "none"}}, False),
        ({"reasoning": {"effort": "high", "summary": "auto"}}, True),
        ({"reasoning": {"enabled": False}}, False),
        ({"think": False}, False),
        ({"think": "low"}, True),
        ({"reasoning_effort": "none"}, False),
    ],
)
def test_switches_of_thinking(
    client: TestClient, backend: FakeBackend, fields: dict[str, Any], thinks: bool
) -> None:
    say(client, chat(**fields))
    assert backend.requests[0].chat_template_kwargs == {"enable_thinking": thinks}


@pytest.mark.parametrize(
    ("fields", "sent"),
    [
        ({"do_sample": False, "temperature": 0.7}, {"temperature": 0}),
        ({"do_sample": True}, {}),
        ({"max_tokens": 64.0}, {"max_tokens": 64}),
        ({"max_tokens": 9, "max_completion_tokens": 3}, {"max_tokens": 3}),
        ({"stop": ["", "x"]}, {"stop": ["x"]}),
        ({"stop": ""}, {"stop": []}),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, {"thinking_token_budget": 5}),
    ],
)
def test_sampling_in_other_words(
    client: TestClient, backend: FakeBackend, fields: dict[str, Any], sent: dict[str, Any]
) -> None:
    say(client, chat(**fields))
    assert backend.requests[0].sampling_parameters == sent


def test_a_top_p_of_nothing_leaves_the_likeliest(client: TestClient, backend: FakeBackend) -> None:
    say(client, chat(top_p=0))
    assert 0 < backend.requests[0].sampling_parameters["top_p"] < 1e-4


@pytest.mark.parametrize("stream", [False, True])
def test_the_thought_may_be_left_out(client: TestClient, stream: bool) -> None:
    response = say(client, chat(include_reasoning=False, stream=stream))
    assert "circle" in response.text and "thought" not in response.text


@pytest.mark.parametrize(
    ("choice", "sent", "offered"),
    [
        ("any", {"tool_choice": "required"}, ["f", "g"]),
        ({"type": "any"}, {"tool_choice": "required"}, ["f", "g"]),
        ({"type": "auto"}, {}, ["f", "g"]),
        (
            {"type": "tool", "name": "g"},
            {"tool_choice": {"type": "function", "function": {"name": "g"}}},
            ["f", "g"],
        ),
        (
            {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "g"}}],
                },
            },
            {"tool_choice": "required"},
            ["g"],
        ),
    ],
)
def test_choices_of_tools_in_other_words(
    client: TestClient, backend: FakeBackend, choice: Any, sent: dict[str, Any], offered: list[str]
) -> None:
    other = {"type": "function", "function": {"name": "g", "parameters": {}}}
    say(client, chat(tools=[TOOL, other], tool_choice=choice))
    assert backend.requests[0].sampling_parameters == sent
    tools = backend.requests[0].tools or ()
    assert [tool["function"]["name"] for tool in tools] == offered


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": BARE}},
        {"type": "image_url", "image_url": PIXEL},
        {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
        {"type": "image", "image": PIXEL},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BARE}},
        {"image_url": {"url": PIXEL, "detail": "original"}},
    ],
)
def test_pictures_in_other_words(
    client: TestClient, backend: FakeBackend, part: dict[str, Any]
) -> None:
    say(client, chat([part, "hi", {"type": "input_text", "text": "there"}]))
    assert len(backend.requests[0].images) == 1
    assert backend.requests[0].messages == [
        {
            "role": "user",
            "content": [
                {"type": "image"},
                {"type": "text", "text": "hi"},
                {"type": "text", "text": "there"},
            ],
        }
    ]


# ---- history ----


@pytest.mark.parametrize(
    ("call", "sent"),
    [
        ({**CALL, "index": 0, "type": None}, CALL["function"]),
        (CALL | {"function": {"name": "weird name!", "arguments": '{"x": "ab'}},
         {"name": "weird name!", "arguments": '{"x": "ab"}'}),
        (CALL | {"function": {"name": "f", "arguments": "no JSON"}},
         {"name": "f", "arguments": "no JSON"}),
        (CALL | {"function": {"name": "f", "arguments": None}}, {"name": "f", "arguments": "{}"}),
        (CALL | {"function": {"name": "f", "arguments": ""}}, {"name": "f", "arguments": "{}"}),
        (CALL | {"function": {"name": "f", "arguments": {"é": 1}}},
         {"name": "f", "arguments": '{"é": 1}'}),
        ({"id": "c", "type": "custom", "custom": {"name": "f", "input": "ls"}},
         {"name": "f", "arguments": '{"input": "ls"}'}),
    ],
)  # fmt: skip
def test_old_calls_are_data(
    client: TestClient, backend: FakeBackend, call: dict[str, Any], sent: dict[str, Any]
) -> None:
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call], "boxes": [], "parsed": None},
        {"role": "tool", "tool_call_id": "c", "content": None, "name": "f"},
    ]
    response = say(client, chat() | {"messages": turns})
    assert IGNORED not in response.headers
    messages = backend.requests[0].messages
    assert messages is not None
    assert messages[1]["tool_calls"] == [{"id": "c", "type": "function", "function": sent}]
    assert messages[2] == {"role": "tool", "content": ""}


def test_results_of_chat_are_bound_by_their_ids(client: TestClient, backend: FakeBackend) -> None:
    calls = [{**CALL, "id": id} for id in ("p", "l")]
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "l", "content": "of l"},
        {"role": "tool", "tool_call_id": "p", "content": "of p"},
    ]
    say(client, chat() | {"messages": turns})
    messages = backend.requests[0].messages
    assert messages is not None
    assert [message["content"] for message in messages[2:]] == ["of p", "of l"]
    turns[3]["tool_call_id"] = "x"
    error = client.post(CHAT, json=chat() | {"messages": turns}).json()["error"]
    assert error["param"] == "messages[3].tool_call_id" and "'x'" in error["message"]


def test_other_turns_of_history(client: TestClient, backend: FakeBackend) -> None:
    turns = [
        {"role": "user", "content": "hi", "name": "", "tool_call_id": "c", "reasoning_content": ""},
        {"role": "assistant", "content": None, "refusal": "No."},
        {"role": "function", "name": "f", "content": "7"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "audio": None},
        {"role": "user", "content": "?"},
    ]
    say(client, chat() | {"messages": turns})
    messages = backend.requests[0].messages
    assert messages is not None
    contents = [(message["role"], message["content"]) for message in messages]
    assert contents == [
        ("user", "hi"),
        ("assistant", "No."),
        ("tool", "7"),
        ("assistant", [{"type": "text", "text": "No."}]),
        ("user", "?"),
    ]


# ---- Anthropic's ----


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": None},
        {"thinking": {"type": "enabled"}},
        {"thinking": {"type": "adaptive", "display": "omitted", "budget_tokens": 9}},
        {"metadata": {"name": "x"}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}},
        {"system": [{"type": "text", "text": "x", "cache_control": {"scope": "global"}}]},
        {"output_format": {"type": "json_schema", "schema": {}}},
        {"tool_choice": {"type": "auto", "name": "f"}},
        {"service_tier": "auto", "inference_geo": "eu", "top_p": 0, "temperature": 1.5},
    ],
)
def test_messages_accepts(client: TestClient, fields: dict[str, Any]) -> None:
    assert IGNORED not in say(client, message_of(**fields), MESSAGES).headers


def test_blocks_of_other_kinds(client: TestClient, backend: FakeBackend) -> None:
    image = {"type": "image", "source": {"type": "base64", "data": BARE}}
    turns = [
        {"role": "user", "content": [
            {"type": "document", "title": "T", "source": {"type": "text", "data": "words"}},
            {"type": "search_result", "source": "s", "title": "R",
             "content": [{"type": "text", "text": "found"}], "citations": {"enabled": True}},
            image,
        ]},
        {"role": "assistant", "content": [
            {"type": "redacted_thinking", "data": "x"},
            {"type": "thinking", "thinking": "hm"},
            {"type": "tool_use", "id": "c", "name": "f", "input": None},
        ]},
        {"role": "user", "content": [
            {"type": "text", "text": "so?"},
            {"type": "tool_result", "tool_use_id": "c", "content": "7"},
        ]},
    ]  # fmt: skip
    response = say(client, message_of(messages=turns), MESSAGES)
    assert response.headers[IGNORED] == "redacted_thinking"
    messages = backend.requests[0].messages
    assert messages is not None
    assert messages[0]["content"] == [
        {"type": "text", "text": "T\nwords"},
        {"type": "text", "text": "R\ns\nfound"},
        {"type": "image"},
    ]
    assert messages[1]["tool_calls"][0]["function"] == {"name": "f", "arguments": "{}"}
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]


def test_examples_of_inputs_are_told_with_the_tool(
    client: TestClient, backend: FakeBackend
) -> None:
    tool: dict[str, Any] = {
        "name": "f",
        "description": "Adds.",
        "input_schema": {},
        "input_examples": [{"a": 1}],
    }
    say(client, message_of(tools=[tool]), MESSAGES)
    tools = backend.requests[0].tools or ()
    assert tools[0]["function"]["description"] == 'Adds.\nExamples:\n{"a": 1}'


# ---- Responses ----


@pytest.mark.parametrize(
    "fields",
    [
        {"include": ["file_search_call.results", "reasoning.encrypted_content"]},
        {"reasoning": {"effort": "xhigh", "summary": "detailed", "generate_summary": "auto"}},
        {"text": {"verbosity": "low"}},
        {"truncation": "auto", "service_tier": "flex", "store": True, "moderation": {"a": 1}},
        {"client_metadata": {"session_id": "x"}, "prompt_cache_key": 5},
        {"stream_options": {"include_obfuscation": False}},
        {"max_output_tokens": 5, "max_tokens": 6},
        {"text": {"format": {"type": "json_schema", "schema": {}}}},
    ],
)
def test_responses_accepts(client: TestClient, fields: dict[str, Any]) -> None:
    assert IGNORED not in say(client, respond_to(**fields), RESPONSES).headers


def test_items_of_other_kinds(client: TestClient, backend: FakeBackend) -> None:
    items = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}], "phase": "x"},
        {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "ls", "id": "i"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "a.txt"},
        {"type": "message", "role": "assistant", "content": None, "status": "odd"},
    ]
    assert IGNORED not in say(client, respond_to(input=items), RESPONSES).headers
    messages = backend.requests[0].messages
    assert messages is not None
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == '{"input": "ls"}'
    assert [message["content"] for message in messages[2:]] == ["a.txt", ""]


def test_some_of_the_tools_are_allowed(client: TestClient, backend: FakeBackend) -> None:
    tools: list[dict[str, Any]] = [
        {"type": "function", "name": name, "parameters": {}} for name in ("f", "g")
    ]
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}
    say(client, respond_to(tools=tools, tool_choice=choice), RESPONSES)
    offered = backend.requests[0].tools or ()
    assert [tool["function"]["name"] for tool in offered] == ["g"]


# ---- endpoints that SDKs know ----


def test_models_in_anthropics_form(client: TestClient) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    page = client.get("/v1/models", headers=headers).json()
    (card,) = page["data"]
    assert card["type"] == "model" and card["display_name"] == card["id"]
    assert (page["has_more"], page["first_id"], page["last_id"]) == (False, card["id"], card["id"])
    assert client.get(f"/v1/models/{card['id']}", headers=headers).json() == card


def test_a_thread_is_refused_as_the_sdk_expects(client: TestClient) -> None:
    response = client.post(MESSAGES, json=message_of(thread={"type": "create"}))
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["details"] == {
        "error_code": "thread_unsupported_request",
        "unsupported": ["thread"],
    }


def test_tokens_of_a_response_are_counted(client: TestClient) -> None:
    answer = say(client, respond_to(instructions="Be brief."), "/v1/responses/input_tokens").json()
    assert answer == {"object": "response.input_tokens", "input_tokens": 3}


# ---- what a review found ----


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, chat(**{"a\r\nset-cookie: x": 1})),
        (CHAT, chat(**{"\x00\x7f": 1})),
        (RESPONSES, respond_to(input=[{"type": "a\r\nb: c"}, {"role": "user", "content": "?"}])),
    ],
)
def test_names_cannot_break_the_header(client: TestClient, path: str, body: dict[str, Any]) -> None:
    header = say(client, body, path).headers[IGNORED]
    assert header.isascii() and header.isprintable() and "?" in header


def test_more_unknown_fields_than_anybody_has_are_refused(client: TestClient) -> None:
    turns = [{"role": "user", "content": "hi", **{f"x{i}": 1 for i in range(200)}}] * 6
    error = client.post(CHAT, json=chat() | {"messages": turns}).json()["error"]
    assert error["code"] == "unknown_field"


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_tools_keep_their_places(client: TestClient, backend: FakeBackend, path: str) -> None:
    tool: dict[str, Any] = {"type": "function", "function": {"name": "f"}, "foo": 1}
    make = {CHAT: chat, RESPONSES: respond_to, MESSAGES: message_of}[path]
    if path == RESPONSES:
        tool = {"type": "function", "name": "f", "foo": 1}
    if path == MESSAGES:
        tool = {"name": "f", "input_schema": {}, "foo": 1}
    body = make(tools=[{"type": "web_search", "name": "w"}, tool])
    header = say(client, body, path).headers[IGNORED]
    assert sorted(header.split(", ")) == ["tools[0]", "tools[1].foo"]
    backend.script = [InvalidRequestError("is bad", "tools[0].function.name")]
    error = client.post(path, json=body).json()["error"]
    assert error["message"].startswith("tools[1].")


@pytest.mark.parametrize("data", [5, None, ["x"]])
def test_odd_documents_are_named(client: TestClient, data: Any) -> None:
    part = {"type": "document", "title": "T", "source": {"type": "text", "data": data}}
    turns = [{"role": "user", "content": [part]}]
    response = client.post(MESSAGES, json=message_of(messages=turns))
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("messages[0].content[0].type")


def test_the_older_form_of_a_call(client: TestClient, backend: FakeBackend) -> None:
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "function_call": CALL["function"], "audio": {}},
        {"role": "function", "name": "f", "content": "7"},
    ]
    say(client, chat() | {"messages": turns})
    messages = backend.requests[0].messages
    assert messages is not None and messages[1]["tool_calls"][0]["function"] == CALL["function"]


@pytest.mark.parametrize(
    ("given", "sent"),
    [("[1, 2", "[1, 2"), ([1], "[1]"), (5, "5"), ('{"a": [1, 2', '{"a": [1, 2]}')],
)
def test_arguments_of_any_kind(
    client: TestClient, backend: FakeBackend, given: Any, sent: str
) -> None:
    call = CALL | {"function": {"name": "f", "arguments": given}}
    turns = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    say(client, chat() | {"messages": turns})
    messages = backend.requests[0].messages
    assert messages is not None
    assert messages[1]["tool_calls"][0]["function"]["arguments"] == sent


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (MULTIMODAL, {"prompt": "hi", "chat_template_kwargs": {"thinking": False}}),
        ("/tokenize", chat(chat_template_kwargs={"thinking": False}, tools=[{"type": "web"}])),
    ],
)
def test_the_switch_works_everywhere(
    client: TestClient, backend: FakeBackend, path: str, body: dict[str, Any]
) -> None:
    say(client, body, path)
    assert backend.requests[0].chat_template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize(
    "items", [[{"type": "web_search_call"}], [{"type": "reasoning", "summary": []}]]
)
def test_a_response_to_nothing_is_refused(client: TestClient, items: list[Any]) -> None:
    error = client.post(RESPONSES, json=respond_to(input=items)).json()["error"]
    assert error["param"] == "input"


def test_whole_numbers_have_a_bound(client: TestClient) -> None:
    error = client.post(CHAT, json=chat(top_k=1e30)).json()["error"]
    assert error["param"] == "top_k"


def test_a_thought_that_is_not_to_be_sent(client: TestClient, backend: FakeBackend) -> None:
    body = chat(reasoning={"exclude": True, "max_tokens": 9})
    message = say(client, body).json()["choices"][0]["message"]
    assert "reasoning_content" not in message and message["content"]
    assert backend.requests[0].sampling_parameters["thinking_token_budget"] == 9


def test_the_fields_that_openais_answers_always_have(client: TestClient) -> None:
    (choice,) = say(client, chat()).json()["choices"]
    assert choice["logprobs"] is None and choice["message"]["refusal"] is None


@pytest.mark.parametrize(
    "url",
    [
        f"data:;base64,{BARE}",
        f"data:application/octet-stream;base64,{BARE}",
        f"data:image/jpg;base64,{BARE}",
        BARE.replace("+", "-").replace("/", "_").rstrip("="),
    ],
)
def test_pictures_in_any_base64(client: TestClient, backend: FakeBackend, url: str) -> None:
    say(client, chat([{"type": "image_url", "image_url": {"url": url}}]))
    assert backend.requests[0].images == [base64.b64decode(BARE)]


def test_load_balancers_may_post(client: TestClient) -> None:
    assert client.post("/ping").status_code == client.get("/ping").status_code
