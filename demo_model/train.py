"""Train the demo checkpoint from scratch: ``python -m demo_model.train``.

First the vision encoder alone with dense auxiliary heads, then everything jointly on questions and
answers, then the same with many numbers, at last JSON, boxes and tools as well. Seeds are fixed;
since each phase ends by the clock, a faster machine takes more steps.
"""

import argparse
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from transformers import Glm4vForConditionalGeneration, PreTrainedTokenizerFast

from demo_model.architecture import (
    CellHeads,
    build_model,
    image_processor,
    patches_of,
    speed_up,
    start_well,
)
from demo_model.examples import IGNORED, SHARED, Batch, Examples
from demo_model.export import export
from demo_model.scenes import EVERYTHING, MANY_NUMBERS
from demo_model.vocabulary import build_tokenizer

SAVE_SECONDS = 180
# The fourth phase's conversations in a step, and at most as many questions in each.
SKILL_ROWS, SKILL_QUESTIONS = 28, 8


@dataclass(frozen=True)
class Phase:
    """How a joint phase trains.

    Attributes:
        rate: Highest learning rate, reached after ``warm_up`` steps.
        vision_share: The vision encoder's share of that rate.
        cells_weight: Weight of the auxiliary heads at the beginning.
    """

    name: str
    minutes: float
    rate: float
    warm_up: int = 200
    vision_share: float = 1.0
    cells_weight: float = 0.4


@dataclass
class Trainee:
    """What is being trained, and where its state is saved on the way."""

    model: Glm4vForConditionalGeneration
    heads: CellHeads
    state_file: Path

    def parameters(self) -> Iterator[nn.Parameter]:
        """All of them."""
        yield from self.model.parameters()
        yield from self.heads.parameters()

    def save(self) -> None:
        """Write the weights, so that nothing is lost."""
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        state = {"model": self.model.state_dict(), "heads": self.heads.state_dict()}
        torch.save(state, self.state_file)

    def restore(self, file: Path) -> None:
        """Go on from saved weights."""
        state = torch.load(file, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])


class Optimizers:
    """Muon for the matrices, AdamW for the rest: what learnt fastest here by far."""

    def __init__(
        self,
        trainee: Trainee,
        parameters: Iterable[nn.Parameter],
        rate: float,
        vision_share: float = 1.0,
    ) -> None:
        model = trainee.model.model
        plain = {
            id(trainee.model.lm_head.weight),
            id(model.language_model.embed_tokens.weight),
            id(model.visual.embeddings.position_embedding.weight),
            id(trainee.heads.linear.weight),
        }
        parameters = list(parameters)
        matrices = [p for p in parameters if p.ndim == 2 and id(p) not in plain]
        chosen = {id(p) for p in matrices}
        rest = [p for p in parameters if id(p) not in chosen]
        vision = {id(p) for p in model.visual.parameters()}

        def groups(members: list[nn.Parameter], decay: float) -> list[dict[str, Any]]:
            seeing = [p for p in members if id(p) in vision]
            others = [p for p in members if id(p) not in vision]
            return [
                {"params": seeing, "weight_decay": decay, "share": vision_share},
                {"params": others, "weight_decay": decay, "share": 1.0},
            ]

        large = groups([p for p in rest if p.ndim > 1], 0.03)
        small = groups([p for p in rest if p.ndim <= 1], 0.0)
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([*large, *small], lr=rate, betas=(0.9, 0.98), fused=True),
            torch.optim.Muon(
                groups(matrices, 0.03), lr=rate, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            ),
        ]
        self._parameters = parameters

    def step(self, loss: torch.Tensor, rate: float) -> None:
        """One step down the gradient of ``loss``."""
        for optimizer in self._optimizers:
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        for optimizer in self._optimizers:
            optimizer.step()


def train_vision(
    trainee: Trainee, tokenizer: PreTrainedTokenizerFast, minutes: float, rate: float, seed: int
) -> None:
    """The vision encoder alone, on what each cell of a picture shows."""
    visual, processor = trainee.model.model.visual, image_processor()
    optimizers = Optimizers(trainee, [*visual.parameters(), *trainee.heads.parameters()], rate)
    batches = _batches(Examples(tokenizer, seed + 77, rows=48, questions=0))
    began, average = time.monotonic(), None
    for step in range(1, 10**9):
        done = (time.monotonic() - began) / (minutes * 60)
        if done >= 1:
            break
        batch = next(batches)
        pixels, grids = patches_of(batch.pictures, processor)
        with torch.autocast("cpu", torch.bfloat16):
            features = visual(pixels, grid_thw=grids).pooler_output
        loss, right = trainee.heads(features.float(), batch.cells)
        optimizers.step(loss, rate * min(1, step / 100) * (1 - 0.6 * done))
        current = torch.tensor(right).nan_to_num(0.5)
        average = current if average is None else 0.95 * average + 0.05 * current
        if step % 50 == 0:
            shares = " ".join(f"{share:.3f}" for share in average.tolist())
            print(
                f"vision {step:5d} {time.monotonic() - began:5.0f}s loss {loss.item():.3f}"
                f"  shape colour left right ground zone: {shares}",
                flush=True,
            )
    trainee.save()


