"""How right and how calibrated decisions are on the demo checkpoint, and what ten of them cost.

Starts a server of its own and asks over HTTP, about pictures that training has never seen.
"""

import argparse
import base64
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
from PIL import Image

from demo_model.dialogues import article
from demo_model.evaluate import draw_picture
from demo_model.scenes import BACKGROUNDS, COLOURS, SHAPES, Scene
from tools.report import Panel, report
from tools.stack import Stack

PAGE = Path(__file__).parent / "results" / "decisions.md"
SEED = 987_654
BINS = 10

Question = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A question, and the option that is true."""

    kind: str
    question: Question
    truth: str


@dataclass(frozen=True)
class Outcome:
    """An answer: the probability of each option, and which of them is true."""

    kind: str
    probabilities: Sequence[float]
    truth: int

    @property
    def confidence(self) -> float:
        return max(self.probabilities)

    @property
    def is_right(self) -> bool:
        return self.probabilities.index(self.confidence) == self.truth


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m benchmarks.decisions")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=40, help="of one and of ten questions")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "launcher.log")
        try:
            stack.wait_ready()
            client = Client(stack.base_url)
            shown = _evaluate(client, arguments.pictures, _shown_questions, _with_one_shape)
            whole = _evaluate(client, arguments.pictures, _whole_answers, _with_shapes)
            costs = _costs(client, arguments.rounds)
        finally:
            stack.interrupt()
            stack.wait_stopped()
            stack.kill()
    _write(arguments, shown, whole, costs)


class Client:
    """Asks over one connection."""

    def __init__(self, base_url: str) -> None:
        self._http = httpx2.Client(base_url=base_url, timeout=120)

    def ask(self, picture: str, questions: Sequence[Question]) -> list[dict[str, Any]]:
        """The answers to questions about a picture."""
        content = [{"type": "input_image", "image_url": picture}]
        body = {
            "model": "glm-4.6v-flash",
            "input": [{"role": "user", "content": content}],
            "questions": list(questions),
        }
        response = self._http.post("/v1/decisions", json=body)
        response.raise_for_status()
        answers: list[dict[str, Any]] = response.json()["answers"]
        return answers


def _data_uri(picture: Image.Image) -> str:
    file = BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# ---- questions ----


def _with_one_shape(scene: Scene) -> bool:
    return len(scene.shapes) == 1


def _with_shapes(scene: Scene) -> bool:
    return any(_is_unique(scene, "kind", shape.kind) for shape in scene.shapes) and any(
        _is_unique(scene, "colour", shape.colour) for shape in scene.shapes
    )


def _is_unique(scene: Scene, what: str, value: str) -> bool:
    return [getattr(shape, what) for shape in scene.shapes].count(value) == 1


def _choice(kind: str, question: str, values: Sequence[str], truth: str, **fields: Any) -> Asked:
    choices = [{"value": value} for value in values]
    asked = {"type": "choice", "instructions": question, "choices": choices, **fields}
    return Asked(kind, asked, truth)


def _shown_questions(rng: random.Random, scene: Scene) -> list[Asked]:
    """With options that the model sees, and names that it knows as keys of JSON."""
    (shape,) = scene.shapes
    return [
        _choice("colour", f"What color is the {shape.kind}?", COLOURS, shape.colour, name="colour"),
        _choice(
            "shape", f"What shape is the {shape.colour} object?", SHAPES, shape.kind, name="shape"
        ),
    ]


def _whole_answers(rng: random.Random, scene: Scene) -> list[Asked]:
    """With options that are the model's own sentences, which it does not see."""
    by_kind = rng.choice([s for s in scene.shapes if _is_unique(scene, "kind", s.kind)])
    by_colour = rng.choice([s for s in scene.shapes if _is_unique(scene, "colour", s.colour)])
    present = {(shape.colour, shape.kind) for shape in scene.shapes}
    thing = rng.choice(sorted(present))
    if rng.random() < 0.5:
        thing = rng.choice([(c, k) for c in COLOURS for k in SHAPES if (c, k) not in present])
    name = " ".join(thing)
    yes, no = f"Yes, there is {article(name)}.", f"No, there is no {name}."
    counts = ("There are no shapes.", "There is 1 shape.", "There are 2 shapes.",
              "There are 3 shapes.")  # fmt: skip
    hidden = {"show_options": False}
    return [
        _choice(
            "colour",
            f"What color is the {by_kind.kind}?",
            [f"The {by_kind.kind} is {colour}." for colour in COLOURS],
            f"The {by_kind.kind} is {by_kind.colour}.",
            **hidden,
        ),
        _choice(
            "shape",
            f"What shape is the {by_colour.colour} object?",
            [f"The {by_colour.colour} shape is a {kind}." for kind in SHAPES],
            f"The {by_colour.colour} shape is a {by_colour.kind}.",
            **hidden,
        ),
        _choice(
            "background",
            "What color is the background?",
            [f"The background is {colour}." for colour in BACKGROUNDS],
            f"The background is {scene.background}.",
            **hidden,
        ),
        _choice(
            "yes or no",
            f"Is there {article(name)}?",
            [yes, no],
            yes if thing in present else no,
            **hidden,
        ),
        Asked(
            "count (score)",
            {
                "type": "score",
                "instructions": "How many shapes are there?",
                "levels": [{"label": count} for count in counts],
                **hidden,
            },
            counts[len(scene.shapes)],
        ),
    ]


