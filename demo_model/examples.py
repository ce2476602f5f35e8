"""Training rows: a shared beginning with pictures or tools, and questions that branch off it."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerFast

from demo_model.dialogues import (
    SYSTEM_PROMPTS,
    Dialogue,
    ask,
    ask_about_two,
    talk,
    zone_of,
)
from demo_model.scenes import (
    BACKGROUNDS,
    CELL,
    COLOURS,
    KINDS,
    SHAPES,
    Scene,
    render,
    rescaled,
    sample_grid,
    sample_scene,
)
from demo_model.structured import BOX_STEP, ask_structured, box_of
from demo_model.tool_dialogues import Message, Turn, converse, offered_tools, system_prompt
from demo_model.tools import Tool

Array = np.ndarray[Any, Any]

IGNORED = -100
SHARED = 0

# Where JSON, boxes and tools are learnt too: how many questions of a row want JSON or boxes, how
# many batches have tools, and how these are cut, since the tools make their beginnings long.
STRUCTURED_SHARE = 0.5
TOOLS_SHARE = 0.4
# Rows are then closed at a number of tokens: what pads the shorter ones costs as much as they do.
ROW_TOKENS = 320
TOOL_ROWS = 8
TOOL_ROW_TOKENS = 1500


class Encoder:
    """Plain text and special tokens to ids, remembered; conversations to prompts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """The ids of a piece of prompt, as the tokenizer gives them."""
        if text not in self._known:
            if len(self._known) > 200_000:
                self._known.clear()
            self._known[text] = self._tokenizer(text, add_special_tokens=False).input_ids
        return self._known[text]

    def prompt(self, messages: list[Message], tools: list[Tool], thinking: bool) -> str:
        """What the template writes before the assistant's turn."""
        prompt = self._tokenizer.apply_chat_template(
            messages,
            tools=[*tools] or None,
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=thinking,
        )
        assert isinstance(prompt, str)
        return prompt


