"""The demo model's pictures, truths and training rows, and the committed checkpoint."""

import json
import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from demo_model.dialogues import ZONES, ask, ask_about_two, describe, talk, zone_of
from demo_model.examples import IGNORED, SHARED, Examples, cell_targets, draw_to_size
from demo_model.export import VIDEO_PROCESSOR
from demo_model.scenes import CELL, Number, Scene, Shape, render, sample_scene
from demo_model.vocabulary import ADDED_TOKENS, build_tokenizer
from unit.paths import DEMO_CHECKPOINT


def _scene(*shapes: Shape, number: str | None = None, background: str = "white") -> Scene:
    ink = Number(number, 10, 10, None, 20, (0, 0, 0)) if number else None
    return Scene(112, 112, background, list(shapes), ink)


RED = Shape("red", "circle", 20, 20, 24, 0)
BLUE = Shape("blue", "star", 90, 95, 24, 0)
ORANGE = Shape("orange", "square", 56, 56, 24, 0)


def test_descriptions_say_what_is_there() -> None:
    assert describe(_scene(RED), False) == "A red circle."
    assert describe(_scene(ORANGE), False) == "An orange square."
    assert describe(_scene(RED, ORANGE, BLUE), False) == (
        "A red circle, an orange square and a blue star."
    )
    assert describe(_scene(RED, BLUE), True) == "一个红色的圆形和一个蓝色的星形。"
    assert describe(_scene(RED, number="42"), False) == "A red circle and the number 42."
    assert describe(_scene(background="orange"), False) == "Nothing but an orange background."
    assert describe(_scene(background="gray"), True) == "只有灰色的背景。"


def test_zones_are_named_only_where_they_are_plain() -> None:
    assert ZONES[zone_of(_scene(RED), RED) or (9, 9)][0] == "at the top left"
    assert ZONES[zone_of(_scene(BLUE), BLUE) or (9, 9)][0] == "at the bottom right"
    assert ZONES[zone_of(_scene(ORANGE), ORANGE) or (9, 9)][1] == "中间"
    border = Shape("red", "circle", 112 / 3 + 2, 20, 24, 0)
    assert zone_of(_scene(border), border) is None


@pytest.mark.parametrize("seed", range(40))
def test_every_answer_is_true_of_its_scene(seed: int) -> None:
    rng = random.Random(seed)
    scene = sample_scene(rng, 140, 112)
    assert all(left.x <= right.x for left, right in pairwise(scene.shapes))
    for _ in range(20):
        dialogue = ask(rng, scene, chinese=False)
        answer = dialogue.answer.lower()
        if dialogue.task == "count":
            words = ["no shapes", "1 shape.", "2 shapes", "3 shapes"]
            assert words[len(scene.shapes)] in answer
        if dialogue.task == "number":
            assert (scene.number.text if scene.number else "no number") in answer
        if dialogue.task == "background":
            assert scene.background in answer
        if dialogue.task == "yes/no":
            present = any(f"{s.colour} {s.kind}" in answer for s in scene.shapes)
            assert answer.startswith("yes") is present
        if dialogue.task in ("colour", "shape") and "no " not in answer:
            assert any(s.colour in answer and s.kind in answer for s in scene.shapes)
        if dialogue.task == "where":
            assert any(zone in answer for zone, _ in ZONES.values())


def test_without_a_picture_it_says_so() -> None:
    rng = random.Random(0)
    tasks = {"no picture": 0, "small talk": 0}
    for _ in range(200):
        dialogue = talk(rng)
        tasks[dialogue.task] += 1
        if dialogue.task == "no picture":
            assert dialogue.answer in ("I do not see an image.", "我没有看到图片。")
    assert all(tasks.values())


def test_the_same_seed_draws_the_same_picture() -> None:
    def draw(seed: int) -> bytes:
        rng = random.Random(seed)
        return render(sample_scene(rng, 112, 140), rng).tobytes()

    assert draw(3) == draw(3) != draw(4)


def test_cells_say_what_they_show() -> None:
    targets = cell_targets(_scene(RED, BLUE))
    assert targets.shape == (16, 6)
    assert targets[0].tolist() == [1, 1, 0, 0, 0, 1]  # circle, red, no digits, white, zone 1
    assert targets[15, 5] == 9
    picture, scene = draw_to_size(random.Random(5), 5 * CELL, 4 * CELL)
    assert picture.size == (5 * CELL, 4 * CELL) == (scene.width, scene.height)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def test_training_rows_are_what_the_template_writes(tokenizer: PreTrainedTokenizerFast) -> None:
    """Every branch of every row is a rendering of the exact template, token by token."""
    batch = next(iter(Examples(tokenizer, seed=9, rows=24, questions=5)))
    checked = unprompted = 0
    for row in range(len(batch.ids)):
        for branch in range(1, 6):
            seen = (batch.branches[row] == SHARED) | (batch.branches[row] == branch)
            ids = batch.ids[row][seen].tolist()
            learnt = batch.labels[row][seen] != IGNORED
            text = _text(tokenizer, ids)
            messages, thinking = _parse(text)
            prompt = _prompt(tokenizer, messages[:-1], thinking=True)
            if not thinking:
                prompt += "<think></think>\n"
            answer = text[len(prompt.replace("<|image|>", _placeholder(text))) :]
            assert text == prompt.replace("<|image|>", _placeholder(text)) + answer
            assert answer.endswith("<|user|>") and answer.count("<|user|>") == 1
            if not thinking and (clean := _without_nothink(messages[:-1])):
                own_prompt = _prompt(tokenizer, clean, thinking=False)
                assert own_prompt.replace("<|image|>", _placeholder(text)) + answer == text
                unprompted += 1
            # What is learnt is the answer, whole, and it is tokenised on its own.
            own = tokenizer(answer, add_special_tokens=False).input_ids
            if bool(learnt[-1]):
                assert ids[-len(own) :] == own and bool(learnt[-len(own) :].all())
                checked += 1
            assert ids == tokenizer(text, add_special_tokens=False).input_ids
    assert checked > 60 and unprompted > 30


