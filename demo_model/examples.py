"""Training rows: a shared beginning with pictures, and several questions that branch off it."""

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

Array = np.ndarray[Any, Any]

IGNORED = -100
SHARED = 0


class Encoder:
    """Plain text and special tokens to ids, remembered."""

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

    def image(self, encode: Encoder, rows: int, columns: int) -> None:
        """Append one picture with its tags, to the shared beginning."""
        self.text(encode("<|begin_of_image|>"), SHARED)
        self.ids += encode("<|image|>") * (rows * columns)
        self.labels += [IGNORED] * (rows * columns)
        self.branches += [SHARED] * (rows * columns)
        start = self.position
        self.positions += [
            (start, start + i, start + j) for i in range(rows) for j in range(columns)
        ]
        self.position += max(rows, columns)
        self.text(encode("<|end_of_image|>"), SHARED)


@dataclass(frozen=True)
class Batch:
    """One training step's worth; all pictures have one size.

    Attributes:
        pictures: (pictures, height, width, 3) uint8.
        cells: (pictures, cells, 6) int64 targets of ``CellHeads``.
        ids, labels, branches: (rows, tokens) int64; branches are -1 where a row is padded.
        positions: (3, rows, tokens) int64.
    """

    pictures: torch.Tensor
    cells: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    branches: torch.Tensor
    positions: torch.Tensor


def cell_targets(scene: Scene) -> Array:
    """(cells, 6) int64: what each cell of a picture shows, for ``CellHeads``."""
    rows, columns = scene.height // CELL, scene.width // CELL
    targets = np.zeros((rows, columns, 6), np.int64)
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
    if scene.number is not None:
        for digit, (x, y) in zip(scene.number.text, scene.number.centres, strict=True):
            i, j = min(rows - 1, int(y // CELL)), min(columns - 1, int(x // CELL))
            targets[i, j, 2 if x - j * CELL < CELL / 2 else 3] = int(digit) + 1
    targets[:, :, 4] = BACKGROUNDS.index(scene.background)
    return targets.reshape(-1, 6)


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
    """An endless stream of batches; with ``questions`` 0 only pictures and their cells."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        rows: int,
        questions: int,
        kinds: Mapping[str, int] = KINDS,
    ) -> None:
        self._tokenizer, self._seed, self._kinds = tokenizer, seed, kinds
        self._rows, self._questions = rows, questions

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
            cells.append(cell_targets(scene))
            return scene

        rows = []
        for _ in range(self._rows):
            if self._questions:
                rows.append(_row(rng, encode, grid, draw, self._questions))
            else:
                draw()
        return _to_batch(pictures, cells, rows)


def _row(
    rng: random.Random,
    encode: Encoder,
    grid: tuple[int, int],
    draw: Callable[[], Scene],
    questions: int,
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
        _branches(rng, row, encode, questions, lambda: talk(rng))
    elif kind == "one":
        row.text(encode("<|user|>\n"), SHARED)
        scene = draw()
        row.image(encode, *grid)
        _branches(rng, row, encode, questions, lambda: ask(rng, scene))
    elif kind == "question first":
        scene = draw()
        first = ask(rng, scene)
        row.text(encode("<|user|>\n" + first.question), SHARED)
        row.image(encode, *grid)
        start = row.position
        for branch in range(1, questions + 1):
            row.position = start
            if branch <= 2:
                _answer(row, encode, first, branch, thinking=branch == 1, learn=True)
            else:
                _answer(row, encode, first, branch, thinking=False, learn=False, in_history=True)
                _turn(rng, row, encode, ask(rng, scene), branch, last=True)
    else:
        row.text(encode("<|user|>\n"), SHARED)
        first_scene = draw()
        row.image(encode, *grid)
        if rng.random() < 0.4:  # the second picture comes with a later question
            _history(row, encode, ask(rng, first_scene), [])
            row.text(encode("<|user|>\n"), SHARED)
        second_scene = draw()
        row.image(encode, *grid)
        _branches(
            rng, row, encode, questions, lambda: ask_about_two(rng, first_scene, second_scene)
        )
    return row


def _branches(
    rng: random.Random,
    row: Row,
    encode: Encoder,
    questions: int,
    next_dialogue: Callable[[], Dialogue],
) -> None:
    start = row.position
    for branch in range(1, questions + 1):
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
    if thinking:
        row.text(encode("<|assistant|>\n"), branch)
        row.text(
            encode(f"<think>{dialogue.thought}</think>\n{dialogue.answer}<|user|>"),
            branch,
            learn=learn,
        )
        return
    if not in_history or len(dialogue.question) % 2:
        row.text(encode("/nothink"), branch)
    row.text(encode("<|assistant|>\n<think></think>\n"), branch)
    row.text(encode(dialogue.answer + "<|user|>"), branch, learn=learn)


def _to_batch(pictures: list[Array], cells: list[Array], rows: list[Row]) -> Batch:
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
    return Batch(*(torch.from_numpy(array) for array in arrays))
