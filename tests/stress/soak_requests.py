"""What a soak test asks: requests of many kinds, each with what its answer must be.

An answer is known beforehand in one of two ways, whatever the checkpoint: a picture's is what the
server said of it when it was alone, and a marker that no other request has is the only text, or the
only argument, that a grammar leaves to the model.
"""

import base64
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from PIL import Image, ImageDraw

from glm_client import GenerationDelta, GenerationRequest
from tools.exchange import Exchange
from tools.report import ROOT

PICTURES = ROOT / "tests/e2e/pictures"
CHAT = "/v1/chat/completions"
QUESTION = "What is in this image?"
SYSTEM = "You look at pictures and say what is in them, in one short sentence. " * 8
# Long enough that a client can leave in the middle of it.
LONG = {"ignore_eos": True, "max_tokens": 600}
REQUEST_ID = "x-request-id"


class Wrong(Exception):
    """A response is not what it must be."""


@dataclass
class Choice:
    """One answer: its text, the arguments of its calls, and why it ended."""

    text: str = ""
    arguments: str = ""
    finish_reason: str = ""


Reply = Sequence[Choice]
Check = Callable[[Reply], None]


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        sent: the body of a chat completion, or what the gRPC client sends straight to Triton.
        check: of the answers; raises Wrong.
        counted: the finish reason under which Triton counts it; empty if it never gets there.
        status: of the response; 0 for gRPC's INVALID_ARGUMENT.
        patience: seconds after which the client leaves.
    """

    kind: str
    id: str
    sent: bytes | GenerationRequest
    check: Check
    counted: str
    status: int = 200
    patience: float | None = None


@dataclass(frozen=True)
class Question:
    """What is asked about known pictures.

    Attributes:
        pictures: files of the folder.
        side: of each picture in pixels; 0: as they are.
        form: "one" turn, several "turns" after the same beginning, or a "video" of the pictures.
    """

    pictures: tuple[str, ...]
    side: int = 0
    form: str = "one"

    @property
    def is_plain(self) -> bool:
        """Whether it is about one picture as it is."""
        return len(self.pictures) == 1 and not self.side


def _questions() -> list[Question]:
    names = sorted(path.name for path in PICTURES.iterdir() if path.suffix in (".png", ".jpg"))
    pairs = list(zip(names, [*names[3:], *names[:3]], strict=True))
    return [
        *(Question((name,)) for name in names),
        *(Question((name,), side) for side in (64, 300, 720) for name in names[:4]),
        *(Question(pair) for pair in pairs[:6]),
        Question(tuple(names[:5])),
        *(Question(pair, form="turns") for pair in pairs),
        *(Question(pair, 112, form="video") for pair in pairs[:2]),
    ]


class Mix:
    """Requests without end, the same for the same seed.

    Attributes:
        questions: all that may be asked about known pictures.
        truths: what their answers are; to be filled before ``next``.
    """

    def __init__(self, seed: int, model: str) -> None:
        self._random = random.Random(seed)
        self._model = model
        self._seed = seed
        self._count = 0
        self.questions = _questions()
        self.truths: dict[Question, Choice] = {}

    def lone(self, question: Question) -> bytes:
        """The body that asks a question for the first time."""
        return self._body(_conversation(question, b""), max_tokens=80)

    def next(self) -> Ask:
        """The next request."""
        self._count += 1
        kinds = {
            self._picture: 40, self._marker: 15, self._several: 4, self._call: 7, self._schema: 6,
            self._long: 3, self._direct: 7, self._bad: 10, self._bad_direct: 1, self._left: 6,
            self._left_direct: 1,
        }  # fmt: skip
        (kind,) = self._random.choices(list(kinds), list(kinds.values()))
        return kind(f"soak-{self._seed}-{self._count}")

    # ---- answers ----

    def _picture(self, name: str) -> Ask:
        question = self._random.choice(self.questions)
        is_new = self._random.random() < 0.3
        kind = {"one": "picture", "turns": "turns", "video": "video"}[question.form]
        if len(question.pictures) > 1 and question.form == "one":
            kind = "several pictures"
        # Bytes after a file's end: another file for every cache, and the same picture.
        messages = _conversation(question, name.encode() if is_new else b"")
        truth = self.truths[question]
        return Ask(
            f"{kind}, {'new' if is_new else 'known'}",
            name,
            self._body(messages, max_tokens=80, **self._stream()),
            _all_are(1, truth.text, truth.finish_reason),
            counted=truth.finish_reason,
        )

    def _marker(self, name: str) -> Ask:
        fields = self._structured(name, {"guided_choice": [name]})
        return Ask("choice", name, fields, _all_are(1, name, "stop"), counted="stop")

    def _several(self, name: str) -> Ask:
        count = self._random.randint(2, 6)
        fields = self._structured(name, {"guided_choice": [name], "n": count})
        return Ask("n answers", name, fields, _all_are(count, name, "stop"), counted="stop")

    def _call(self, name: str) -> Ask:
        parameters = {
            "type": "object",
            "properties": {"name": {"enum": [name]}},
            "required": ["name"],
            "additionalProperties": False,
        }
        tool = {"type": "function", "function": {"name": "save", "parameters": parameters}}
        fields = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}

        def check(reply: Reply) -> None:
            (choice,) = reply
            if choice.finish_reason != "tool_calls" or _json(choice.arguments) != {"name": name}:
                raise Wrong(f"not the call of {name}: {choice}")

        return Ask("call", name, self._structured(name, fields), check, counted="stop")

    def _schema(self, name: str) -> Ask:
        schema = {
            "type": "object",
            "properties": {"name": {"const": name}, "ok": {"type": "boolean"}},
            "required": ["name", "ok"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}

        def check(reply: Reply) -> None:
            (choice,) = reply
            if choice.finish_reason != "stop" or _json(choice.text).get("name") != name:
                raise Wrong(f"not the object of {name}: {choice}")

        fields = self._structured(name, {"response_format": form})
        return Ask("schema", name, fields, check, counted="stop")

    def _long(self, name: str) -> Ask:
        return Ask("long", name, self._long_body(name), _was_long, counted="length")

    def _direct(self, name: str) -> Ask:
        question = self._random.choice([one for one in self.questions if one.is_plain])
        (picture,) = question.pictures
        request = GenerationRequest(
            text_input=QUESTION,
            images=[_file(picture, question.side)],
            sampling_parameters={"max_tokens": 80, "temperature": 0},
            chat_template_kwargs={"enable_thinking": False},
            request_id=name,
        )
        truth = self.truths[question]

        def check(reply: Reply) -> None:
            (choice,) = reply
            if truth.text not in choice.text or choice.finish_reason != truth.finish_reason:
                raise Wrong(f"{truth.text!r} was expected: {choice}")

        return Ask("direct", name, request, check, counted=truth.finish_reason)

    # ---- those that go wrong ----

    def _bad(self, name: str) -> Ask:
        text = [{"role": "user", "content": "hello"}]
        no_picture = _turn(b"this is no picture", kind="image/png")
        bodies: dict[str, tuple[bytes, int, str]] = {
            "bad JSON": (b'{"model": ', 400, ""),
            "bad base64": (
                self._body([_turn(b"")]).replace(b";base64,", b";base64,%"), 400, "",
            ),
            "bad picture": (self._body([no_picture], **self._stream()), 400, "invalid"),
            "unsupported field": (self._body(text, use_beam_search=True), 400, ""),
            "bad value": (self._body(text, temperature=3), 400, ""),
            "wrong model": (self._body(text, model="gpt"), 404, ""),
            "too long": (
                self._body([{"role": "user", "content": "word " * 20_000}]), 400, "invalid",
            ),
            "too many tokens": (self._body(text, max_tokens=10**6), 400, "invalid"),
        }  # fmt: skip
        kind = self._random.choice(list(bodies))
        body, status, counted = bodies[kind]
        return Ask(kind, name, body, _never, counted, status)

    def _bad_direct(self, name: str) -> Ask:
        request = GenerationRequest(text_input="hi", images=[b"no picture"], request_id=name)
        return Ask("direct, bad picture", name, request, _never, counted="invalid", status=0)

    def _left(self, name: str) -> Ask:
        # Before the first byte, or anywhere in the answer.
        patience = self._random.choice([0.0, 0.01, 0.5, 4.0]) * self._random.random()
        body = self._long_body(name)
        return Ask("left", name, body, _was_long, counted="length", patience=patience)

    def _left_direct(self, name: str) -> Ask:
        request = GenerationRequest(text_input=name, sampling_parameters=LONG, request_id=name)
        patience = 3 * self._random.random()
        return Ask("direct, left", name, request, _was_long, counted="length", patience=patience)

    # ---- parts of them ----

    def _stream(self) -> dict[str, Any]:
        return {"stream": True} if self._random.random() < 0.6 else {}

    def _body(self, messages: Any, **fields: Any) -> bytes:
        body = {"model": self._model, "messages": messages, "temperature": 0, **fields}
        return json.dumps(body).encode()

    def _structured(self, name: str, fields: dict[str, Any]) -> bytes:
        messages = [{"role": "user", "content": f"My name is {name}. Say it."}]
        no_thought = {"chat_template_kwargs": {"enable_thinking": False}}
        sampled = {"temperature": 1.0, "seed": self._count, "max_tokens": 300}
        return self._body(messages, **sampled, **no_thought, **fields, **self._stream())

    def _long_body(self, name: str) -> bytes:
        return self._body([{"role": "user", "content": name}], **LONG, **self._stream())


def read_http(exchange: Exchange) -> Reply:
    """The answers in a whole chat completion or in the stream of one.

    Raises:
        Wrong: it is not well-formed, is cut off, or has an answer that ends twice or not at all.
    """
    if not exchange.headers["content-type"].startswith("text/event-stream"):
        choices = _json(exchange.body)["choices"]
        return [_add(Choice(), one["message"], one["finish_reason"]) for one in choices]
    *events, done, nothing = exchange.body.decode().split("\n\n")
    if (done, nothing) != ("data: [DONE]", ""):
        raise Wrong(f"a stream that ends in {bytes(exchange.body[-200:])!r}")
    reply: dict[int, Choice] = {}
    for event in events:
        chunk = _json(event.removeprefix("data: "))
        if "error" in chunk:
            raise Wrong(f"an error in the stream: {chunk}")
        for one in chunk["choices"]:
            choice = reply.setdefault(one["index"], Choice())
            if choice.finish_reason:
                raise Wrong(f"something after the end of an answer: {event}")
            _add(choice, one["delta"], one["finish_reason"])
    if not all(choice.finish_reason for choice in reply.values()):
        raise Wrong("a stream without a finish reason")
    return [reply[index] for index in sorted(reply)]


def read_deltas(deltas: Sequence[GenerationDelta]) -> Reply:
    """The answer in what the gRPC client gives."""
    reasons = [delta.finish_reason for delta in deltas if delta.finish_reason]
    if len(reasons) != 1 or not deltas[-1].finish_reason:
        raise Wrong(f"finish reasons {reasons}")
    return [Choice("".join(delta.text for delta in deltas), finish_reason=reasons[0])]


@dataclass
class Books:
    """What became of every request.

    Attributes:
        ends: by kind of request and of end.
        counted: of those answered or refused, by the finish reason that Triton counts.
        faults: what must not be.
        left: requests whose client left, and those of them that had a first byte.
    """

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    counted: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    left: int = 0
    left_late: int = 0

    def differences(self, gained: dict[str, float]) -> list[str]:
        """Where Triton's counts of requests, by finish reason, disagree.

        A client that left early may never have been noticed; one that left late, or whose answer
        was complete when the server heard of it, was counted as cancelled or as answered in full.
        """
        found = []
        for reason in ("stop", "invalid", "unavailable", "error"):
            if gained[reason] != self.counted[reason]:
                found.append(
                    f"{reason}: Triton counts {gained[reason]:g}, clients {self.counted[reason]}"
                )
        gone = gained["cancelled"] + gained["length"] - self.counted["length"]
        if gained["length"] < self.counted["length"] or not self.left_late <= gone <= self.left:
            found.append(
                f"length {gained['length']:g}, cancelled {gained['cancelled']:g}; clients: length "
                f"{self.counted['length']}, left {self.left}, {self.left_late} in the answer"
            )
        if gained["rejected"] > self.counted["rejected"]:
            found.append(
                f"rejected: Triton counts {gained['rejected']:g}, "
                f"clients at most {self.counted['rejected']}"
            )
        return found


def _add(choice: Choice, piece: dict[str, Any], finish_reason: str | None) -> Choice:
    choice.text += piece.get("content") or ""
    for call in piece.get("tool_calls") or []:
        choice.arguments += call["function"].get("arguments", "")
    choice.finish_reason = finish_reason or ""
    return choice


def _all_are(count: int, text: str, finish_reason: str) -> Check:
    def check(reply: Reply) -> None:
        if [(one.text, one.finish_reason) for one in reply] != [(text, finish_reason)] * count:
            raise Wrong(f"{count} x {text!r} ({finish_reason}) was expected: {reply}")

    return check


def _was_long(reply: Reply) -> None:
    (choice,) = reply
    if choice.finish_reason != "length":
        raise Wrong(f"length was expected: {choice.finish_reason}")


def _never(reply: Reply) -> None:
    raise Wrong(f"an error was expected: {reply}")


def _json(text: str | bytes | bytearray) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Wrong(f"no JSON ({error}): {text[:200]!r}") from None


def _conversation(question: Question, salt: bytes) -> list[dict[str, Any]]:
    files = [_file(name, question.side) + salt for name in question.pictures]
    if question.form == "video":
        return [_turn(_film(question) + salt, part="video_url", kind="image/gif")]
    if question.form == "one":
        return [_turn(*files)]
    first, second = files
    # The first picture is always the same file: a beginning that requests share.
    beginning = [
        {"role": "system", "content": SYSTEM},
        _turn(first.removesuffix(salt)),
        {"role": "assistant", "content": "Yes."},
    ]
    return [*beginning, _turn(second)]


def _turn(*files: bytes, part: str = "image_url", kind: str = "image/png") -> dict[str, Any]:
    uris = (f"data:{kind};base64," + base64.b64encode(file).decode() for file in files)
    content = [{"type": part, part: {"url": uri}} for uri in uris]
    return {"role": "user", "content": [*content, {"type": "text", "text": QUESTION}]}


@cache
def _file(name: str, side: int) -> bytes:
    if not side:
        return (PICTURES / name).read_bytes()
    buffer = io.BytesIO()
    with Image.open(PICTURES / name) as image:
        image.convert("RGB").resize((side, side)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@cache
def _film(question: Question) -> bytes:
    """Two seconds of the pictures, one after the other, with a line that moves."""
    frames = []
    for index in range(8):
        name = question.pictures[index * len(question.pictures) // 8]
        image = Image.open(io.BytesIO(_file(name, question.side)))
        ImageDraw.Draw(image).line((0, 9 * index, question.side, 9 * index), "black", 2)
        frames.append(image)
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=250)
    return buffer.getvalue()
