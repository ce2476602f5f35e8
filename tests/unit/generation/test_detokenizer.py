"""Text that grows token by token, against transformers' decode of the whole."""

import json
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from glm_engine.detokenizer import Detokenizer, TokenTable
from glm_format.answer import AnswerReader, Channel
from glm_format.events import TextDelta
from unit.paths import DEMO_CHECKPOINT

TOKENIZER = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
TABLE = TokenTable(json.loads((DEMO_CHECKPOINT / "tokenizer.json").read_text()))


def _ids(text: str) -> list[int]:
    ids: list[int] = TOKENIZER(text, add_special_tokens=False).input_ids
    return ids


@given(st.text())
def test_the_pieces_are_whole_characters_and_add_up_to_the_text(text: str) -> None:
    detokenizer = Detokenizer(TABLE)
    pieces = [detokenizer.push(token_id) for token_id in _ids(text)]
    whole = TOKENIZER.decode(_ids(text), skip_special_tokens=True)  # the text may have some
    assert "".join(pieces) + detokenizer.finish() == whole
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(st.lists(st.integers(0, len(TABLE) - 1), max_size=40))
def test_any_token_ids_decode_as_transformers_decodes_them(token_ids: list[int]) -> None:
    for skip in (True, False):
        detokenizer = Detokenizer(TABLE, skip_special_tokens=skip)
        text = "".join(detokenizer.push(token_id) for token_id in token_ids) + detokenizer.finish()
        assert text == TOKENIZER.decode(token_ids, skip_special_tokens=skip)


@given(
    st.text("abc红", max_size=30), st.lists(st.text("abc红", min_size=1, max_size=4), max_size=3)
)
def test_a_stop_string_ends_the_text_wherever_the_tokens_split_it(
    text: str, stop: list[str]
) -> None:
    shown, found_string = _stopped(text, stop)
    found = [text.find(string) for string in stop if string in text]
    # The earliest stop string of the first moment at which any is complete ends the text.
    ends = [text.find(string) + len(string) for string in stop if string in text]
    if not found:
        assert "".join(shown) == text and found_string is None
    else:
        assert text.startswith("".join(shown) + str(found_string))
        assert found_string in stop
        assert len("".join(shown)) < min(ends)
        assert not any(string in "".join(shown) for string in stop)


def _stopped(text: str, stop: list[str]) -> tuple[list[str], str | None]:
    """What is shown after each token and at the end, and the stop string that was found."""
    detokenizer = Detokenizer(TABLE)
    bytes_of = partial(TABLE.token_bytes, skip_special_tokens=True)
    reader = AnswerReader({}, bytes_of, begins_in=Channel.TEXT, stop=stop)
    shown, read = [], ""
    for token_id in _ids(text):
        events = reader.push(token_id)
        read += "".join(event.text for event in events if isinstance(event, TextDelta))
        if reader.stop_string is not None:
            shown.append(detokenizer.push_last(token_id, reader.stop_string))
            break
        shown.append(detokenizer.push(token_id, reader.held))
        assert "".join(shown) == read
    events = reader.finish(is_cut=False)
    read += "".join(event.text for event in events if isinstance(event, TextDelta))
    if reader.stop_string is None:
        shown.append(detokenizer.finish())
    assert "".join(shown) == read
    return shown, reader.stop_string


def test_a_possible_stop_string_is_held_back_and_released() -> None:
    shown, _ = _stopped("a STO b", ["STOP"])
    assert "".join(shown) == "a STO b"
    *shown, last = _stopped("a STO", ["STOP"])[0]
    assert "".join(shown) == "a " and last == "STO"


def test_half_a_character_at_the_end_is_shown_as_a_replacement() -> None:
    first_byte = _ids("🙂")[0]
    detokenizer = Detokenizer(TABLE)
    assert detokenizer.push(first_byte) == "" and detokenizer.finish() == "\ufffd"


def test_a_tokenizer_that_is_not_byte_level_is_refused() -> None:
    with pytest.raises(ValueError, match="byte-level"):
        TokenTable({"decoder": {"type": "WordPiece"}, "model": {"vocab": {}}})
