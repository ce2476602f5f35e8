"""Tokenise a rendered prompt so that only the chat template can write special tokens."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

# A Unicode noncharacter, never part of real text. Put behind the first character of a tag that a
# user typed, it keeps the tag from being taken for the token; it is removed before the text is
# tokenised.
_MARK = "\ufdd0"
END_MARK = "\ufdd1"
"""Another, for who wants to find a place of a conversation in the rendered prompt."""


class PromptTokenizer:
    """A checkpoint's tokenizer, split into its special tokens and its plain-text part.

    ``encode`` gives the same ids as transformers' tokenizer for the same checkpoint, but tags that
    went through ``escape`` stay text.
    """

    def __init__(self, tokenizer_json: dict[str, Any]) -> None:
        added = tokenizer_json.get("added_tokens", [])
        self._token_ids: dict[str, int] = {token["content"]: token["id"] for token in added}
        # Longest first, or a tag that begins like another would be cut short.
        tags = sorted(self._token_ids, key=len, reverse=True)
        self._any_tag = re.compile("|".join(map(re.escape, tags))) if tags else re.compile(r"(?!)")
        self._whole = Tokenizer.from_str(json.dumps(tokenizer_json))
        self._plain = Tokenizer.from_str(json.dumps({**tokenizer_json, "added_tokens": []}))
        self._longest_token = max(map(len, [*tokenizer_json["model"]["vocab"], *tags]))

    def token_id(self, tag: str) -> int:
        """The id of a special token; raises ValueError where the checkpoint has no such token."""
        try:
            return self._token_ids[tag]
        except KeyError:
            raise ValueError(f"the checkpoint's tokenizer has no token {tag}") from None

    def escape(self, text: str, allowed: frozenset[str] = frozenset()) -> str:
        """Mark the tags of special tokens in ``text`` as plain text, but for those ``allowed``."""

        def mark(match: re.Match[str]) -> str:
            tag = match.group()
            return tag if tag in allowed else tag[0] + _MARK + tag[1:]

        return self._any_tag.sub(mark, text.replace(_MARK, "").replace(END_MARK, ""))

    def separate(self, text: str) -> str:
        """Text that is joined to other text before it, so that the two make no tag together."""
        return _MARK + text

    def min_tokens(self, text: str) -> int:
        """A lower bound of the length of ``text`` in tokens, for the price of its length."""
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
        """Token ids are below this."""
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
