"""What GLM writes, and what it means: thought, text and calls."""

import json
import random
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from glm_format.answer import AnswerReader, Channel
from glm_format.events import CallDelta, CallStart, Event, TextDelta, ThoughtDelta, merged
from glm_format.tags import Tag, tags_by_token

TAG_IDS = {str(tag): 1000 + number for number, tag in enumerate(Tag)}
# Tokens of text; below it, byte values are tokens in some tests.
_FIRST_TEXT = 2000
TAGS = tags_by_token(TAG_IDS.get)
_TAG = re.compile("|".join(map(re.escape, TAG_IDS)))

F = {"f": {"type": "object", "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}}


class Answer:
    """What came out for one answer.

    Attributes:
        calls: name and JSON text of the arguments of each.
    """

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.thought = "".join(one.text for one in events if isinstance(one, ThoughtDelta))
        self.text = "".join(one.text for one in events if isinstance(one, TextDelta))
        starts = [one for one in events if isinstance(one, CallStart)]
        assert [start.index for start in starts] == list(range(len(starts)))
        self.calls = [
            (
                start.name,
                "".join(
                    one.arguments
                    for one in events
                    if isinstance(one, CallDelta) and one.index == start.index
                ),
            )
            for start in starts
        ]

    @property
    def parsed(self) -> list[tuple[str, Any]]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


class Tokens:
    """A text as tokens: each tag is one, and so is each chunk of bytes between them."""

    def __init__(self, text: str, size: int) -> None:
        self._bytes: list[bytes] = []
        self.ids: list[int] = []
        at = 0
        for found in [*_TAG.finditer(text), None]:
            data = text[at : found.start() if found else None].encode()
            for start in range(0, len(data), size):
                self._bytes.append(data[start : start + size])
                self.ids.append(_FIRST_TEXT + len(self._bytes) - 1)
            if found:
                self.ids.append(TAG_IDS[found[0]])
                at = found.end()

    def bytes_of(self, token_id: int) -> bytes:
        return self._bytes[token_id - _FIRST_TEXT]


def read(
    text: str,
    functions: Mapping[str, Any] | None = None,
    *,
    size: int = 1,
    is_cut: bool = False,
    is_whole: bool = True,
    **options: Any,
) -> Answer:
    """Read an answer whose tags are tokens, and whose text comes in tokens of some bytes."""
    tokens = Tokens(text, size)
    reader = AnswerReader(TAGS, tokens.bytes_of, functions=functions, **options)
    events: list[Event] = []
    for token_id in tokens.ids:
        events += reader.push(token_id, token_id)
    events += reader.finish(is_cut=is_cut)
    return Answer(merged(events, is_whole=is_whole))


# ---- thought and text ----


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("Hello", "", "Hello"),
        ("<think>a thought</think>\nA red circle.", "a thought", "A red circle."),
        ("<think>\na\n\nb\n</think>\n\nAn answer\n", "a\n\nb", "An answer\n"),
        ("\n <think>a</think>b", "a", "b"),
        ("<think></think>\nb", "", "b"),
        ("<think>never ends\n", "never ends", ""),
        ("<think>", "", ""),
        ("</think>b", "", "b"),
        ("\n</think>\nb", "", "b"),
        ("   ", "", "   "),
        ("", "", ""),
        ("  indented", "", "  indented"),
        ("<think>see <think> there</think>b", "see <think> there", "b"),
        ("<think>a</think>use <think>x</think> like that", "a", "use <think>x</think> like that"),
        ("<think>a</think>b</think>c", "a", "bc"),
        ("<think>a</think><|begin_of_box|>42<|end_of_box|>", "a", "42"),
        ("<think>is it <|begin_of_box|>B?</think>B", "is it B?", "B"),
        ("<think>ä😀\u4f60</think>😀ß", "ä😀\u4f60", "😀ß"),
        ("It is red.</think>\nA red square.", "It is red.", "A red square."),
        ("<think>a</think>1 < 2 </th", "a", "1 < 2 </th"),
        ("\n<think>\na\n\nb\n</think>\n\nc\n\nd\n", "a\n\nb", "c\n\nd\n"),
        ("no tags at all", "", "no tags at all"),
        ("\nanswer after a line break", "", "answer after a line break"),
        ("<think>cut in the tag</thi", "cut in the tag</thi", ""),
        ("answer with <think>tags</think> in it", "", "answer with <think>tags</think> in it"),
        ("b<think>c</think>d", "", "b<think>c</think>d"),
        ("<think>a<|begin_of_box|>b</think>\n<|begin_of_box|>\nc", "ab", "c"),
        ("<|begin_of_box|>red<|end_of_box|>", "", "red"),
        ("<think>一个红色的圆形</think>\n答案:🟥", "一个红色的圆形", "答案:🟥"),
        # Without tools their tags are text.
        ("<think>a</think><tool_call>f</tool_call>", "a", "<tool_call>f</tool_call>"),
        ("<think>a<tool_call>b</think>c", "a<tool_call>b", "c"),
    ],
)
def test_thought_and_text(text: str, thought: str, answer: str, size: int) -> None:
    found = read(text, size=size)
    assert (found.thought, found.text) == (thought, answer)