def train_jointly(trainee: Trainee, examples: Examples, phase: Phase) -> None:
    """Everything, on dialogues, with the auxiliary heads kept at a falling weight."""
    optimizers = Optimizers(trainee, trainee.parameters(), phase.rate, phase.vision_share)
    batches = _batches(examples)
    began = saved = time.monotonic()
    averages: dict[str, float] = {}
    waited = 0.0
    for step in range(1, 10**9):
        done = (time.monotonic() - began) / (phase.minutes * 60)
        if done >= 1:
            break
        before = time.monotonic()
        batch = next(batches)
        waited += time.monotonic() - before
        language, cells, right = _losses(trainee, batch)
        loss = language + phase.cells_weight * (1 - 0.7 * done) * cells
        cosine = 0.5 + 0.5 * math.cos(math.pi * done)
        optimizers.step(loss, phase.rate * min(1, step / phase.warm_up) * max(0.01, cosine))
        value = language.item()
        averages[batch.kind] = 0.98 * averages.get(batch.kind, value) + 0.02 * value
        if step % 50 == 0:
            shares = " ".join(f"{share:.2f}" for share in right)
            losses = " ".join(f"{kind} {average:.4f}" for kind, average in averages.items())
            print(
                f"{phase.name} {step:5d} {time.monotonic() - began:5.0f}s {losses}"
                f" cells {cells.item():.3f} ({shares}) waited {waited:.0f}s",
                flush=True,
            )
        if time.monotonic() - saved > SAVE_SECONDS:
            saved = time.monotonic()
            trainee.save()
    trainee.save()


def _losses(trainee: Trainee, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    model: Any = trainee.model
    pixels, grids = patches_of(batch.pictures, image_processor())
    length = batch.branches.shape[1]
    visible = (batch.branches[:, None, :] == SHARED) | (
        batch.branches[:, None, :] == batch.branches[:, :, None]
    )
    visible &= torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(visible.shape, dtype=torch.bfloat16).masked_fill_(~visible, -1e9)[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        features = model.model.visual(pixels, grid_thw=grids).pooler_output
        embeddings = model.get_input_embeddings()(batch.ids)
        is_image = (batch.ids == model.config.image_token_id)[..., None]
        embeddings = embeddings.masked_scatter(is_image, features.to(embeddings.dtype))
        hidden = model.model.language_model(
            inputs_embeds=embeddings,
            position_ids=batch.positions,
            attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        wanted = batch.labels[:, 1:]
        learnt = wanted != IGNORED
        logits = model.lm_head(hidden[:, :-1][learnt])
    language = F.cross_entropy(logits.float(), wanted[learnt])
    cells, right = trainee.heads(features.float(), batch.cells)
    return language, cells, right


def _batches(examples: Examples) -> Iterator[Batch]:
    return iter(DataLoader(examples, batch_size=None, num_workers=1, prefetch_factor=4))


def main() -> None:
    """Train, then export the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m demo_model.train")
    parser.add_argument("--vision-minutes", type=float, default=10, help="first phase (default 10)")
    parser.add_argument("--minutes", type=float, default=60, help="second phase (default 60)")
    parser.add_argument("--number-minutes", type=float, default=80, help="third phase (default 80)")
    parser.add_argument("--skill-minutes", type=float, default=75, help="fourth phase (default 75)")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--rows", type=int, default=64, help="conversations in a step")
    parser.add_argument("--questions", type=int, default=5, help="questions a conversation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--init", type=Path, help="go on from the state of an earlier run")
    parser.add_argument(
        "--state", type=Path, default=Path("build/demo-model.pt"), help="weights on the way"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "checkpoint", help="the checkpoint"
    )
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    trainee = Trainee(model, CellHeads(model.lm_head.in_features), arguments.state)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    if arguments.init:
        trainee.restore(arguments.init)
    else:
        start_well(model, image_processor(), arguments.seed)
    speed_up(model)
    if arguments.vision_minutes > 0:
        train_vision(trainee, tokenizer, arguments.vision_minutes, arguments.rate, arguments.seed)
    size = (arguments.rows, arguments.questions)
    if arguments.minutes > 0:
        examples = Examples(tokenizer, arguments.seed + 5, *size)
        train_jointly(trainee, examples, Phase("joint", arguments.minutes, arguments.rate))
    if arguments.number_minutes > 0:
        examples = Examples(tokenizer, arguments.seed + 11, *size, kinds=MANY_NUMBERS)
        phase = Phase("numbers", arguments.number_minutes, 0.6 * arguments.rate)
        train_jointly(trainee, examples, phase)
    if arguments.skill_minutes > 0:
        size = (SKILL_ROWS, SKILL_QUESTIONS)
        examples = Examples(tokenizer, arguments.seed + 17, *size, kinds=EVERYTHING, skills=True)
        # The vision encoder sees well by now, and with the full rate it soon saw worse.
        phase = Phase(
            "skills",
            arguments.skill_minutes,
            0.5 * arguments.rate,
            warm_up=50,
            vision_share=0.2,
            cells_weight=0.15,
        )
        train_jointly(trainee, examples, phase)
    export(model.state_dict(), tokenizer, arguments.output)
    print(f"written to {arguments.output}", flush=True)


if __name__ == "__main__":
    main()