@dataclass
class Row:
    """One training row. Branch 0 is seen by all; the others see it and themselves only."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    branches: list[int] = field(default_factory=list)
    positions: list[tuple[int, int, int]] = field(default_factory=list)
    position: int = 0

    def text(self, ids: list[int], branch: int, *, learn: bool = False) -> None:
        """Append text tokens."""
        self.ids += ids
        self.labels += ids if learn else [IGNORED] * len(ids)
        self.branches += [branch] * len(ids)
        self.positions += [(p, p, p) for p in range(self.position, self.position + len(ids))]
        self.position += len(ids)

    def image(self, encode: Encoder, rows: int, columns: int, branch: int = SHARED) -> None:
        """Append one picture with its tags."""
        self.text(encode("<|begin_of_image|>"), branch)
        self.ids += encode("<|image|>") * (rows * columns)
        self.labels += [IGNORED] * (rows * columns)
        self.branches += [branch] * (rows * columns)
        start = self.position
        self.positions += [
            (start, start + i, start + j) for i in range(rows) for j in range(columns)
        ]
        self.position += max(rows, columns)
        self.text(encode("<|end_of_image|>"), branch)

    def prompt(self, encode: Encoder, text: str, grid: tuple[int, int], branch: int) -> None:
        """Append a part of a prompt, with pictures where the template puts them."""
        before, *others = text.split("<|begin_of_image|><|image|><|end_of_image|>")
        self.text(encode(before), branch)
        for other in others:
            self.image(encode, *grid, branch)
            self.text(encode(other), branch)


@dataclass(frozen=True)
class Batch:
    """One training step's worth; all pictures have one size.

    Attributes:
        kind: What it teaches, for the log.
        pictures: (pictures, height, width, 3) uint8.
        cells: (pictures, cells, 6) int64 targets of ``CellHeads``, or 14 with the edges of boxes.
        ids, labels, branches: (rows, tokens) int64; branches are -1 where a row is padded.
        positions: (3, rows, tokens) int64.
    """

    kind: str
    pictures: torch.Tensor
    cells: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    branches: torch.Tensor
    positions: torch.Tensor


def cell_targets(scene: Scene, edges: bool = False) -> Array:
    """(cells, 6) int64: what each cell of a picture shows, for ``CellHeads``.

    With ``edges`` there are eight columns more: left, top, right and bottom of the shape's box, the
    hundreds of all four and then the steps within a hundred.
    """
    rows, columns = scene.height // CELL, scene.width // CELL
    targets = np.zeros((rows, columns, 14 if edges else 6), np.int64)
    covered = np.full((rows, columns), 0.2)
    for shape in scene.shapes:
        half = shape.size / 2
        for i in range(rows):
            for j in range(columns):
                wide = min(shape.x + half, (j + 1) * CELL) - max(shape.x - half, j * CELL)
                high = min(shape.y + half, (i + 1) * CELL) - max(shape.y - half, i * CELL)
                share = max(0.0, wide) * max(0.0, high) / CELL**2
                if share > covered[i, j]:
                    covered[i, j] = share
                    zone = zone_of(scene, shape)
                    targets[i, j, 0] = 1 + SHAPES.index(shape.kind)
                    targets[i, j, 1] = 1 + COLOURS.index(shape.colour)
                    targets[i, j, 5] = 0 if zone is None else 1 + 3 * zone[0] + zone[1]
                    if edges:
                        box = np.array(box_of(scene, shape))
                        targets[i, j, 6:10] = 1 + box // 100
                        targets[i, j, 10:] = 1 + box % 100 // BOX_STEP
    if scene.number is not None:
        for digit, (x, y) in zip(scene.number.text, scene.number.centres, strict=True):
            i, j = min(rows - 1, int(y // CELL)), min(columns - 1, int(x // CELL))
            targets[i, j, 2 if x - j * CELL < CELL / 2 else 3] = int(digit) + 1
    targets[:, :, 4] = BACKGROUNDS.index(scene.background)
    return targets.reshape(rows * columns, -1)


def draw_to_size(
    rng: random.Random, width: int, height: int, kinds: Mapping[str, int] = KINDS
) -> tuple[Image.Image, Scene]:
    """A random picture of exactly this size, often drawn at another one and resized.

    The image processor resizes nearly every picture it gets, most of them from much larger ones and
    with slightly changed proportions.
    """
    if rng.random() < 0.35:
        scene = sample_scene(rng, width, height, kinds)
        return render(scene, rng), scene
    own_width, own_height = width + rng.randint(-12, 12), height + rng.randint(-12, 12)
    scale = rng.choice([rng.uniform(0.6, 1.5), rng.uniform(1.5, 3), rng.uniform(3, 6)])
    scene = sample_scene(rng, own_width, own_height, kinds)
    picture = render(scene, rng, scale).resize((width, height), Image.Resampling.BICUBIC)
    return picture, rescaled(scene, width, height)


class Examples(IterableDataset[Batch]):
    """An endless stream of batches; with ``questions`` 0 only pictures and their cells.

    Args:
        skills: JSON, boxes and tools are there as well.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        rows: int,
        questions: int,
        kinds: Mapping[str, int] = KINDS,
        *,
        skills: bool = False,
    ) -> None:
        self._tokenizer, self._seed, self._kinds = tokenizer, seed, kinds
        self._rows, self._questions, self._skills = rows, questions, skills

    def __iter__(self) -> Iterator[Batch]:
        """Batches for ever; each worker its own."""
        worker = get_worker_info()
        rng = random.Random(self._seed * 1000 + (worker.id if worker else 0))
        encode = Encoder(self._tokenizer)
        torch.set_num_threads(1)
        while True:
            yield self._batch(rng, encode)

    def _batch(self, rng: random.Random, encode: Encoder) -> Batch:
        grid = sample_grid(rng)
        pictures: list[Array] = []
        cells: list[Array] = []

        def draw() -> Scene:
            picture, scene = draw_to_size(rng, grid[1] * CELL, grid[0] * CELL, self._kinds)
            pictures.append(np.asarray(picture, np.uint8))
            cells.append(cell_targets(scene, edges=self._skills))
            return scene

        def question(scene: Scene) -> Dialogue:
            if self._skills and rng.random() < STRUCTURED_SHARE:
                return ask_structured(rng, scene)
            return ask(rng, scene)

        rows: list[Row] = []
        if self._skills and rng.random() < TOOLS_SHARE:
            while len(rows) < TOOL_ROWS or not pictures:
                rows.append(_tool_row(rng, encode, grid, draw))
            return _to_batch("tools", pictures, cells, rows)
        limit = ROW_TOKENS if self._skills else 10**6
        for _ in range(self._rows):
            if self._questions:
                rows.append(_row(rng, encode, grid, draw, question, self._questions, limit))
            else:
                draw()
        return _to_batch("language", pictures, cells, rows)