def test_a_character_that_is_cut_off() -> None:
    reader = AnswerReader(TAGS, {0: "ä".encode()[:1]}.__getitem__)
    events = [*reader.push(0), *reader.push(TAG_IDS["<think>"]), *reader.finish(is_cut=True)]
    assert Answer(events).text == "\ufffd<think>"


def test_what_was_sent_as_text_stays_text() -> None:
    found = read("It is red.</think>\nA red square.", is_whole=False)
    assert (found.thought, found.text) == ("", "It is red.A red square.")


@pytest.mark.parametrize(
    ("begins_in", "text", "thought", "answer"),
    [
        (Channel.THOUGHT, "and so on</think>\nYes", "and so on", "Yes"),
        (Channel.TEXT, " and so on", "", " and so on"),
        (Channel.TEXT, "\n<think> x<|end_of_box|>", "", "\n<think> x"),
        (Channel.TEXT, " and so on</think> or not", "", " and so on or not"),
    ],
)
def test_an_answer_that_the_prompt_begins(
    begins_in: Channel, text: str, thought: str, answer: str
) -> None:
    found = read(text, begins_in=begins_in)
    assert (found.thought, found.text) == (thought, answer)


def test_the_tokens_of_the_thought_are_counted() -> None:
    for text, number in (
        ("<think>abc</think>de", 5),
        ("abc</think>de", 4),
        ("abc", 0),
        ("<think>abc", 4),
        ("<think>ab<tool_call>f</tool_call>", 3),
        ("<think>ab<tool_call>g</tool_call>c", 7),
    ):
        reader = AnswerReader(TAGS, lambda token_id: bytes([token_id]), functions=F)
        for piece in re.findall(rf"{_TAG.pattern}|.", text):
            reader.push(TAG_IDS.get(piece) or ord(piece))
        reader.finish(is_cut=False)
        assert reader.num_thought_tokens == number, text


def test_each_token_of_thought_and_text_has_its_note_and_no_tag_has() -> None:
    found = read("\n<think>ab</think>\ncd<tool_call>f</tool_call>", F)
    thought, text, *_ = found.events
    assert isinstance(thought, ThoughtDelta) and isinstance(text, TextDelta)
    assert [note - _FIRST_TEXT for note in thought.notes] == [1, 2]
    assert [note - _FIRST_TEXT for note in text.notes] == [4, 5]
    for end, notes in (("", [0, 1, 2, 3]), ("<tool_call>f</tool_call>", [0, 1, 2])):
        (text, *_) = read("c\nd\n" + end, F).events
        assert isinstance(text, TextDelta)
        assert [note - _FIRST_TEXT for note in text.notes] == notes
    for whole, counts in ((" </think>b", [1]), ("a\n</think>b", [2, 1])):
        found = read(whole, F)
        pieces = [one for one in found.events if isinstance(one, ThoughtDelta | TextDelta)]
        assert [len(piece.notes) for piece in pieces] == counts
    refused = read("a<tool_call>g</tool_call>", F)
    (only,) = refused.events
    assert isinstance(only, TextDelta) and len(only.notes) == 4


