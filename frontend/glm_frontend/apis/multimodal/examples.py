"""Requests to try from ``/docs``."""

from typing import Any

from glm_frontend.apis.shared.examples import RED_DISC

MULTIMODAL_EXAMPLES: dict[str, Any] = {
    "picture": {
        "summary": "One picture",
        "value": {"prompt": "What is in this image?", "images": [RED_DISC]},
    },
    "text": {"summary": "Text only", "value": {"prompt": "Who are you?", "max_tokens": 64}},
}