def _row(
    rng: random.Random,
    encode: Encoder,
    grid: tuple[int, int],
    draw: Callable[[], Scene],
    ask: Callable[[Scene], Dialogue],
    questions: int,
    limit: int,
) -> Row:
    row = Row()
    row.text(encode("[gMASK]<sop>"), SHARED)
    if rng.random() < 0.15:
        row.text(encode("<|system|>\n" + rng.choice(SYSTEM_PROMPTS)), SHARED)
    kind = rng.choices(["none", "one", "question first", "two"], [6, 62, 12, 20])[0]
    if kind != "none" and rng.random() < 0.06:
        _history(row, encode, talk(rng), encode("<|user|>\n"))
    if kind == "none":
        row.text(encode("<|user|>\n"), SHARED)
        _branches(rng, row, encode, questions, limit, lambda: talk(rng))
    elif kind == "one":
        row.text(encode("<|user|>\n"), SHARED)
        scene = draw()
        row.image(encode, *grid)
        _branches(rng, row, encode, questions, limit, lambda: ask(scene))
    elif kind == "question first":
        scene = draw()
        first = ask(scene)
        row.text(encode("<|user|>\n" + first.question), SHARED)
        row.image(encode, *grid)
        start = row.position
        for branch in range(1, questions + 1):
            if len(row.ids) > limit:
                break
            row.position = start
            if branch <= 2:
                _answer(row, encode, first, branch, thinking=branch == 1, learn=True)
            else:
                _answer(row, encode, first, branch, thinking=False, learn=False, in_history=True)
                _turn(rng, row, encode, ask(scene), branch, last=True)
    else:
        row.text(encode("<|user|>\n"), SHARED)
        first_scene = draw()
        row.image(encode, *grid)
        if rng.random() < 0.4:  # the second picture comes with a later question
            _history(row, encode, ask(first_scene), [])
            row.text(encode("<|user|>\n"), SHARED)
        second_scene = draw()
        row.image(encode, *grid)
        _branches(
            rng,
            row,
            encode,
            questions,
            limit,
            lambda: ask_about_two(rng, first_scene, second_scene),
        )
    return row


def _tool_row(
    rng: random.Random, encode: Encoder, grid: tuple[int, int], draw: Callable[[], Scene]
) -> Row:
    """Tools and often a picture are shared; each branch is a conversation with them."""
    row = Row()
    tools, system = offered_tools(rng), system_prompt(rng)
    scene = draw() if rng.random() < 0.65 else None
    shared = ""
    branch = 0
    while len(row.ids) < TOOL_ROW_TOKENS:
        branch += 1
        thinking = rng.random() < 0.25
        turns = converse(rng, tools, scene, draw, thinking=thinking)
        done = shared
        for turn in turns:
            prompt = encode.prompt(system + turn.messages, tools, thinking)
            if not shared:
                end = "<|end_of_image|>" if scene else "<|user|>\n"
                done = shared = prompt[: prompt.index(end) + len(end)]
                row.prompt(encode, shared, grid, SHARED)
                start = row.position
            if turn is turns[0]:
                row.position = start
            assert prompt.startswith(done)
            row.prompt(encode, prompt[len(done) :], grid, branch)
            done = prompt + _learn_turn(row, encode, turn, branch, thinking)
    return row


