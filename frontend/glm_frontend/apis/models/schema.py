"""``GET /v1/models``."""

from typing import Literal

from pydantic import BaseModel, Field


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"]
    created: int = Field(description="When the server started, Unix time in seconds.")
    owned_by: str
    root: str = Field(description="The same as `id`.")
    parent: None
    max_model_len: int | None = Field(
        default=None,
        description="Tokens of a prompt and its answer together; absent while the model loads.",
    )


class ModelList(BaseModel):
    """All models that can be asked."""

    object: Literal["list"]
    data: list[ModelCard]