# ---- stop strings ----


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("text", "stop", "thought", "answer", "found"),
    [
        ("<think>END of it</think>now END here", ["END"], "END of it", "now ", "END"),
        ("<think>a\nb</think>\nc\nd", ["\n"], "a\nb", "c", "\n"),
        ("now EN", ["END"], "", "now EN", None),
        ("<think>a</think>xEND<|begin_of_box|>", ["D", "END"], "a", "x", "END"),
        ("one two three", ["three", "two"], "", "one ", "two"),
    ],
)
def test_stop_strings_are_looked_for_in_the_text_only(
    text: str, stop: list[str], thought: str, answer: str, found: str | None, size: int
) -> None:
    answer_read = read(text, size=size, stop=stop)
    assert (answer_read.thought, answer_read.text) == (thought, answer)


@pytest.mark.parametrize(
    ("text", "stop", "shown", "found"),
    [
        ("abcd", ["bcd", "c"], "ab", "c"),
        ("abc", ["abc", "ab"], "", "ab"),
        ("<tool_call>get_b c", ["get"], "<tool_call>", "get"),
        ("<tool_call>{ END <tool_call>f</tool_call>", ["END"], "<tool_call>{ ", "END"),
        (" </think>X", [" X"], "X", None),
        (" </think>X", [" "], "X", None),
        ("ab\n", ["b\n"], "a", "b\n"),
        ("   ", [" "], "", " "),
    ],
)
@pytest.mark.parametrize("has_tools", [True, False])
def test_answer_ends_before_the_first_stop_string(
    text: str, stop: list[str], shown: str, found: str | None, has_tools: bool
) -> None:
    for size in (1, 3, 1000):
        tokens = Tokens(text, size)
        reader = AnswerReader(TAGS, tokens.bytes_of, stop=stop, functions=F if has_tools else {})
        events = [event for token_id in tokens.ids for event in reader.push(token_id)]
        events += reader.finish(is_cut=False)
        assert (Answer(events).text, reader.stop_string) == (shown, found)
        assert not Answer(events).calls


def test_no_stop_string_is_found_in_a_call() -> None:
    text = "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>END</arg_value>\n</tool_call>END"
    found = read(text, F, stop=["END", "\n"])
    assert found.parsed == [("f", {"s": "END"})] and found.text == ""


# ---- calls ----

