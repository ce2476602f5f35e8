# mypy: ignore-errors
"""lm-eval's local-completions: log-likelihoods of continuations, and text until a stop."""

from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

from clients.common import BASE, MODEL, ok

model = LocalCompletionsAPI(
    model=MODEL,
    base_url=f"{BASE}/v1/completions",
    tokenizer_backend="huggingface",
    tokenizer=str(Path(__file__).parents[2] / "demo_model" / "checkpoint"),
    num_concurrent=1,
    max_retries=1,
    max_length=2048,
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
for likelihood, greedy in model.loglikelihood(asked("loglikelihood", *pairs)):
    assert likelihood < 0 and isinstance(greedy, bool)
(rolling,) = model.loglikelihood_rolling(asked("loglikelihood_rolling", ("The weather in Paris.",)))
assert rolling < 0
until = {"until": ["."], "max_gen_toks": 16, "temperature": 0}
(text,) = model.generate_until(asked("generate_until", ("The weather in Paris is", until)))
assert "." not in text

ok("lm-eval", "lm_eval")
