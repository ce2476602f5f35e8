"""Converts token ids to text incrementally, without splitting characters."""

import codecs
from collections.abc import Mapping
from typing import Any

from glm_format.tags import Tag


def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's printable stand-ins for the 256 bytes (GPT-2's ``bytes_to_unicode``)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    stand_ins = {chr(byte): byte for byte in printable}
    stand_ins.update({chr(256 + i): byte for i, byte in enumerate(rest)})
    return stand_ins


# Treated as text, even if a checkpoint marks them as special.
_TAGS = frozenset(map(str, Tag))


class TokenTable:
    """The bytes behind every token id of a byte-level BPE tokenizer."""

    def __init__(self, tokenizer_json: Mapping[str, Any]) -> None:
        if (tokenizer_json.get("decoder") or {}).get("type") != "ByteLevel":
            raise ValueError("the checkpoint's tokenizer is not a byte-level BPE tokenizer")
        alphabet = _byte_alphabet()
        self._bytes: dict[int, bytes] = {}
        self._special: set[int] = set()
        added = tokenizer_json.get("added_tokens", [])
        added_ids = {token["id"] for token in added}
        for token, token_id in tokenizer_json["model"]["vocab"].items():
            if token_id not in added_ids:
                self._bytes[token_id] = bytes(alphabet[character] for character in token)
        self._added = {token["content"]: int(token["id"]) for token in added}
        for token in added:
            self._bytes[token["id"]] = token["content"].encode()
            if token["special"] and token["content"] not in _TAGS:
                self._special.add(token["id"])

    def __len__(self) -> int:
        """Number of token ids; a checkpoint may have more rows, as padding."""
        return max(self._bytes) + 1

    def token_bytes(self, token_id: int, *, skip_special_tokens: bool) -> bytes:
        """The bytes of one token; empty for a skipped special token or an id without a token."""
        if skip_special_tokens and token_id in self._special:
            return b""
        return self._bytes.get(token_id, b"")

    def find(self, text: str) -> int | None:
        """The id of the added token with this text, if there is one."""
        return self._added.get(text)

    def text(self, token_id: int) -> str:
        """One token by itself as text, for logprobs; incomplete characters as U+FFFD."""
        return self.token_bytes(token_id, skip_special_tokens=False).decode(errors="replace")


class Detokenizer:
    """Decodes one answer incrementally, including its markup."""

    def __init__(self, table: TokenTable, *, skip_special_tokens: bool = True) -> None:
        self._table = table
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def push(self, token_id: int, held: str = "") -> str:
        """Add a token and return the text that can be sent now.

        Args:
            held: a suffix of the text to hold back, because it may be the beginning of a stop
                string. The bytes of an incomplete character are always held back.
        """
        text = self._next(token_id)
        shown = len(text) - len(held) if text.endswith(held) else 0
        self._held = text[shown:]
        return text[:shown]

    def push_last(self, token_id: int, stop: str) -> str:
        """Add the token that completes a stop string and return the rest of the text before it."""
        text = self._next(token_id)
        self._held = ""
        self._decoder.reset()
        return text[: max(0, text.find(stop))]

    def finish(self) -> str:
        """The text still held back at the end; an incomplete character becomes U+FFFD."""
        text = self._held + self._decoder.decode(b"", final=True)
        self._held = ""
        return text

    def _next(self, token_id: int) -> str:
        data = self._table.token_bytes(token_id, skip_special_tokens=self._skip_special_tokens)
        return self._held + self._decoder.decode(data)
