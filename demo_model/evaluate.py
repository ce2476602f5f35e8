"""Accuracy of a demo checkpoint per task: ``python -m demo_model.evaluate``.

Answers, JSON and calls must match exactly. Boxes are right where they overlap the true ones by more
than half (intersection over union, the mean where there are several); their mean is printed too.

On pictures that training has never seen (other seeds), greedy, through the image processor, the
chat template and transformers' ``generate``.
"""

import argparse
import json
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from demo_model.dialogues import Dialogue, ask, ask_about_two, talk
from demo_model.scenes import CELL, Scene, render, sample_grid, sample_scene
from demo_model.structured import ask_boxes, ask_json, overlap, read_boxes
from demo_model.tool_dialogues import Message, converse, offered_tools, system_prompt
from demo_model.tools import Tool


@dataclass(frozen=True)
class Case:
    """One conversation, its pictures in order, and the dialogue that its last turn asks for."""

    messages: list[Message]
    pictures: list[Image.Image]
    dialogue: Dialogue
    labels: tuple[str, ...]
    tools: tuple[Tool, ...] = ()


def make_cases(count: int, seed: int) -> list[Case]:
    """``count`` pictures with a question each, and half as many cases of the other kinds."""
    rng = random.Random(seed)
    cases = []
    for i in range(count):
        picture, scene = draw_picture(rng)
        dialogue = ask(rng, scene)
        picture_first = rng.random() < 0.85
        turn = _user(dialogue.question, 1, picture_first)
        cases.append(Case([turn], [picture], dialogue, _labels(dialogue, scene)))
        if i % 5 == 0:
            second = ask(rng, scene)
            history = [turn, {"role": "assistant", "content": dialogue.answer}]
            messages = [*history, _user(second.question)]
            cases.append(Case(messages, [picture], second, ("second turn",)))
        if i % 5 == 1:
            other, other_scene = draw_picture(rng)
            two = ask_about_two(rng, scene, other_scene)
            cases.append(Case([_user(two.question, 2)], [picture, other], two, (two.task,)))
        if i % 10 == 2:
            chat = talk(rng)
            cases.append(Case([_user(chat.question)], [], chat, (chat.task,)))
    return cases


def make_structured_cases(count: int, seed: int) -> list[Case]:
    """``count`` pictures with a question each that wants JSON or boxes."""
    rng = random.Random(seed + 1)
    cases: list[Case] = []
    while len(cases) < count:
        picture, scene = draw_picture(rng)
        dialogue = (ask_json, ask_boxes)[len(cases) % 2](rng, scene)
        if not dialogue.pieces:  # what a token mask forces cannot be asked for without one
            turn = _user(dialogue.question, 1, rng.random() < 0.85)
            cases.append(Case([turn], [picture], dialogue, (dialogue.task,)))
    return cases


def make_tool_cases(count: int, seed: int) -> list[Case]:
    """``count`` conversations with tools, some of which call and some of which tell the results."""
    rng = random.Random(seed + 2)
    cases: list[Case] = []
    while len(cases) < count:
        pictures: list[Image.Image] = []

        def draw(pictures: list[Image.Image] = pictures) -> Scene:
            picture, scene = draw_picture(rng)
            pictures.append(picture)
            return scene

        tools, system = offered_tools(rng), system_prompt(rng)
        scene = draw() if rng.random() < 0.65 else None
        turns = converse(rng, tools, scene, draw, thinking=False)
        turn = turns[-1 if rng.random() < 0.5 else 0]
        if turn.pieces:
            continue
        question = next(
            part["text"]
            for message in reversed(turn.messages)
            if message["role"] == "user"
            for part in message["content"]
            if part["type"] == "text"
        )
        messages = system + turn.messages
        seen = json.dumps(messages).count('{"type": "image"}')
        dialogue = Dialogue(turn.task, question, turn.said, turn.thought, turn.chinese)
        cases.append(Case(messages, pictures[:seen], dialogue, (turn.task,), tuple(tools)))
    return cases


def draw_picture(rng: random.Random) -> tuple[Image.Image, Scene]:
    """A picture of any size, as users send them; the image processor does the rest."""
    rows, columns = sample_grid(rng)
    scene = sample_scene(
        rng, columns * CELL + rng.randint(-10, 10), rows * CELL + rng.randint(-10, 10)
    )
    return render(scene, rng, rng.choice([1.0, rng.uniform(0.7, 2), rng.uniform(2, 6)])), scene


def _user(question: str, pictures: int = 0, picture_first: bool = True) -> Message:
    text = [{"type": "text", "text": question}]
    images = [{"type": "image"}] * pictures
    return {"role": "user", "content": [*images, *text] if picture_first else [*text, *images]}


def _labels(dialogue: Dialogue, scene: Scene) -> tuple[str, ...]:
    labels = [dialogue.task]
    if dialogue.task == "number" and scene.number:
        labels.append(f"number of {len(scene.number.text)} digits")
    if dialogue.task == "describe":
        labels.append(f"describe {len(scene.shapes)} shapes")
    return tuple(labels)


