"""Requests to try from ``/docs``. Pictures and video are tiny, but real."""

from typing import Any

# A pixel, and a red disc on white of 64 x 64.
_PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8/5+hHgAHggJ/"
    "PchI7wAAAABJRU5ErkJggg=="
)
_RED_DISC = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAABlBMVEX////cHh7/Hx2WAAAA"
    "gElEQVR42r3QsQ2DQBBE0cdCQGAZSsAduANTEiVQGqVQAiEB8jm4wFi6xAkTjfbPajXLteo2BKZ7HtQpLQQNA0FLT/DkRjAS"
    "eQtUJFRCBbPIcPxmTqaBoYha6IvoL7PDVkQHrEX0huVcx0z6PbHIOV1KG8FONgcrNcnrcXrvlfoAVy4aHSoIu8MAAAAASUVO"
    "RK5CYII="
)
# A second of the disc: it moves to the right.
_MOVING_DISC = (
    "data:image/gif;base64,R0lGODlhQABAAIEAAP///9weHgAAAAAAACH/C05FVFNDQVBFMi4wAwEAAAAh+QQAMgAAACwA"
    "AAAAQABAAAAIvQABCBxIsKDBgwgTKlzIsKHDhxAjSpxIsaLFixgzatzIsaPHjyBDihxJsqTJkyhTqlwYoKXLlisVvpw5My"
    "ZBmjhrxszJ06XKnkB9mgxKNEDJokVJIiU6cmlSkE6RQo3K1CNVqR2vPuWoterGrlszgvUqdixQrmZ7ok2bcy1bmm7fvowr"
    "Fybdt1brCr3L9qNeo371hqzbtG/htEfNnhz7k6rNqDYHho0sGSfly5gza97MubPnz6BDix5NunTpgAAh+QQBMgACACwEAA"
    "4AOAAkAIH////cHh4AAAAAAAAI1gAFCBxIkCCAgwgPFlwoIIDDhw4ZSpwoIKFFiwshatRIkeLFjxgbbhwJseNCkCgRklz5"
    "0KTAlCkJsmTZESbKjDNJTrQJUmJOnQx5fvT5c2NQoSGJFi1pEGlCk0s5DnT6tGNUphWpKnR5tWVWrS5Fdn2pFUDYrhHLmg"
    "0r9qpatm2jvmWLNsDcs2jvcs1bFm5dvVD5gqWL9itVvGMNO0V8lezgwIkVI4XceGpfq4WbPmZY9+hmmZlPXsYZWfTnuEtr"
    "jkZdNKzaznAHl47Nk/RMuDuHYjbqMiAAOw=="
)


def _question(text: str, picture: str) -> list[dict[str, Any]]:
    return [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": text},
                {"type": "image_url", "image_url": {"url": picture}},
            ],
        }
    ]


CHAT_EXAMPLES: dict[str, Any] = {
    "describe": {
        "summary": "Describe a picture (Chinese)",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": _question("请描述这张图片", _RED_DISC),
            "max_tokens": 512,
            "temperature": 0.7,
        },
    },
    "question": {
        "summary": "What is in this image?",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": _question("What is in this image?", _PIXEL),
            "max_tokens": 128,
        },
    },
    "stream": {
        "summary": "Streamed, without a thought",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": _question("What colour is the disc?", _RED_DISC),
            "chat_template_kwargs": {"enable_thinking": False},
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    "choices": {
        "summary": "Two answers, with log probabilities",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": _question("What is in this image?", _RED_DISC),
            "n": 2,
            "seed": 7,
            "logprobs": True,
            "top_logprobs": 2,
        },
    },
    "budget": {
        "summary": "A short thought",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": _question("What is in this image?", _RED_DISC),
            "thinking_token_budget": 2,
        },
    },
    "video": {
        "summary": "A video",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "video_url", "video_url": {"url": _MOVING_DISC}},
                        {"type": "text", "text": "What happens in this video?"},
                    ],
                }
            ],
            "max_tokens": 128,
        },
    },
    "tools": {
        "summary": "Tools that the model may call",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "weather",
                        "description": "The weather of the next days.",
                        "parameters": {
                            "type": "object",
                            "properties": {
                                "city": {"type": "string"},
                                "days": {"type": "integer"},
                            },
                            "required": ["city"],
                        },
                    },
                }
            ],
        },
    },
    "schema": {
        "summary": "Held to a JSON schema",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": _question("What is in this image?", _RED_DISC),
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "shape",
                    "schema": {
                        "type": "object",
                        "properties": {
                            "colour": {"type": "string"},
                            "shape": {"enum": ["circle", "square", "triangle", "star"]},
                        },
                        "required": ["colour", "shape"],
                        "additionalProperties": False,
                    },
                    "strict": True,
                },
            },
        },
    },
    "choice": {
        "summary": "One of three texts",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": _question("What colour is the disc?", _RED_DISC),
            "structured_outputs": {"choice": ["red", "green", "blue"]},
        },
    },
    "required": {
        "summary": "A tool that has to be called",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": _question("Paint what you see.", _RED_DISC),
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "paint",
                        "parameters": {
                            "type": "object",
                            "properties": {
                                "colour": {"type": "string"},
                                "shape": {"type": "string"},
                            },
                            "required": ["colour", "shape"],
                        },
                        "strict": True,
                    },
                }
            ],
            "tool_choice": "required",
        },
    },
    "boxes": {
        "summary": "Where it is, in pixels",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": _question("Give the boxes of all shapes.", _RED_DISC),
            "return_boxes": True,
        },
    },
}

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
                        {"type": "input_image", "image_url": _RED_DISC},
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
                {"role": "user", "content": [{"type": "input_image", "image_url": _RED_DISC}]},
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
                                "data": _RED_DISC.partition(",")[2],
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

TOKENIZE_EXAMPLES: dict[str, Any] = {
    "text": {"summary": "A text", "value": {"prompt": "A red circle.", "return_token_strs": True}},
    "conversation": {
        "summary": "A conversation with a picture",
        "value": {"messages": _question("What is in this image?", _RED_DISC)},
    },
}

DETOKENIZE_EXAMPLES: dict[str, Any] = {
    "tokens": {"summary": "Some tokens", "value": {"tokens": [2, 4, 7]}},
}

MULTIMODAL_EXAMPLES: dict[str, Any] = {
    "picture": {
        "summary": "One picture",
        "value": {"prompt": "What is in this image?", "images": [_RED_DISC]},
    },
    "text": {"summary": "Text only", "value": {"prompt": "Who are you?", "max_tokens": 64}},
}
