"""Client of the Triton model ``generation``: GLM-4.6V answers questions about pictures, over gRPC.

Example::

    with Client("127.0.0.1:8001") as client:
        request = GenerationRequest(text_input="What is in this image?", images=[picture])
        for delta in client.stream(request):
            print(delta.text, end="")
"""

from glm_client.aio import TLS, AsyncClient
from glm_client.errors import (
    DeadlineExceededError,
    GLMError,
    InternalError,
    InvalidRequestError,
    OutOfMemoryError,
    OverloadedError,
    RequestCancelledError,
    UnavailableError,
)
from glm_client.sync import Client, DeltaStream
from glm_client.types import (
    CallDelta,
    CallStart,
    Event,
    FinishReason,
    Generation,
    GenerationDelta,
    GenerationRequest,
    Question,
    TextDelta,
    ThoughtDelta,
    Tokenization,
    TokenLogprob,
    TokenLogprobs,
)

__all__ = [
    "TLS",
    "AsyncClient",
    "CallDelta",
    "CallStart",
    "Client",
    "DeadlineExceededError",
    "DeltaStream",
    "Event",
    "FinishReason",
    "GLMError",
    "Generation",
    "GenerationDelta",
    "GenerationRequest",
    "InternalError",
    "InvalidRequestError",
    "OutOfMemoryError",
    "OverloadedError",
    "Question",
    "RequestCancelledError",
    "TextDelta",
    "ThoughtDelta",
    "TokenLogprob",
    "TokenLogprobs",
    "Tokenization",
    "UnavailableError",
]
