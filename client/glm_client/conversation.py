"""A conversation with pictures: its turns, the request for the next one, and its file format."""

import json
from pathlib import Path
from typing import Any

from glm_client.types import GenerationRequest

Message = dict[str, Any]


class ConversationError(Exception):
    """A file does not contain a conversation; the message names the invalid field."""


class Conversation:
    """Alternating questions and answers. The last question may have no answer yet.

    Messages are in OpenAI's form, with pictures as data URIs, so a saved file can also be used for
    the ``messages`` of ``/v1/chat/completions``.

    Attributes:
        system: the system message; None for none.
    """

    def __init__(self, system: str | None = None) -> None:
        self.system = system
        self._turns: list[Message] = []

    def __len__(self) -> int:
        """Number of messages, i.e. questions and answers."""
        return len(self._turns)

    def ask(self, text: str, pictures: list[str]) -> None:
        """Add a question about pictures (data URIs); it replaces an unanswered one."""
        if self._turns and self._turns[-1]["role"] == "user":
            self._turns.pop()
        content: list[Message] = [_picture(uri) for uri in pictures]
        self._turns.append({"role": "user", "content": [*content, {"type": "text", "text": text}]})

    def ask_again(self) -> bool:
        """Remove the last answer; returns whether there is a question."""
        if self._turns and self._turns[-1]["role"] == "assistant":
            self._turns.pop()
        return bool(self._turns)

    def answer(self, text: str) -> None:
        """Add the answer to the last question."""
        self._turns.append({"role": "assistant", "content": text})

    def request(self, *, thinking: bool, sampling_parameters: dict[str, Any]) -> GenerationRequest:
        """The request for an answer to the last question."""
        images: list[bytes] = []
        messages = []
        for message in self._messages():
            content = message["content"]
            if isinstance(content, list):
                images += [
                    part["image_url"]["url"].encode()
                    for part in content
                    if part["type"] == "image_url"
                ]
                content = [
                    {"type": "image"} if part["type"] == "image_url" else part for part in content
                ]
            messages.append({"role": message["role"], "content": content})
        return GenerationRequest(
            return_events=True,
            messages=messages,
            images=images,
            chat_template_kwargs=None if thinking else {"enable_thinking": False},
            sampling_parameters=sampling_parameters,
        )

    def save(self, path: Path) -> None:
        """Write it to a file, which may overwrite another conversation.

        Raises:
            ConversationError: the file exists, and is not a conversation.
            OSError: it cannot be written.
        """
        if path.exists():
            try:
                Conversation.load(path)
            except ConversationError as error:
                raise ConversationError(f"not overwritten: {error}") from None
        text = json.dumps({"messages": self._messages()}, ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Conversation":
        """Read a file of :meth:`save`, or another JSON object with such ``messages``.

        Raises:
            ConversationError: names the invalid field.
            OSError: it cannot be read.
        """
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise ConversationError("not valid JSON") from None
        messages = body.get("messages") if isinstance(body, dict) else None
        if not isinstance(messages, list):
            raise ConversationError("messages: must be a list")
        conversation = cls()
        for index, message in enumerate(messages):
            path_to = f"messages[{index}]"
            role = message.get("role") if isinstance(message, dict) else None
            turns = conversation._turns
            expected = "assistant" if turns and turns[-1]["role"] == "user" else "user"
            if role == "system" and index == 0 and isinstance(message.get("content"), str):
                conversation.system = message["content"]
            elif role != expected:
                raise ConversationError(f"{path_to}.role: must be {expected}, not {role!r}")
            else:
                content = message.get("content")
                _check_content(content, f"{path_to}.content")
                turns.append({"role": role, "content": content})
        return conversation

    def _messages(self) -> list[Message]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self._turns]


def _picture(uri: str) -> Message:
    return {"type": "image_url", "image_url": {"url": uri}}


def _check_content(content: Any, path: str) -> None:
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise ConversationError(f"{path}: must be text or a list of parts")
    for index, part in enumerate(content):
        match part:
            case {"type": "text", "text": str()}:
                pass
            case {"type": "image_url", "image_url": {"url": str(url)}} if url.startswith("data:"):
                pass
            case _:
                raise ConversationError(
                    f"{path}[{index}]: must be text, or an image_url with a data URI"
                )
