"""Requests to try from ``/docs``."""

from typing import Any

COMPLETION_EXAMPLES: dict[str, Any] = {
    "text": {
        "summary": "A prompt as the model reads it",
        "value": {
            "model": "glm-4.6v-flash",
            "prompt": "[gMASK]<sop><|user|>\nWho are you?/nothink<|assistant|>\n<think></think>\n",
            "max_tokens": 32,
            "temperature": 0,
        },
    },
    "several": {
        "summary": "Two prompts, streamed",
        "value": {
            "model": "glm-4.6v-flash",
            "prompt": ["A red circle and", "The number"],
            "max_tokens": 8,
            "stream": True,
        },
    },
}