WHOLE = "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>x</arg_value>\n</tool_call>"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("text", "calls"),
    [
        (WHOLE, [("f", {"s": "x"})]),
        (WHOLE + "\n" + WHOLE, [("f", {"s": "x"})] * 2),
        ("<tool_call>f</tool_call>", [("f", {})]),
        ("<tool_call>f\n</tool_call>", [("f", {})]),
        ("<tool_call>f", [("f", {})]),
        ("<tool_call>f\n", [("f", {})]),
        ("<tool_call> f \n</tool_call>", [("f", {})]),
        (
            "<tool_call>f<arg_key>n</arg_key><arg_value>7</arg_value><arg_key>s</arg_key>"
            "<arg_value>7</arg_value></tool_call>",
            [("f", {"n": 7, "s": "7"})],
        ),
        (
            "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>seven</arg_value>\n</tool_call>",
            [("f", {"n": "seven"})],
        ),
        (
            "<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>{'a': True}</arg_value></tool_call>",
            [("f", {"x": {"a": True}})],
        ),
        # A value that holds tags, and line breaks of its own.
        (
            "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>a</arg_value> <arg_value>b\n"
            "</arg_value>\n</tool_call>",
            [("f", {"s": "a</arg_value> <arg_value>b\n"})],
        ),
        # Without what closes a call, a value, or both.
        (WHOLE.removesuffix("</tool_call>"), [("f", {"s": "x"})]),
        (WHOLE.removesuffix("\n</tool_call>"), [("f", {"s": "x"})]),
        (WHOLE.replace("</arg_value>", ""), [("f", {"s": "x"})]),
        (WHOLE.replace("</arg_value>\n</tool_call>", ""), [("f", {"s": "x"})]),
        (WHOLE.removesuffix("</tool_call>") + WHOLE, [("f", {"s": "x"})] * 2),
        # Without other tags.
        ("<tool_call>f<arg_key>s</arg_key>hello</arg_value></tool_call>", [("f", {"s": "hello"})]),
        ("<tool_call>f<arg_key>s</arg_key>hello</tool_call>", [("f", {"s": "hello"})]),
        (
            "<tool_call>f<arg_key>s</arg_key>a<arg_key>n</arg_key>1</tool_call>",
            [("f", {"s": "a", "n": 1})],
        ),
        (
            "<tool_call>fs</arg_key><arg_value>hello</arg_value></tool_call>",
            [("f", {"s": "hello"})],
        ),
        ("<tool_call>f\ns</arg_key><arg_value>x</arg_value></tool_call>", [("f", {"s": "x"})]),
        ("<tool_call>f\ns<arg_value>x</arg_value></tool_call>", [("f", {"s": "x"})]),
        ("<tool_call>f<arg_key>s<arg_value>x</arg_value></tool_call>", [("f", {"s": "x"})]),
        ("<tool_call>f\n<arg_key>s</arg_key></tool_call>", [("f", {})]),
        ("<tool_call>f\n<arg_key>s</tool_call>", [("f", {})]),
        # As JSON.
        ('<tool_call>{"name": "f", "arguments": {"s": "x"}}</tool_call>', [("f", {"s": "x"})]),
        ('<tool_call>\n{"name": "f", "arguments": {"s": "x"}}\n', [("f", {"s": "x"})]),
        ('<tool_call>{"name": "f", "arguments": "{\\"s\\": 1}"}</tool_call>', [("f", {"s": 1})]),
        ('<tool_call>{"name": "f"}</tool_call>', [("f", {})]),
        ('<tool_call>{"name": "f"}\n<tool_call>{"name": "f"}', [("f", {})] * 2),
        ('<tool_call>f\n{"s": "x"}\n</tool_call>', [("f", {"s": "x"})]),
        ('<tool_call>f{"s": "x"}</tool_call>', [("f", {"s": "x"})]),
        ('<tool_call>f {"s":\n"x"}\n</tool_call>', [("f", {"s": "x"})]),
        (
            "<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>'a' 'b'</arg_value></tool_call>",
            [("f", {"x": "'a' 'b'"})],
        ),
        ('<tool_call>f\n{"s": "x"</tool_call>', [("f", {})]),
    ],
)
def test_calls(text: str, calls: list[tuple[str, Any]], size: int) -> None:
    for before, thought in (("", ""), ("<think>why</think>\n", "why"), ("<think>why\n", "why")):
        found = read(before + text, F, size=size)
        assert found.parsed == calls
        assert (found.thought, found.text) == (thought, "")


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>g\n<arg_key>s</arg_key>\n<arg_value>x</arg_value>\n</tool_call>",
        "<tool_call>g</tool_call>",
        "<tool_call>not a call at all",
        "<tool_call></tool_call>",
        "<tool_call><arg_value>x</arg_value></tool_call>",
        '<tool_call>{"name": "g", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": [1]}</tool_call>',
        "<tool_call>{not JSON}</tool_call>",
        "<tool_call>gs</arg_key><arg_value>hello</arg_value></tool_call>",
    ],
)
def test_call_of_unknown_function_stays_text(text: str) -> None:
    found = read(f"Look: {text} So.", F)
    assert (found.text, found.calls) == (f"Look: {text} So.", [])
    found = read(f"<think>Look: {text} So.</think>Yes", F)
    assert (found.thought, found.text, found.calls) == (f"Look: {text} So.", "Yes", [])


def test_impossible_name_is_not_held_back() -> None:
    reader = AnswerReader(TAGS, lambda token_id: bytes([token_id]), functions={"look_up": {}})
    reader.push(TAG_IDS["<think>"])
    reader.push(TAG_IDS["<tool_call>"])
    assert reader.push(ord("l")) == reader.push(ord("o")) == []
    assert Answer(reader.push(ord("g"))).thought == "<tool_call>log"


