"""A conversation as the model server takes it, and where each part of it stands in the request.

Every API builds its conversation here, so that all of them bind the results of calls, number the
pictures and find the place of a fault in the same way.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from glm_frontend.errors import invalid
from glm_frontend.media.fetch import Picture

_WIRE_FILE = re.compile(r"(image|video)\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Clip:
    """A video whose frames are given as pictures.

    Attributes:
        options: see ``Picture.options``.
    """

    frames: Sequence[Picture]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, sources: Sequence[tuple[str, str]], options: Mapping[str, Any]) -> Self:
        """The clip of frames, each by its source and its place in the HTTP request."""
        frames = [Picture(source, path, kind="video", is_frame=True) for source, path in sources]
        return cls(frames, {**options, "frames": len(frames)})


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message.

    Attributes:
        content: a text, a picture or video, or the frames of a video.
        path: where it stands in the HTTP request.
    """

    content: str | Picture | Clip
    path: str


@dataclass(frozen=True, slots=True)
class PastCall:
    """A call of an earlier answer; ``arguments`` is JSON text, perhaps cut.

    ``id`` is None where the client has none for it.
    """

    id: str | None
    name: str
    arguments: str
    path: str


Content = str | Sequence[Part] | None


@dataclass(slots=True)
class _Result:
    """What a call gave, while it waits for those beside it."""

    call_id: str | None
    content: Content
    path: str
    content_path: str


@dataclass(slots=True)
class Paths:
    """From paths on the wire to what the HTTP request calls the same place.

    Paths below a renamed one follow it.
    """

    renamed: dict[str, str] = field(default_factory=dict)
    files: list[Picture] = field(default_factory=list)

    def rename(self, wire: str, name: str) -> None:
        """Call a place by the HTTP request's name."""
        if wire != name:
            self.renamed[wire] = name

    def http(self, wire: str) -> str:
        """Where in the HTTP request that is which the model server calls ``wire``."""
        if match := _WIRE_FILE.match(wire):
            of_kind = [file for file in self.files if file.kind == match[1]]
            return of_kind[int(match[2])].param
        around = [
            place
            for place in self.renamed
            if wire == place or wire.startswith((f"{place}.", f"{place}["))
        ]
        if around:
            nearest = max(around, key=len)
            return self.renamed[nearest] + wire.removeprefix(nearest)
        return wire.removeprefix("sampling_parameters.")


class ConversationBuilder:
    """Builds the wire's messages, one after the other.

    Attributes:
        messages: for ``GenerationRequest.messages``.
        files: pictures and videos, in the order in which the messages refer to them.
        paths: where each message and part of it comes from.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.paths = Paths()
        self._calls: dict[str, int] = {}  # from the id of each call so far to its place
        self._num_calls = 0
        self._results: list[_Result] = []  # of the calls of one turn, until another message comes

    @property
    def files(self) -> list[Picture]:
        """Pictures and videos, in order."""
        return self.paths.files

    def add(
        self,
        role: str,
        content: Content,
        path: str,
        *,
        content_path: str | None = None,
        thought: str | None = None,
        thought_path: str | None = None,
        calls: Sequence[PastCall] = (),
    ) -> None:
        """Add a message.

        Args:
            path: of the message in the HTTP request.
            content_path: of its content; ``path`` with ``.content`` by default.
        """
        self._flush_results()
        self._append(role, content, path, content_path)
        message, wire = self.messages[-1], f"messages[{len(self.messages) - 1}]"
        if thought is not None:
            message["reasoning_content"] = thought
            if thought_path is not None:
                self.paths.rename(f"{wire}.reasoning_content", thought_path)
        if calls:
            message["tool_calls"] = [_call(call) for call in calls]
        for number, call in enumerate(calls):
            self.paths.rename(f"{wire}.tool_calls[{number}].function", call.path)
            if call.id is not None:
                self._calls[call.id] = self._num_calls
            self._num_calls += 1

    def add_result(
        self,
        call_id: str | None,
        content: Content,
        path: str,
        *,
        id_path: str,
        content_path: str | None = None,
    ) -> None:
        """Add what a call gave. The model sees no ids: it reads results in the order of their
        calls, and so those that stand together are put into that order.

        Raises:
            APIError: no call before it has this id.
        """
        if call_id is not None and call_id not in self._calls:
            raise invalid(id_path, f"there is no call with the id {call_id!r} before it")
        self._results.append(_Result(call_id, content, path, content_path or f"{path}.content"))

    def finish(self) -> "ConversationBuilder":
        """The conversation, complete."""
        self._flush_results()
        return self

    def _flush_results(self) -> None:
        results, self._results = self._results, []
        if all(result.call_id is not None for result in results):
            results.sort(key=lambda result: self._calls[str(result.call_id)])
        for result in results:
            self._append("tool", result.content, result.path, result.content_path)

    def _append(self, role: str, content: Content, path: str, content_path: str | None) -> None:
        wire = f"messages[{len(self.messages)}]"
        content_path = content_path or f"{path}.content"
        message: dict[str, Any] = {"role": role, "content": content}
        if content is not None and not isinstance(content, str):
            message["content"] = [wire_part(part) for part in content]
            for number, part in enumerate(content):
                self.paths.rename(f"{wire}.content[{number}]", part.path)
                if isinstance(part.content, Picture):
                    self.paths.files.append(part.content)
                elif isinstance(part.content, Clip):
                    self.paths.files.extend(part.content.frames)
        self.paths.rename(f"{wire}.content", content_path)
        self.paths.rename(wire, path)
        self.messages.append(message)


def wire_part(part: Part) -> dict[str, Any]:
    """A piece of a message as the model server takes it; the bytes of files come beside it."""
    if isinstance(part.content, Picture):
        return {"type": part.content.kind, **part.content.options}
    if isinstance(part.content, Clip):
        return {"type": "video", **part.content.options}
    return {"type": "text", "text": part.content}


def _call(call: PastCall) -> Mapping[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
