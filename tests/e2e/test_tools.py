"""Tools in the prompt and their results, over the real server.

What the model calls is tested in test_skills.py, what its calls become with texts of many kinds in
tests/unit/frontend/test_tools.py and tests/unit/format.
"""

from typing import Any

from e2e.calls import chat, content, data_uri, post
from tools.stack import Stack

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "A picture of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}


def called(arguments: str, result: Any) -> list[dict[str, Any]]:
    """An assistant's call and its result."""
    function = {"name": "look", "arguments": arguments}
    call = {"id": "call_1", "type": "function", "function": function}
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    ]


def test_the_model_is_told_of_tools_unless_it_may_not_call(stack: Stack) -> None:
    tokens = [
        post(stack, chat("hi", **fields)).json()["usage"]["prompt_tokens"]
        for fields in ({}, {"tools": [TOOL]}, {"tools": [TOOL], "tool_choice": "none"})
    ]
    assert tokens[1] > tokens[0] + 50
    assert tokens[2] == tokens[0]


def test_a_result_may_hold_a_picture(stack: Stack) -> None:
    body = chat("What is there?", tools=[TOOL])
    picture = {"type": "image_url", "image_url": {"url": data_uri("plot-42.png")}}
    body["messages"] += called('{"place": "here"}', [{"type": "text", "text": "This:"}, picture])
    response = post(stack, body)
    assert content(response)
    assert response.json()["usage"]["prompt_tokens_details"]["image_tokens"] >= 16


def test_old_arguments_that_are_not_json_do_not_block_the_conversation(stack: Stack) -> None:
    body = chat("What is there?", tools=[TOOL])
    for arguments in ("{place", '{"place": "he', "", "[1]"):
        answer = post(stack, body | {"messages": body["messages"] + called(arguments, "nothing")})
        assert answer.status_code == 200, answer.text