@pytest.mark.parametrize(
    ("text", "shown", "calls"),
    [
        ("<tool_call>{ <tool_call>{ x", "<tool_call>{ <tool_call>{ x", []),
        ('<tool_call>{"name": "g"}<tool_call>f', '<tool_call>{"name": "g"}', [("f", {})]),
        ('<tool_call>{ "a" <tool_call>f\n', '<tool_call>{ "a" ', [("f", {})]),
        (
            "a<tool_call>{ b<tool_call>f\n<arg_key>s</arg_key><arg_value>v",
            "a<tool_call>{ b",
            [("f", {"s": "v"})],
        ),
        ("<tool_call>{" * 2000 + "</tool_call>", "<tool_call>{" * 2000 + "</tool_call>", []),
    ],
    ids=["twice", "another", "a name", "a value", "many"],
)
def test_call_within_an_incomplete_call_is_parsed(
    text: str, shown: str, calls: list[tuple[str, Any]]
) -> None:
    for size in (1, 1000):
        found = read(text, F, size=size)
        assert (found.text, found.parsed) == (shown, calls)


def test_half_a_surrogate_pair_stays_text() -> None:
    found = read(
        '<tool_call>f\n<arg_key>x</arg_key><arg_value>["\\ud800"]</arg_value></tool_call>', F
    )
    assert found.parsed == [("f", {"x": '["\\ud800"]'})]
    found.calls[0][1].encode()


def test_call_after_rejected_call_is_parsed() -> None:
    found = read("<think>a<tool_call><tool_call>f</tool_call>b", F)
    assert (found.thought, found.text, found.parsed) == ("a<tool_call>", "b", [("f", {})])


def test_text_around_calls_keeps_its_space() -> None:
    found = read(f"<think>t</think>\nFirst:\n{WHOLE}\n\n  then\n{WHOLE}\nlast.\n", F)
    kinds = [type(event).__name__ for event in found.events]
    assert kinds == [
        *("ThoughtDelta", "TextDelta", "CallStart", "CallDelta"),
        *("TextDelta", "CallStart", "CallDelta", "TextDelta"),
    ]
    texts = [event.text for event in found.events if isinstance(event, TextDelta)]
    # The line break before a call is the template's: who sends text and call back gets the same.
    assert texts == ["First:", "\n\n  then", "\nlast.\n"]


def test_space_alone_is_not_text_beside_a_call() -> None:
    for text in (f"\n {WHOLE}", f"{WHOLE}\n{WHOLE}\n ", f"<think>a</think>  {WHOLE}"):
        assert read(text, F).text == ""


@pytest.mark.parametrize("end", range(1, len(WHOLE)))
def test_a_call_that_is_cut_off_is_the_beginning_of_its_json(end: int) -> None:
    """Tags are whole or not there; the whole call would have been {"s": "x"}."""
    text = WHOLE[:end]
    if "<" in _TAG.sub("", text):
        return
    found = read(text, F, is_cut=True)
    assert found.text == ""
    for name, arguments in found.calls:
        assert name == "f" and '{"s": "x"}'.startswith(arguments)


def test_text_arguments_come_as_they_are_written() -> None:
    reader = AnswerReader(TAGS, lambda token_id: bytes([token_id]), functions=F)
    pieces = []
    begin = "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>"
    for piece in re.findall(rf"{_TAG.pattern}|.|\n", begin + "abc"):
        pieces.append(reader.push(TAG_IDS.get(piece) or ord(piece)))
    assert pieces[-3:] == [[CallDelta(0, one)] for one in "abc"]


def test_a_forced_end_leaves_json_for_every_text() -> None:
    """Whatever a model writes in a call: the arguments of a finished answer are JSON."""
    chance = random.Random(3)
    pieces = [*TAG_IDS, "f", "s", "\n", "x", '"', "{", "}", "f\n", '{"s": 1}', "7", "\\", "ä"]
    pieces += ["<tool_call>{", '<tool_call>{"name": "f"}', "<tool_call>f\n"]
    calls = 0
    for _ in range(3000):
        text = "<tool_call>f\n" * (chance.random() < 0.5) + "".join(
            chance.choice(pieces) for _ in range(chance.randrange(12))
        )
        whole = read(text, F, size=100)
        for name, arguments in whole.calls:
            assert name == "f" and isinstance(json.loads(arguments), dict), text
        calls += len(whole.calls)
        by_bytes = read(text, F)
        assert (by_bytes.calls, by_bytes.thought, by_bytes.text) == (
            whole.calls,
            whole.thought,
            whole.text,
        ), text
    assert calls > 1000
