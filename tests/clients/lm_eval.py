# mypy: ignore-errors
"""lm-eval's local-completions: log-likelihoods of continuations, and text until a stop; with the
checkpoint's tokenizer, and with the server's."""

from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from clients.common import BASE, MODEL, ok

CHECKPOINT = str(Path(__file__).parents[2] / "demo_model" / "checkpoint")
TOKENIZERS = (
    {"tokenizer_backend": "huggingface", "tokenizer": CHECKPOINT},
    {"tokenizer_backend": "remote"},
)


def asked(kind: str, *arguments: tuple) -> list[Instance]:
    return [
        Instance(request_type=kind, doc={}, arguments=argument, idx=number)
        for number, argument in enumerate(arguments)
    ]


pairs = (
    ("The weather in Paris is", " sunny."),
    ("The weather in Paris is", " xyzzy."),
    ("A red", " star."),
)
until = {"until": ["."], "max_gen_toks": 16, "temperature": 0}
told = []
for tokenizer in TOKENIZERS:
    model = LocalCompletionsAPI(
        model=MODEL,
        base_url=f"{BASE}/v1/completions",
        num_concurrent=1,
        max_retries=1,
        max_length=2048,
        **tokenizer,
    )
    likely = model.loglikelihood(asked("loglikelihood", *pairs))
    assert all(one < 0 and isinstance(greedy, bool) for one, greedy in likely)
    rolling = model.loglikelihood_rolling(
        asked("loglikelihood_rolling", ("The weather in Paris.",))
    )
    assert rolling[0] < 0
    (text,) = model.generate_until(asked("generate_until", ("The weather in Paris is", until)))
    assert "." not in text
    told.append(([round(one, 3) for one, _ in likely], round(rolling[0], 3), text))
assert told[0] == told[1], told

ok("lm-eval", "lm_eval")
