"""The tags of GLM, and their tokens in a checkpoint."""

from collections.abc import Callable, Mapping
from enum import StrEnum


class Tag(StrEnum):
    """A tag, by its text."""

    THINK = "<think>"
    END_THINK = "</think>"
    CALL = "<tool_call>"
    END_CALL = "</tool_call>"
    KEY = "<arg_key>"
    END_KEY = "</arg_key>"
    VALUE = "<arg_value>"
    END_VALUE = "</arg_value>"
    BOX = "<|begin_of_box|>"
    END_BOX = "<|end_of_box|>"


BOXES = (Tag.BOX, Tag.END_BOX)
"""Tags around the final result of an answer, which are dropped."""


def tags_by_token(find: Callable[[str], int | None]) -> Mapping[int, Tag]:
    """The tags that a checkpoint has tokens for.

    Args:
        find: from the text of an added token to its id; None if there is none.
    """
    return {token_id: tag for tag in Tag if (token_id := find(tag)) is not None}
