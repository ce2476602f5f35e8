"""Requests to try from ``/docs``."""

from typing import Any

from glm_frontend.apis.shared.examples import RED_DISC

MESSAGES_EXAMPLES: dict[str, Any] = {
    "picture": {
        "summary": "What is in this image?",
        "value": {
            "model": "glm-4.6v-flash",
            "max_tokens": 128,
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {
                                "type": "base64",
                                "media_type": "image/png",
                                "data": RED_DISC.partition(",")[2],
                            },
                        },
                        {"type": "text", "text": "What is in this image?"},
                    ],
                }
            ],
        },
    },
    "stream": {
        "summary": "Streamed, with a thought",
        "value": {
            "model": "glm-4.6v-flash",
            "max_tokens": 512,
            "system": "Be brief.",
            "messages": [{"role": "user", "content": "Who are you?"}],
            "thinking": {"type": "enabled", "budget_tokens": 256},
            "stream": True,
        },
    },
    "tools": {
        "summary": "The result of a tool goes back",
        "value": {
            "model": "glm-4.6v-flash",
            "max_tokens": 128,
            "messages": [
                {"role": "user", "content": "What is the weather in Paris?"},
                {
                    "role": "assistant",
                    "content": [
                        {
                            "type": "tool_use",
                            "id": "call_1",
                            "name": "weather",
                            "input": {"city": "Paris"},
                        }
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "call_1", "content": "Rain, 12 °C"}
                    ],
                },
            ],
            "tools": [
                {
                    "name": "weather",
                    "description": "The weather of today.",
                    "input_schema": {
                        "type": "object",
                        "properties": {"city": {"type": "string"}},
                        "required": ["city"],
                    },
                }
            ],
        },
    },
}

COUNT_TOKENS_EXAMPLES: dict[str, Any] = {
    "text": {
        "summary": "A question",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": [{"role": "user", "content": "Who are you?"}],
        },
    },
}
