"""Requests to try from ``/docs``."""

from typing import Any

from glm_frontend.apis.shared.examples import RED_DISC

RESPONSES_EXAMPLES: dict[str, Any] = {
    "picture": {
        "summary": "What is in this image?",
        "value": {
            "model": "glm-4.6v-flash",
            "instructions": "Answer in one sentence.",
            "input": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "What is in this image?"},
                        {"type": "input_image", "image_url": RED_DISC},
                    ],
                }
            ],
        },
    },
    "stream": {
        "summary": "Streamed, without a thought",
        "value": {
            "model": "glm-4.6v-flash",
            "input": "Who are you?",
            "reasoning": {"effort": "none"},
            "max_output_tokens": 64,
            "stream": True,
        },
    },
    "turns": {
        "summary": "A question about an earlier answer, with log probabilities",
        "value": {
            "model": "glm-4.6v-flash",
            "input": [
                {"role": "user", "content": [{"type": "input_image", "image_url": RED_DISC}]},
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "A disc."}]},
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "A red disc."}],
                },
                {"role": "user", "content": "What colour is it?"},
            ],
            "include": ["message.output_text.logprobs"],
            "top_logprobs": 2,
        },
    },
    "tools": {
        "summary": "The result of a call",
        "value": {
            "model": "glm-4.6v-flash",
            "input": [
                {"role": "user", "content": "What is the weather in Paris?"},
                {
                    "type": "function_call",
                    "call_id": "call_1",
                    "name": "weather",
                    "arguments": '{"city": "Paris"}',
                },
                {"type": "function_call_output", "call_id": "call_1", "output": "Rain, 12 C."},
            ],
            "tools": [
                {
                    "type": "function",
                    "name": "weather",
                    "description": "The weather of the next days.",
                    "parameters": {
                        "type": "object",
                        "properties": {"city": {"type": "string"}},
                        "required": ["city"],
                    },
                }
            ],
        },
    },
}

COMPACT_EXAMPLES: dict[str, Any] = {
    "conversation": {
        "summary": "Two turns",
        "value": {
            "model": "glm-4.6v-flash",
            "input": [
                {"role": "user", "content": "We launch on Tuesday and tell support first."},
                {"role": "assistant", "content": "Understood."},
            ],
        },
    },
}
