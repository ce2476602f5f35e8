"""Tokenises a rendered prompt such that only the chat template can produce special tokens."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

# A Unicode noncharacter, never part of real text. Inserted after the first character of a tag that
# a user typed, it prevents the tag from becoming a special token; it is removed before the text is
# tokenised.
_MARK = "\ufdd0"
END_MARK = "\ufdd1"
"""Another noncharacter, with which a caller can mark a position in the rendered prompt."""


class PromptTokenizer:
    """A checkpoint's tokenizer, split into its special tokens and its plain-text part.

    ``encode`` gives the same ids as transformers' tokenizer for the same checkpoint, except that
    tags that went through ``escape`` stay text.
    """

    def __init__(self, tokenizer_json: dict[str, Any]) -> None:
        added = tokenizer_json.get("added_tokens", [])
        self._token_ids: dict[str, int] = {token["content"]: token["id"] for token in added}
        # Longest first, so that a tag that is a prefix of another does not match first.
        tags = sorted(self._token_ids, key=len, reverse=True)
        self._any_tag = re.compile("|".join(map(re.escape, tags))) if tags else re.compile(r"(?!)")
        self._whole = Tokenizer.from_str(json.dumps(tokenizer_json))
        self._plain = Tokenizer.from_str(json.dumps({**tokenizer_json, "added_tokens": []}))
        self._longest_token = max(map(len, [*tokenizer_json["model"]["vocab"], *tags]))

    def token_id(self, tag: str) -> int:
        """The id of a special token; raises ValueError if the checkpoint has no such token."""
        try:
            return self._token_ids[tag]
        except KeyError:
            raise ValueError(f"the checkpoint's tokenizer has no token {tag}") from None

    def escape(self, text: str, allowed: frozenset[str] = frozenset()) -> str:
        """Mark the tags of special tokens in ``text`` as plain text, except those ``allowed``."""

        def mark(match: re.Match[str]) -> str:
            tag = match.group()
            return tag if tag in allowed else tag[0] + _MARK + tag[1:]

        return self._any_tag.sub(mark, text.replace(_MARK, "").replace(END_MARK, ""))

    def separate(self, text: str) -> str:
        """Mark text that is appended to other text, so that the two cannot form a tag together."""
        return _MARK + text

    def min_tokens(self, text: str) -> int:
        """A lower bound for the length of ``text`` in tokens, computed from its length alone."""
        return len(text) // self._longest_token

    def encode(self, prompt: str) -> list[int]:
        """Token ids of a rendered prompt."""
        return [token_id for piece in self._pieces(prompt) for token_id in piece]

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of any tokens, special ones included; incomplete characters as U+FFFD."""
        text: str = self._whole.decode(token_ids, skip_special_tokens=False)
        return text

    @property
    def num_tokens(self) -> int:
        """Number of token ids; all ids are below it."""
        return int(self._whole.get_vocab_size(with_added_tokens=True))

    def _pieces(self, prompt: str) -> Iterator[list[int]]:
        start = 0
        for match in self._any_tag.finditer(prompt):
            yield self._encode_plain(prompt[start : match.start()])
            yield [self._token_ids[match.group()]]
            start = match.end()
        yield self._encode_plain(prompt[start:])

    def _encode_plain(self, text: str) -> list[int]:
        if not text:
            return []
        ids: list[int] = self._plain.encode(text.replace(_MARK, ""), add_special_tokens=False).ids
        return ids