def _text(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    text = tokenizer.decode(ids)
    assert isinstance(text, str)
    return text


def _prompt(
    tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, Any]], *, thinking: bool
) -> str:
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=False, enable_thinking=thinking
    )
    assert isinstance(prompt, str)
    return prompt


def _without_nothink(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages as a client sends them with enable_thinking false; none if that is not so."""
    clean = []
    for message in messages:
        content = message["content"]
        if message["role"] == "user":
            *parts, last = content
            if not last.get("text", "").endswith("/nothink"):
                return []
            rest = last["text"].removesuffix("/nothink")
            content = [*parts, {"type": "text", "text": rest}] if rest else parts
        clean.append({"role": message["role"], "content": content})
    return clean


def _placeholder(text: str) -> str:
    run = text.split("<|begin_of_image|>")[1:2]
    return run[0].split("<|end_of_image|>")[0] if run else "<|image|>"


def _parse(text: str) -> tuple[list[dict[str, Any]], bool]:
    """Messages that the template would write as ``text``, and whether the last turn thinks."""
    messages: list[dict[str, Any]] = []
    body = text.removeprefix("[gMASK]<sop>").removesuffix("<|user|>")
    thinking = True
    for turn in (
        body.replace("<|system|>", "\0<|system|>")
        .replace("<|user|>", "\0<|user|>")
        .replace("<|assistant|>", "\0<|assistant|>")
        .split("\0")[1:]
    ):
        role, said = turn[2:].split("|>\n", 1)
        if role == "user":
            parts: list[dict[str, str]] = []
            for i, piece in enumerate(said.split("<|begin_of_image|>")):
                if i:
                    parts.append({"type": "image"})
                    piece = piece.split("<|end_of_image|>", 1)[1]
                if piece:
                    parts.append({"type": "text", "text": piece})
            messages.append({"role": role, "content": parts})
        else:
            thinking = not said.startswith("<think></think>")
            messages.append({"role": role, "content": said.split("</think>\n")[-1]})
    return messages, thinking


@pytest.mark.parametrize("text", ["数字是4721。", "naïve 🙂\n\n  x", "A red circle.\t", "\x00\x7f"])
def test_the_tokenizer_gives_back_any_text(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_digits_are_read_one_by_one(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer("4721", add_special_tokens=False).input_ids) == 4


def test_the_checkpoint_is_complete_small_and_has_glms_tokens_and_template() -> None:
    files = {file.name: file for file in DEMO_CHECKPOINT.iterdir()}
    assert set(files) == {
        "config.json", "generation_config.json", "model.safetensors", "preprocessor_config.json",
        "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "video_preprocessor_config.json",
    }  # fmt: skip
    assert sum(file.stat().st_size for file in files.values()) <= 12_000_000
    template = DEMO_CHECKPOINT.parent / "chat_template.jinja"
    assert files["chat_template.jinja"].read_bytes() == template.read_bytes()
    config = json.loads(files["config.json"].read_text())
    assert config["architectures"] == ["Glm4vForConditionalGeneration"]
    tokenizer = AutoTokenizer.from_pretrained(DEMO_CHECKPOINT)
    assert set(ADDED_TOKENS) <= set(tokenizer.get_added_vocab())
    assert tokenizer.convert_tokens_to_ids("<|image|>") == config["image_token_id"]
    video_processor = json.loads(files["video_preprocessor_config.json"].read_text())
    assert video_processor == VIDEO_PROCESSOR


def test_two_pictures_have_one_true_answer() -> None:
    rng = random.Random(1)
    first, second = _scene(RED), _scene(BLUE)
    for _ in range(30):
        dialogue = ask_about_two(rng, first, second)
        if dialogue.task == "two: which":
            red = "red circle" in dialogue.question or "红色的圆形" in dialogue.question
            assert ("first" in dialogue.answer or "第一" in dialogue.answer) is red
        else:
            assert dialogue.answer in {
                describe(scene, zh) for scene in (first, second) for zh in (False, True)
            }


def test_batches_are_tensors_of_the_stated_shapes(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = next(iter(Examples(tokenizer, seed=2, rows=3, questions=4)))
    rows, tokens = batch.ids.shape
    assert rows == 3 and batch.positions.shape == (3, rows, tokens)
    height, width = batch.pictures.shape[1:3]
    assert batch.pictures.dtype == torch.uint8
    assert batch.cells.shape[1:] == (height // CELL * (width // CELL), 6)
    assert np.isin(batch.branches.numpy(), [-1, 0, 1, 2, 3, 4]).all()
