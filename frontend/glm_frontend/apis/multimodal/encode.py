"""An answer in the form of the multi-modal endpoint."""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from glm_client import TextDelta, ThoughtDelta
from glm_frontend.apis.multimodal.schema import MultimodalInference, MultimodalInferenceChunk
from glm_frontend.apis.shared.encoder import Encoder
from glm_frontend.apis.shared.schema import Usage
from glm_frontend.core.events import AnswerEvent, Finish, fold


class MultimodalEncoder(Encoder):
    """Makes one answer of the model of this name."""

    def __init__(self, model: str) -> None:
        self._head: dict[str, Any] = {
            "id": f"mminf-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, events: Sequence[AnswerEvent]) -> MultimodalInference:
        (answer,) = fold(events)
        return MultimodalInference(
            **self._head,
            object="multimodal.inference",
            text=answer.text,
            reasoning=answer.thought or None,
            finish_reason=answer.finish.reason,
            usage=Usage.of(events[-1].usage),
        )

    def add(self, event: AnswerEvent) -> Iterator[MultimodalInferenceChunk]:
        match event.event:
            case ThoughtDelta(thought):
                yield self._chunk(reasoning=thought)
            case TextDelta(text):
                yield self._chunk(text=text)
            case Finish(reason):
                yield self._chunk(finish_reason=reason, usage=Usage.of(event.usage))

    def _chunk(self, text: str = "", **news: Any) -> MultimodalInferenceChunk:
        values = {"reasoning": None, "finish_reason": None, "usage": None} | news
        return MultimodalInferenceChunk(
            **self._head, object="multimodal.inference.chunk", text=text, **values
        )
