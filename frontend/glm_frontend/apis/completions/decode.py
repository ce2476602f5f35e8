"""From a checked completion request to one request of all APIs for each of its prompts."""

from glm_frontend.apis.completions.schema import CompletionRequest
from glm_frontend.core.request import AnswerRequest, of_prompt


def decode(body: CompletionRequest) -> list[AnswerRequest]:
    """The requests that ``body`` makes, in the order of its prompts."""
    requests = []
    for path, prompt in body.prompts():
        name = "prompt" if isinstance(prompt, str) else "prompt_token_ids"
        requests.append(
            of_prompt(
                {name: prompt},
                {name: path} | body.renamed(),
                sampling_parameters=body.sampling_parameters(),
                cache_salt=body.cache_salt or "",
                is_raw=True,
                echo=bool(body.echo),
                has_no_answer=body.has_no_answer,
            )
        )
    return requests
