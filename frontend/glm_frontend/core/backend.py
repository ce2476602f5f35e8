"""What the frontend needs of a model server. ``glm_client.AsyncClient`` has it."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from glm_client import Generation, GenerationDelta, GenerationRequest, Tokenization


class Backend(Protocol):
    """Errors, arguments and cancellation are those of :class:`glm_client.AsyncClient`."""

    def stream(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> AsyncGenerator[GenerationDelta]:
        """The answer, piece by piece."""
        ...

    async def generate_choices(
        self, request: GenerationRequest, *, timeout: float | None = None
    ) -> tuple[Generation, ...]:
        """The whole answers."""
        ...

    async def tokenize(
        self,
        request: GenerationRequest,
        *,
        token_texts: bool = False,
        timeout: float | None = None,
    ) -> Tokenization:
        """The prompt in tokens."""
        ...

    async def tokenizer_config(self, *, timeout: float | None = None) -> dict[str, Any]:
        """What the checkpoint says of its tokenizer."""
        ...

    async def server_live(self) -> bool:
        """Whether the server can be reached."""
        ...

    async def models_ready(self) -> dict[str, bool]:
        """Whether each stage is loaded."""
        ...

    async def aclose(self) -> None:
        """Give all connections up."""
        ...
