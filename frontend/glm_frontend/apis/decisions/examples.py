"""Requests to try from ``/docs``."""

from typing import Any

from glm_frontend.apis.shared.examples import RED_DISC

_DISC = [{"role": "user", "content": [{"type": "input_image", "image_url": RED_DISC}]}]

DECISION_EXAMPLES: dict[str, Any] = {
    "picture": {
        "summary": "Three questions about one picture",
        "value": {
            "model": "glm-4.6v-flash",
            "input": _DISC,
            "questions": [
                {
                    "type": "choice",
                    "name": "colour",
                    "instructions": "What color is the circle?",
                    "choices": [{"value": "red"}, {"value": "green"}, {"value": "blue"}],
                },
                {
                    "type": "predicate",
                    "name": "has_circle",
                    "instructions": "There is a circle in the image.",
                },
                {
                    "type": "score",
                    "name": "count",
                    "instructions": "How many shapes are there?",
                    "levels": [
                        {"label": "none"},
                        {"label": "one"},
                        {"label": "many", "description": "two or more"},
                    ],
                },
            ],
        },
    },
    "whole answers": {
        "summary": "Options that the model does not see",
        "value": {
            "model": "glm-4.6v-flash",
            "input": _DISC,
            "questions": [
                {
                    "type": "choice",
                    "instructions": "What color is the circle?",
                    "choices": [
                        {"value": "The circle is red."},
                        {"value": "The circle is green."},
                        {"value": "There is no circle."},
                    ],
                    "show_options": False,
                }
            ],
        },
    },
    "text": {
        "summary": "A question about a text",
        "value": {
            "model": "glm-4.6v-flash",
            "input": "I was charged twice for the same order.",
            "questions": [
                {
                    "type": "choice",
                    "name": "team",
                    "instructions": "Which team should handle this?",
                    "choices": [
                        {"value": "billing", "description": "Payments and refunds."},
                        {"value": "technical", "description": "Faults of the product."},
                    ],
                }
            ],
        },
    },
}