class Judge:
    """A checkpoint, and how it answers."""

    def __init__(self, checkpoint: Path) -> None:
        load: Any = AutoModelForImageTextToText.from_pretrained
        self._model = load(checkpoint, dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        processor: Any = AutoImageProcessor
        self._processor = processor.from_pretrained(checkpoint, backend="pil")

    @torch.inference_mode()
    def answers(self, cases: list[Case], thinking: bool) -> list[str]:
        """Greedy answers of cases that all have pictures or all have none.

        A thought is cut off where one was asked for; a missing or an unwanted one stays visible, so
        that the answer counts as wrong.
        """
        prompts = []
        images = (
            self._processor([p for case in cases for p in case.pictures], return_tensors="pt")
            if (cases[0].pictures)
            else {}
        )
        grids = iter(images.get("image_grid_thw", []))
        image_id = self._model.config.image_token_id
        for case in cases:
            ids: Any = self._tokenizer.apply_chat_template(
                case.messages,
                tools=list(case.tools) or None,
                add_generation_prompt=True,
                enable_thinking=thinking,
                return_dict=False,
            )
            expanded: list[int] = []
            for token_id in ids:
                repeats = int(next(grids).prod()) // 4 if token_id == image_id else 1
                expanded += [token_id] * repeats
            prompts.append(expanded)
        inputs = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        if images:
            inputs |= images
            inputs["mm_token_type_ids"] = (inputs["input_ids"] == image_id).int()
        self._model.model.rope_deltas = None  # module state of the batch before
        output = self._model.generate(
            **inputs, max_new_tokens=220, do_sample=False, temperature=None, top_p=None, top_k=None
        )
        texts = self._tokenizer.batch_decode(
            output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return [_without_thought(text) if thinking else text for text in texts]


def _without_thought(text: str) -> str:
    thought, tag, answer = text.partition("</think>\n")
    return answer if tag and thought.startswith("<think>") else f"(no thought) {text}"


def _mean_overlap(truth: str, answer: str) -> float | None:
    """Of the boxes of an answer; None where no boxes are wanted."""
    wanted, given = read_boxes(truth), read_boxes(answer)
    if not wanted:
        return None
    fits = [overlap(*pair) for pair in zip(wanted, given, strict=False)]
    return sum(fits) / max(len(wanted), len(given))


def evaluate(
    judge: Judge, cases: list[Case], thinking: bool, batch_size: int = 16
) -> tuple[dict[str, tuple[float, int]], list[tuple[str, str, str, str]]]:
    """Right answers and cases by label, and every wrong one as (task, question, truth, answer)."""
    right: dict[str, list[float]] = defaultdict(list)
    wrong = []
    for group in ([c for c in cases if c.pictures], [c for c in cases if not c.pictures]):
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            for case, answer in zip(batch, judge.answers(batch, thinking), strict=True):
                truth = case.dialogue.answer
                language = "Chinese" if case.dialogue.chinese else "English"
                fit = _mean_overlap(truth, answer)
                good = answer == truth if fit is None else fit > 0.5
                for label in ("all", language, *case.labels):
                    right[label].append(good)
                if fit is not None:
                    right[f"{case.labels[0]}: mean overlap"].append(fit)
                if not good:
                    wrong.append((case.labels[0], case.dialogue.question, truth, answer))
    return {label: (sum(values), len(values)) for label, values in sorted(right.items())}, wrong


def main() -> None:
    """Print a table, and some of what was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m demo_model.evaluate")
    parser.add_argument("--checkpoint", type=Path, default=Path(__file__).parent / "checkpoint")
    parser.add_argument(
        "--n", "--count", dest="count", type=int, default=500, help="pictures (default 500)"
    )
    parser.add_argument("--seed", type=int, default=987_654)
    parser.add_argument("--show-wrong", type=int, default=10, help="wrong answers to print")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    arguments = parser.parse_args()
    judge = Judge(arguments.checkpoint)
    kinds = {
        "questions": make_cases(arguments.count, arguments.seed),
        "JSON and boxes": make_structured_cases(arguments.count, arguments.seed),
        "tools": make_tool_cases(arguments.count, arguments.seed),
    }
    figures = {}
    for kind, cases in kinds.items():
        for mode, thinking in (("without a thought", False), ("with a thought", True)):
            began = time.monotonic()
            table, wrong = evaluate(judge, cases, thinking)
            print(f"\n{kind}, {mode} ({time.monotonic() - began:.0f} s)")
            for label, (good, total) in table.items():
                print(f"  {label:28} {100 * good / total:6.1f} %   {good:.4g} of {total}")
            for task, question, truth, answer in wrong[: arguments.show_wrong]:
                print(f"  wrong: {task}: {question!r} -> {answer!r}, truth {truth!r}")
            figures[f"{kind}, {mode}"] = table
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
