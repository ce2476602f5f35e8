"""Requests to try from ``/docs``."""

from typing import Any

from glm_frontend.apis.shared.examples import RED_DISC, question

TOKENIZE_EXAMPLES: dict[str, Any] = {
    "text": {"summary": "A text", "value": {"prompt": "A red circle.", "return_token_strs": True}},
    "conversation": {
        "summary": "A conversation with a picture",
        "value": {"messages": question("What is in this image?", RED_DISC)},
    },
}

DETOKENIZE_EXAMPLES: dict[str, Any] = {
    "tokens": {"summary": "Some tokens", "value": {"tokens": [2, 4, 7]}},
}