def _learn_turn(row: Row, encode: Encoder, turn: Turn, branch: int, thinking: bool) -> str:
    """Append what the assistant says; returns it."""
    pieces = turn.pieces or ((turn.said, True),)
    if thinking:
        pieces = ((f"<think>{turn.thought}</think>\n", True), *pieces)
    pieces = (*pieces, (turn.ending, True))
    for text, learn in pieces:
        row.text(encode(text), branch, learn=learn)
    return "".join(text for text, _ in pieces)


def _branches(
    rng: random.Random,
    row: Row,
    encode: Encoder,
    questions: int,
    limit: int,
    next_dialogue: Callable[[], Dialogue],
) -> None:
    start = row.position
    for branch in range(1, questions + 1):
        if len(row.ids) > limit:
            break
        row.position = start
        turns = 2 if rng.random() < 0.2 else 1
        for turn in range(turns):
            dialogue = next_dialogue()
            if turn == 0:
                row.text(encode(dialogue.question), branch)
                last = turns == 1
                thinking = last and rng.random() < 0.35
                _answer(
                    row,
                    encode,
                    dialogue,
                    branch,
                    thinking=thinking,
                    learn=True,
                    in_history=not last,
                )
            else:
                _turn(rng, row, encode, dialogue, branch, last=True)


def _turn(
    rng: random.Random, row: Row, encode: Encoder, dialogue: Dialogue, branch: int, *, last: bool
) -> None:
    """A further turn; the ``<|user|>`` before it ended the answer before it."""
    row.text(encode("\n" + dialogue.question), branch)
    _answer(
        row, encode, dialogue, branch, thinking=rng.random() < 0.35, learn=True, in_history=not last
    )


def _history(row: Row, encode: Encoder, dialogue: Dialogue, before: list[int]) -> None:
    """A finished turn as the template writes it, up to where the next ``<|user|>`` begins."""
    row.text([*before, *encode(dialogue.question)], SHARED)
    row.text(encode("<|assistant|>\n<think></think>\n" + dialogue.answer), SHARED)


def _answer(
    row: Row,
    encode: Encoder,
    dialogue: Dialogue,
    branch: int,
    *,
    thinking: bool,
    learn: bool,
    in_history: bool = False,
) -> None:
    """``<|assistant|>`` and an answer, up to the ``<|user|>`` that ends it.

    Without a thought the question ends in ``/nothink`` and the empty thought belongs to the prompt.
    In history the template leaves ``/nothink`` to the ``enable_thinking`` of the moment: both
    occur.
    """
    pieces = dialogue.pieces or ((dialogue.answer, True),)
    if thinking:
        row.text(encode("<|assistant|>\n"), branch)
        pieces = ((f"<think>{dialogue.thought}</think>\n", True), *pieces)
    else:
        if not in_history or len(dialogue.question) % 2:
            row.text(encode("/nothink"), branch)
        row.text(encode("<|assistant|>\n<think></think>\n"), branch)
    for text, learnt in (*pieces, ("<|user|>", True)):
        row.text(encode(text), branch, learn=learn and learnt)


def _to_batch(kind: str, pictures: list[Array], cells: list[Array], rows: list[Row]) -> Batch:
    length = max((len(row.ids) for row in rows), default=0)
    length = (length + 15) // 16 * 16
    ids = np.zeros((len(rows), length), np.int64)
    labels = np.full_like(ids, IGNORED)
    branches = np.full_like(ids, -1)
    positions = np.zeros((3, *ids.shape), np.int64)
    for i, row in enumerate(rows):
        used = slice(len(row.ids))
        ids[i, used], labels[i, used], branches[i, used] = row.ids, row.labels, row.branches
        positions[:, i, used] = np.array(row.positions).T
    arrays = (np.stack(pictures), np.stack(cells), ids, labels, branches, positions)
    return Batch(kind, *(torch.from_numpy(array) for array in arrays))
