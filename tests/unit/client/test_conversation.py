"""Turns, requests and files of a conversation."""

import json
from pathlib import Path
from typing import Any

import pytest

from glm_client.conversation import Conversation, ConversationError

RED, BLUE = "data:image/png;base64,AAAA", "data:image/png;base64,BBBB"


def _talk() -> Conversation:
    conversation = Conversation("Be brief.")
    conversation.ask("What is it?", [RED, BLUE])
    conversation.answer("A circle.")
    conversation.ask("Why?", [])
    return conversation


def test_the_request_has_all_turns_and_their_pictures_in_order() -> None:
    request = _talk().request(thinking=False, sampling_parameters={"temperature": 0})
    picture, text = {"type": "image"}, {"type": "text", "text": "What is it?"}
    assert request.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [picture, picture, text]},
        {"role": "assistant", "content": "A circle."},
        {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
    ]
    assert request.images == [RED.encode(), BLUE.encode()]
    assert request.chat_template_kwargs == {"enable_thinking": False}
    assert request.sampling_parameters == {"temperature": 0}


def test_a_question_without_an_answer_is_replaced_by_the_next() -> None:
    conversation = _talk()
    conversation.ask("Where?", [])
    messages = conversation.request(thinking=True, sampling_parameters={}).messages
    assert messages is not None and len(messages) == 4
    assert messages[-1]["content"] == [{"type": "text", "text": "Where?"}]


def test_ask_again_takes_the_answer_back() -> None:
    conversation = _talk()
    conversation.answer("Because.")
    assert conversation.ask_again() and len(conversation) == 3
    assert conversation.ask_again() and len(conversation) == 3
    assert not Conversation().ask_again()


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "talk.json"
    _talk().save(path)
    again = Conversation.load(path)
    arguments: dict[str, Any] = {"thinking": True, "sampling_parameters": {}}
    assert again.request(**arguments) == _talk().request(**arguments)
    again.answer("Because.")
    again.save(path)
    assert len(Conversation.load(path)) == 4


def test_another_file_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("precious")
    with pytest.raises(ConversationError, match="not overwritten: not valid JSON"):
        _talk().save(path)
    assert path.read_text() == "precious"


USER = {"role": "user", "content": "Why?"}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("{", "not valid JSON"),
        ([], "messages: must be a list"),
        ({"messages": [7]}, "messages[0].role: must be user, not None"),
        ({"messages": [USER, USER]}, "messages[1].role: must be assistant, not 'user'"),
        ({"messages": [USER | {"content": 7}]}, "messages[0].content: must be text or a list"),
        (
            {"messages": [USER | {"content": [{"type": "image_url", "image_url": {"url": "/x"}}]}]},
            "messages[0].content[0]: must be text, or an image_url with a data URI",
        ),
    ],
)
def test_a_file_that_holds_something_else(tmp_path: Path, body: Any, error: str) -> None:
    path = tmp_path / "talk.json"
    path.write_text(body if isinstance(body, str) else json.dumps(body))
    with pytest.raises(ConversationError) as caught:
        Conversation.load(path)
    assert str(caught.value).startswith(error)
