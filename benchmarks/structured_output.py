"""``make bench-structured``: token masks by llguidance beside xgrammar, at GLM-4.6V's vocabulary.

For each schema a document of it is fed token by token, the mask computed before each: as the engine
does in every step. The vocabulary is a byte-level BPE of the published size, trained on the Python
files of this environment (half a minute) and kept in ``build/``.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from glm_engine.request import Prompt, SamplingParams, StructuredOutputs
from glm_engine.structured_output import Grammars, allowed_tokens
from tools.report import ROOT, report

VOCABULARY = 151_552  # rows of GLM-4.6V-Flash's logits
END = "<|endoftext|>"
FILE = ROOT / "build" / "large-tokenizer.json"
CORPUS_BYTES = 120_000_000
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

ADDRESS = {"street": "12 Long Acre, 2nd floor", "city": "München", "zip": "80331"}
PLACE = {
    "type": "object",
    "properties": {
        "street": {"type": "string"},
        "city": {"type": "string"},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
    },
    "required": ["street", "city", "zip"],
    "additionalProperties": False,
}
ITEM = {
    "type": "object",
    "properties": {
        "description": {"type": "string", "maxLength": 200},
        "quantity": {"type": "integer"},
        "unit_price": {"type": "number"},
        "vat": {"anyOf": [{"type": "number"}, {"type": "null"}]},
    },
    "required": ["description", "quantity", "unit_price", "vat"],
    "additionalProperties": False,
}
INVOICE = {
    "$defs": {"item": ITEM, "place": PLACE},
    "type": "object",
    "properties": {
        "number": {"type": "string"},
        "seller": {"$ref": "#/$defs/place"},
        "buyer": {"$ref": "#/$defs/place"},
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 1},
        "total": {"type": "number"},
    },
    "required": ["number", "seller", "buyer", "items", "total"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["human", "robot", "other"]},
    },
    "required": ["name", "age", "tags", "kind"],
    "additionalProperties": False,
}
CASES: dict[str, tuple[Any, Any]] = {
    "person": (
        PERSON,
        {"name": "Ada Lovelace", "age": 36, "tags": ["engines", "poetry"], "kind": "human"},
    ),
    "invoice": (
        INVOICE,
        {
            "number": "2026/117",
            "seller": ADDRESS,
            "buyer": ADDRESS,
            "items": [
                {"description": f"Article {i}, blue, with a long description of it",
                 "quantity": i, "unit_price": 12.5, "vat": None}
                for i in range(8)
            ],
            "total": 450.0,
        },
    ),
    "any object": ({"type": "object"}, {"a": [1, 2, {"b": 'with "quotes"'}], "c": ["red"] * 9}),
}  # fmt: skip


def tokenizer() -> Tokenizer:
    """A byte-level BPE with the vocabulary of the real model."""
    if FILE.exists():
        return Tokenizer.from_file(str(FILE))
    print("training a large vocabulary ...", file=sys.stderr)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=40,
    )
    made.train_from_iterator(_texts(), trainer)
    FILE.parent.mkdir(exist_ok=True)
    made.save(str(FILE))
    return made


def _texts() -> Iterator[str]:
    left = CORPUS_BYTES
    for file in sorted(Path(sys.prefix).rglob("*.py")):
        if left > 0 and file.stat().st_size < 200_000:
            left -= file.stat().st_size
            yield file.read_text(encoding="utf-8", errors="replace")


@dataclass(frozen=True)
class Timings:
    """Seconds: to begin with a schema that is new, and for the mask of each token."""

    compile: float
    masks: list[float]

    def row(self, name: str, library: str) -> str:
        """A line of the table."""
        masks = sorted(self.masks)
        cells = [
            name,
            library,
            f"{len(masks)}",
            f"{1e3 * self.compile:.1f}",
            f"{1e6 * statistics.median(masks):.0f}",
            f"{1e6 * masks[int(0.99 * len(masks))]:.0f}",
            f"{1e6 * masks[-1]:.0f}",
        ]
        return f"| {' | '.join(cells)} |"


Library = Callable[[Any, list[int]], Timings]


def ours(made: Tokenizer) -> Library:
    """llguidance as the engine uses it, the mask as a tensor included."""
    end = made.token_to_id(END)
    assert end is not None
    grammars = Grammars(json.loads(made.to_str()), VOCABULARY, frozenset({end}), None)
    empty = Prompt("messages", np.zeros(0, np.int32), np.zeros((3, 0), np.int32), 0)

    def run(schema: Any, token_ids: list[int]) -> Timings:
        params = SamplingParams(structured_outputs=StructuredOutputs("json", schema))
        began = time.perf_counter()
        guide = grammars.compile(params, [], empty)
        assert guide is not None
        compiled, masks = time.perf_counter() - began, []
        for token_id in token_ids:
            began = time.perf_counter()
            mask = allowed_tokens([guide], VOCABULARY, torch.device("cpu"))
            masks.append(time.perf_counter() - began)
            assert mask[0, token_id]
            guide.accept(token_id)
        return Timings(compiled, masks)

    return run


def llguidance(made: Tokenizer) -> Library:
    """llguidance alone."""
    import llguidance
    from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

    tokens = llguidance.LLTokenizer(made.to_str(), n_vocab=VOCABULARY)

    def run(schema: Any, token_ids: list[int]) -> Timings:
        began = time.perf_counter()
        grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
        matcher = llguidance.LLMatcher(tokens, grammar)
        compiled = time.perf_counter() - began
        mask = allocate_token_bitmask(1, VOCABULARY)
        return Timings(
            compiled,
            _masks(
                token_ids,
                lambda: fill_next_token_bitmask(matcher, mask),
                matcher.consume_token,
            ),
        )

    return run


def xgrammar(made: Tokenizer) -> Library:
    """xgrammar, with one thread as llguidance has."""
    import xgrammar

    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)
    info = xgrammar.TokenizerInfo.from_huggingface(wrapped, vocab_size=VOCABULARY)

    def run(schema: Any, token_ids: list[int]) -> Timings:
        compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        began = time.perf_counter()
        matcher = xgrammar.GrammarMatcher(compiler.compile_json_schema(json.dumps(schema)))
        compiled = time.perf_counter() - began
        mask = xgrammar.allocate_token_bitmask(1, VOCABULARY)
        return Timings(
            compiled,
            _masks(token_ids, lambda: matcher.fill_next_token_bitmask(mask), matcher.accept_token),
        )

    return run


def _masks(
    token_ids: list[int], fill: Callable[[], Any], accept: Callable[[int], bool]
) -> list[float]:
    masks = []
    for token_id in token_ids:
        began = time.perf_counter()
        fill()
        masks.append(time.perf_counter() - began)
        assert accept(token_id)
    return masks


def main() -> None:
    """Measure, print, and write the page."""
    torch.set_num_threads(1)
    made = tokenizer()
    table = [
        "| document | masks by | tokens | compile (ms) | mask p50 (µs) | p99 | most |",
        "|---|---|---|---|---|---|---|",
    ]
    libraries: dict[str, Library] = {}
    starts = []
    for name, begin in (
        ("the engine", ours),
        ("llguidance", llguidance),
        ("xgrammar", xgrammar),
    ):
        began = time.perf_counter()
        libraries[name] = begin(made)
        starts.append(f"{name} {time.perf_counter() - began:.1f} s")
    for case, (schema, document) in CASES.items():
        text = json.dumps(document, ensure_ascii=False)
        token_ids = made.encode(text, add_special_tokens=False).ids
        for name, run in libraries.items():
            table.append(run(schema, token_ids).row(case, name))
    report(
        ROOT / "benchmarks" / "results" / "structured_output.md",
        "Token masks of structured output",
        f"vocabulary of {VOCABULARY:,} tokens, one thread",
        "Each schema is new to each library; the mask is computed before every token of a "
        f"document. With the vocabulary, start-up takes: {', '.join(starts)}. `the engine` is "
        "llguidance with our checks, and the mask unpacked to a tensor.\n",
        table,
    )


if __name__ == "__main__":
    main()
