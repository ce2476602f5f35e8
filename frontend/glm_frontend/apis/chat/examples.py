"""Requests to try from ``/docs``."""

from typing import Any

from glm_frontend.apis.shared.examples import MOVING_DISC, PIXEL, RED_DISC, question

CHAT_EXAMPLES: dict[str, Any] = {
    "describe": {
        "summary": "Describe a picture (Chinese)",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": question("请描述这张图片", RED_DISC),
            "max_tokens": 512,
            "temperature": 0.7,
        },
    },
    "question": {
        "summary": "What is in this image?",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": question("What is in this image?", PIXEL),
            "max_tokens": 128,
        },
    },
    "stream": {
        "summary": "Streamed, without a thought",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": question("What colour is the disc?", RED_DISC),
            "chat_template_kwargs": {"enable_thinking": False},
            "stream": True,
            "stream_options": {"include_usage": True},
        },
    },
    "choices": {
        "summary": "Two answers, with log probabilities",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": question("What is in this image?", RED_DISC),
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
            "messages": question("What is in this image?", RED_DISC),
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
                        {"type": "video_url", "video_url": {"url": MOVING_DISC}},
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
            "messages": question("What is in this image?", RED_DISC),
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
            "messages": question("What colour is the disc?", RED_DISC),
            "structured_outputs": {"choice": ["red", "green", "blue"]},
        },
    },
    "required": {
        "summary": "A tool that must be called",
        "value": {
            "model": "glm-4.6v-flash",
            "messages": question("Paint what you see.", RED_DISC),
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
            "messages": question("Give the boxes of all shapes.", RED_DISC),
            "return_boxes": True,
        },
    },
}
