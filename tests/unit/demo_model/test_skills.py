"""What the demo model's last phase teaches: JSON, boxes and tools."""

import json
import random
import re
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from demo_model.examples import IGNORED, SHARED, Examples, cell_targets
from demo_model.scenes import CELL, Scene, Shape, render, sample_scene
from demo_model.structured import (
    BOX_STEP,
    ask_boxes,
    ask_json,
    box_of,
    overlap,
    read_boxes,
    write_boxes,
)
from demo_model.tool_dialogues import NO_TOOL, converse, offered_tools
from demo_model.tools import TOOLS
from demo_model.vocabulary import build_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_rows_of_the_last_phase_are_what_the_template_writes(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Tools, calls, results and answers, token by token, in every branch of every row."""
    kinds = {"tools": 0, "language": 0}
    for batch in Examples(tokenizer, seed=4, rows=12, questions=8, skills=True):
        kinds[batch.kind] += 1
        for row in range(len(batch.ids)):
            for branch in range(1, int(batch.branches[row].max()) + 1):
                seen = (batch.branches[row] == SHARED) | (batch.branches[row] == branch)
                ids = batch.ids[row][seen].tolist()
                text = tokenizer.decode(ids)
                assert isinstance(text, str)
                assert ids == tokenizer(text, add_special_tokens=False).input_ids
                _check(tokenizer, re.sub(r"(<\|image\|>)+", "<|image|>", text))
                learnt = batch.labels[row][seen] != IGNORED
                assert not learnt[batch.branches[row][seen] == SHARED].any()
                if batch.kind == "tools":
                    assert learnt[-1]
        if all(count >= 2 for count in kinds.values()):
            break


def _check(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ending = re.search(r"<\|(user|observation)\|>$", text)
    assert ending
    tools, messages = _parse(text.removesuffix(ending[0]))
    last = messages[-1]
    assert last["role"] == "assistant" and ("tool_calls" in last) is (ending[1] == "observation")
    rendered = tokenizer.apply_chat_template(messages, tools=[*tools] or None, tokenize=False)
    assert rendered == text.removesuffix(ending[0])


def _parse(text: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Tools and messages that the template would write as ``text``."""
    tools: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    turns = re.split(r"<\|(system|user|assistant|observation)\|>", text)
    assert turns[0] == "[gMASK]<sop>"
    for role, said in zip(turns[1::2], turns[2::2], strict=True):
        if said.startswith("\n# Tools"):
            listed = said.split("<tools>\n")[1].split("\n</tools>")[0]
            tools = [json.loads(line) for line in listed.split("\n")]
        elif role == "observation":
            results = re.findall(
                r"\n<tool_response>\n(.*?)\n</tool_response>(\n(?=\n<tool_response>|$))?",
                said,
                re.DOTALL,
            )
            messages += [
                {"role": "tool", "content": result if plain else _parts(result)}
                for result, plain in results
            ]
        elif role == "assistant":
            messages.append(_assistant(said))
        else:
            said = said.removeprefix("\n")
            messages.append({"role": role, "content": said if role == "system" else _parts(said)})
    return tools, messages


def _parts(text: str) -> list[dict[str, str]]:
    pieces = re.split(r"(<\|begin_of_image\|><\|image\|><\|end_of_image\|>)", text)
    return [
        {"type": "image"} if piece.startswith("<|begin") else {"type": "text", "text": piece}
        for piece in pieces
        if piece
    ]


def _assistant(said: str) -> dict[str, Any]:
    thought, rest = re.fullmatch(r"\n<think>(.*?)</think>(.*)", said, re.DOTALL).groups()  # type: ignore[union-attr]
    message = {"role": "assistant", "content": rest.split("\n<tool_call>")[0].removeprefix("\n")}
    if thought:
        message["reasoning_content"] = thought
    if calls := _calls(rest):
        message["tool_calls"] = [
            {"type": "function", "function": {"name": name, "arguments": arguments}}
            for name, arguments in calls
        ]
    return message


def _calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    calls = []
    for name, inner in re.findall(r"<tool_call>(\w+)\n(.*?)</tool_call>", text, re.DOTALL):
        arguments = re.findall(r"<arg_key>(\w+)</arg_key>\n<arg_value>(.*?)</arg_value>\n", inner)
        calls.append(
            (name, {k: json.loads(v) if name == "save_number" else v for k, v in arguments})
        )
    return calls


@pytest.mark.parametrize("seed", range(40))
def test_every_call_is_true_and_of_a_tool_that_is_there(seed: int) -> None:
    rng = random.Random(seed)
    drawn: list[Scene] = []

    def draw() -> Scene:
        drawn.append(sample_scene(rng, 140, 112))
        return drawn[-1]

    for thinking in [True, False] * 5:
        drawn.clear()
        scene = draw() if rng.random() < 0.7 else None
        tools = offered_tools(rng)
        schemas = {
            tool["function"]["name"]: list(
                tool["function"].get("parameters", {}).get("properties", {})
            )
            for tool in tools
        }
        for turn in converse(rng, tools, scene, draw, thinking=thinking):
            question = json.dumps(turn.messages, ensure_ascii=False)
            calls = _calls(turn.said)
            assert bool(calls) is (turn.ending == "<|observation|>")
            assert "".join(text for text, _ in turn.pieces) in ("", turn.said)
            if turn.said in NO_TOOL:
                assert len(schemas) < len(TOOLS)
            for name, arguments in calls:
                assert list(arguments) == schemas[name]
                if name == "save_number":
                    shown = [s.number.text for s in drawn if s.number]
                    assert str(arguments["number"]) in shown + re.findall(r"\d+", question)
                if name == "paint" and not re.search(r"\b(a|an) \w+ \w+|一个", question):
                    shapes = {(s.colour, s.kind) for s in drawn[0].shapes}
                    assert (arguments["colour"], arguments["shape"]) in shapes


def test_tools_are_offered_as_clients_write_them(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    texts = [json.dumps(tool) for _ in range(60) for tool in offered_tools(rng)]
    for word in (
        "description",
        "required",
        "additionalProperties",
        "strict",
        "title",
        "parameters",
    ):
        assert 0 < sum(f'"{word}"' in text for text in texts) < len(texts)
    assert {tool["function"]["name"] for tool in map(json.loads, texts)} == {
        tool["function"]["name"] for tool in TOOLS
    }
    for text in texts:
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


@pytest.mark.parametrize("seed", range(40))
def test_every_json_answer_is_true(seed: int) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng, 140, 112)
    for _ in range(20):
        dialogue = ask_json(rng, scene)
        answer = json.loads(dialogue.answer)
        assert json.dumps(answer) == dialogue.answer
        assert "".join(text for text, _ in dialogue.pieces) in ("", dialogue.answer)
        if dialogue.task == "JSON by keys":
            keys = "|".join(sorted(answer, key=len, reverse=True))
            assert re.findall(rf"\b({keys})\b", dialogue.question, re.ASCII) == list(answer)
        if "shapes" in answer:
            given = [set(shape.values()) for shape in answer["shapes"]]
            assert given == [{shape.colour, shape.kind} for shape in scene.shapes]
        if "number" in answer:
            assert answer["number"] == (int(scene.number.text) if scene.number else None)
        assert answer.get("background", scene.background) == scene.background
        assert answer.get("count", len(scene.shapes)) == len(scene.shapes)


def test_what_a_schema_forces_is_not_learnt() -> None:
    rng = random.Random(0)
    scene = Scene(112, 112, "white", [Shape("red", "circle", 40, 40, 30, 0)], None)
    forced = [d for d in (ask_json(rng, scene) for _ in range(200)) if d.pieces]
    for dialogue in forced:
        unlearnt = "".join(text for text, learnt in dialogue.pieces if not learnt)
        learnt = "".join(text for text, learnt in dialogue.pieces if learnt)
        assert set(re.findall(r"\w+", unlearnt)) == set(re.findall(r'"(\w+)":', dialogue.answer))
        assert "red" not in unlearnt and '":' not in learnt
    assert len(forced) > 10


@pytest.mark.parametrize("kind", ["circle", "square", "triangle", "star"])
@pytest.mark.parametrize("rotation", [0.0, 15.0])
def test_boxes_are_where_the_shapes_are(kind: str, rotation: float) -> None:
    shape = Shape("blue", kind, 60, 70, 44, rotation)
    scene = Scene(168, 112, "white", [shape], None)
    pixels = np.asarray(render(scene, random.Random(1)), np.int64)
    rows, columns = np.nonzero(pixels[:, :, 0] < 128)
    drawn = (
        columns.min() / 168, rows.min() / 112, (columns.max() + 1) / 168, (rows.max() + 1) / 112
    )  # fmt: skip
    box = box_of(scene, shape)
    assert all(edge % BOX_STEP == 0 for edge in box)
    assert np.allclose(np.array(box) / 1000, drawn, atol=BOX_STEP / 2000 + 0.01)


def test_boxes_are_read_as_they_are_written() -> None:
    boxes = [(100, 0, 350, 450), (50, 100, 300, 1000)]
    assert write_boxes(boxes[:1]) == "<|begin_of_box|>[[100,0,350,450]]<|end_of_box|>"
    assert read_boxes(write_boxes(boxes)) == boxes
    assert read_boxes("There are no shapes.") == []
    assert overlap((0, 0, 100, 100), (50, 0, 150, 100)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 100, 100), (100, 0, 150, 100)) == 0


def test_the_heads_learn_the_edges_of_boxes() -> None:
    scene = Scene(112, 112, "white", [Shape("red", "circle", 20, 20, 24, 0)], None)
    targets = cell_targets(scene, edges=True)
    left, top, right, bottom = box_of(scene, scene.shapes[0])
    assert targets.shape == ((112 // CELL) ** 2, 14)
    hundreds, steps = targets[0, 6:10] - 1, targets[0, 10:] - 1
    assert (hundreds * 100 + steps * BOX_STEP).tolist() == [left, top, right, bottom]


def test_a_box_question_names_one_shape_or_none() -> None:
    rng = random.Random(3)
    for _ in range(100):
        scene = sample_scene(rng, 140, 112)
        dialogue = ask_boxes(rng, scene)
        boxes = [box_of(scene, shape) for shape in scene.shapes]
        given = read_boxes(dialogue.answer)
        if dialogue.task == "boxes of all":
            assert given == boxes
        else:
            assert set(given) <= set(boxes) and len(given) <= 1