def _evaluate(
    client: Client,
    count: int,
    questions: Callable[[random.Random, Scene], list[Asked]],
    fits: Callable[[Scene], bool],
) -> list[Outcome]:
    rng, done, outcomes = random.Random(SEED), 0, list[Outcome]()
    while done < count:
        picture, scene = draw_picture(rng)
        if not fits(scene):
            continue
        done += 1
        asked = questions(rng, scene)
        answers = client.ask(_data_uri(picture), [one.question for one in asked])
        for one, answer in zip(asked, answers, strict=True):
            key = "value" if answer["type"] == "choice" else "label"
            names = [option[key] for option in answer["probabilities"]]
            found = [option["probability"] for option in answer["probabilities"]]
            outcomes.append(Outcome(one.kind, found, names.index(one.truth)))
    return outcomes


# ---- cost ----


def _costs(client: Client, rounds: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of one and of ten questions about a new picture each, by turns; medians."""
    shown: list[Question] = [
        {
            "type": "choice",
            "name": f"colour{number}",
            "instructions": f"What color is the {SHAPES[number % 4]}?",
            "choices": [{"value": colour} for colour in COLOURS[: 3 + number % 6]],
        }
        for number in range(10)
    ]
    predicates: list[Question] = [
        {"type": "predicate", "instructions": f"There is a {colour} {kind}."}
        for colour, kind in zip(COLOURS + COLOURS[:2], SHAPES * 3, strict=False)
    ]
    hidden: list[Question] = [
        {
            "type": "choice",
            "instructions": f"What color is the {SHAPES[number % 4]}?",
            "choices": [
                {"value": f"The {SHAPES[number % 4]} is {colour}."}
                for colour in COLOURS[: 3 + number % 6]
            ],
            "show_options": False,
        }
        for number in range(10)
    ]
    kinds = {"choices of 3 to 8": shown, "predicates": predicates, "choices, not shown": hidden}
    rng, costs = random.Random(SEED + 1), dict[str, tuple[float, float]]()
    for kind, ten in kinds.items():
        one_times, ten_times = list[float](), list[float]()
        for number in range(rounds):
            for asked, times in (([ten[number % 10]], one_times), (ten, ten_times)):
                picture = _data_uri(draw_picture(rng)[0])
                began = time.perf_counter()
                client.ask(picture, asked)
                times.append(1000 * (time.perf_counter() - began))
        costs[kind] = statistics.median(one_times), statistics.median(ten_times)
    return costs


# ---- the page ----


def _bins(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """By confidence, in equal intervals."""
    bins: list[list[Outcome]] = [[] for _ in range(BINS)]
    for outcome in outcomes:
        bins[min(BINS - 1, int(outcome.confidence * BINS))].append(outcome)
    return bins


def calibration_error(outcomes: Sequence[Outcome]) -> float:
    """Expected calibration error (Naeini et al., 2015): by how much the share of right answers
    differs from the mean confidence, over ten equal intervals, weighted by their answers."""
    return sum(
        abs(_mean([one.is_right for one in some]) - _mean([one.confidence for one in some]))
        * len(some)
        / len(outcomes)
        for some in _bins(outcomes)
        if some
    )


def brier_score(outcomes: Sequence[Outcome]) -> float:
    """Mean squared distance of the probabilities from the truth; 0 is best, 2 worst."""
    return _mean(
        [
            sum((p - (i == one.truth)) ** 2 for i, p in enumerate(one.probabilities))
            for one in outcomes
        ]
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _accuracy_rows(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    kinds: Mapping[str, list[Outcome]] = {
        kind: [one for one in outcomes if one.kind == kind]
        for kind in dict.fromkeys(one.kind for one in outcomes)
    }
    return [
        f"| {name} | {kind} | {len(own)} | {100 * _mean([o.is_right for o in own]):.1f} % "
        f"| {_mean([o.confidence for o in own]):.3f} | {calibration_error(own):.3f} "
        f"| {brier_score(own):.3f} |"
        for kind, own in {**kinds, "all": list(outcomes)}.items()
    ]


def _reliability_rows(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    return [
        f"| {name} | {number / BINS:.1f} to {(number + 1) / BINS:.1f} | {len(some)} "
        f"| {_mean([one.confidence for one in some]):.3f} "
        f"| {_mean([one.is_right for one in some]):.3f} |"
        for number, some in enumerate(_bins(outcomes))
        if some
    ]


def _write(
    arguments: argparse.Namespace,
    shown: Sequence[Outcome],
    whole: Sequence[Outcome],
    costs: Mapping[str, tuple[float, float]],
) -> None:
    names = {"shown": shown, "not shown": whole}
    diagonal = [(number / 10, number / 10) for number in range(11)]
    series = {
        name: [
            (_mean([o.confidence for o in some]), _mean([o.is_right for o in some]))
            for some in _bins(outcomes)
            if some
        ]
        for name, outcomes in names.items()
    }
    panel = Panel(
        "Reliability", "share of right answers", {"calibrated": diagonal, **series},
        over="confidence",
    )  # fmt: skip
    table = [
        "| options | question | questions | right | mean confidence | calibration error | Brier |",
        "|---|---|---|---|---|---|---|",
        *(row for name, outcomes in names.items() for row in _accuracy_rows(name, outcomes)),
        "",
        "| options | confidence | questions | mean confidence | right |",
        "|---|---|---|---|---|",
        *(row for name, outcomes in names.items() for row in _reliability_rows(name, outcomes)),
        "",
        "| ten questions | one: ms | ten: ms | ten / one |",
        "|---|---|---|---|",
        *(
            f"| {kind} | {one:.1f} | {ten:.1f} | {ten / one:.2f} |"
            for kind, (one, ten) in costs.items()
        ),
    ]
    report(
        arguments.page,
        "Decisions",
        f"demo checkpoint, float32, {arguments.pictures} pictures, over HTTP",
        _EXPLANATION,
        table,
        [panel],
    )


_EXPLANATION = """\
`python -m benchmarks.decisions`. Pictures of the kind that the demo checkpoint was trained on, from
other seeds.

- **shown**: pictures with one shape, the questions named `colour` and `shape`, plain values as
  options, which the model sees (the default). The checkpoint was never trained on lists of options;
  it knows these names as keys of JSON, for pictures with one shape.
- **not shown**: pictures with one to three shapes, and the checkpoint's own sentences as options,
  with `show_options: false`.
- **Calibration error** is the expected calibration error over ten intervals of confidence. The
  probabilities are the model's own: no temperature was fitted.
- **Cost**: medians of requests with one question and with ten, by turns, each about a new picture.
  Other work ran beside it on this machine, so only the ratios mean something. A picture of this
  checkpoint has 16 to 25 tokens, and its tokenizer writes most words letter by letter: with a
  picture of a thousand tokens the ratio is closer to 1.
"""


if __name__ == "__main__":
    main()
