"""Thought and answer come apart, wherever the text is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm_client import ThinkingSplitter, ThinkingText, split_thinking

SAMPLES = [
    ("<think>a thought</think>\nthe answer", "a thought", "the answer"),
    ("\n<think>\na\n\nb\n</think>\n\nc\n\nd\n", "a\n\nb", "c\n\nd\n"),
    ("<think></think>\nanswer", "", "answer"),
    ("no tags at all", "", "no tags at all"),
    ("\nanswer after a line break", "", "answer after a line break"),
    ("<think>cut in the middle\n", "cut in the middle", ""),
    ("<think>cut in the tag</thi", "cut in the tag</thi", ""),
    ("answer with <think>tags</think> in it", "", "answer with <think>tags</think> in it"),
    ("no opening</think>\nanswer", "", "no opening\nanswer"),
    ("<think>a</think>b</think>c", "a", "bc"),
    ("b<think>c</think>d</think>e", "", "b<think>c</think>de"),
    ("<think>x</think>the <|begin_of_box|>42<|end_of_box|>!", "x", "the 42!"),
    ("<think>a<|begin_of_box|>b</think>\n<|begin_of_box|>\nc", "ab", "c"),
    ("<|begin_of_box|>red<|end_of_box|>", "", "red"),
    ("<think>a</th<|begin_of_box|>ink>b", "a</think>b", ""),
    ("a < b <| c <|begin_of", "", "a < b <| c <|begin_of"),
    ("<thin", "", "<thin"),
    ("<think>一个红色的圆形</think>\n答案:🟥", "一个红色的圆形", "答案:🟥"),
    ("", "", ""),
]
TAGS = ["<think>", "</think>", "<|begin_of_box|>", "<|end_of_box|>"]


def feed_all(pieces: list[str]) -> ThinkingText:
    splitter = ThinkingSplitter()
    split = ThinkingText()
    for piece in pieces:
        split += splitter.feed(piece)
    return split + splitter.finish()


@pytest.mark.parametrize(("text", "reasoning", "content"), SAMPLES)
def test_splits(text: str, reasoning: str, content: str) -> None:
    assert split_thinking(text) == ThinkingText(reasoning, content)


@pytest.mark.parametrize("text", [sample[0] for sample in SAMPLES])
def test_every_cut_into_three_gives_the_same(text: str) -> None:
    whole = split_thinking(text)
    for i in range(len(text) + 1):
        for j in range(i, len(text) + 1):
            assert feed_all([text[:i], text[i:j], text[j:]]) == whole


@pytest.mark.parametrize("text", [sample[0] for sample in SAMPLES])
def test_single_characters_give_the_same(text: str) -> None:
    assert feed_all(list(text)) == split_thinking(text)


@given(st.lists(st.sampled_from([*TAGS, "<", "</th", "<|", "a", "\n", " "])), st.data())
def test_random_texts_and_cuts_give_the_same(words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert feed_all(pieces) == split_thinking(text)


def test_text_is_not_held_back_without_need() -> None:
    splitter = ThinkingSplitter()
    assert splitter.feed("<think>why") == ThinkingText(reasoning="why")
    assert splitter.feed(" not</thi") == ThinkingText(reasoning=" not")
    assert splitter.feed("nk>\nYes") == ThinkingText(content="Yes")
    assert splitter.feed(" <") == ThinkingText(content=" ")
    assert splitter.feed("3") == ThinkingText(content="<3")


def test_an_answer_that_goes_on_keeps_its_line_breaks() -> None:
    splitter = ThinkingSplitter(in_answer=True)
    split = splitter.feed("\n<think>") + splitter.feed(" x<|end_of_box|>") + splitter.finish()
    assert split == ThinkingText(content="\n<think> x")
