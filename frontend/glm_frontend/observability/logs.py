"""Logging: one line for each record, on standard error."""

import logging
from typing import Literal

from glm_frontend.observability.json_log import JsonFormatter, TextFormatter

LOGGER_NAME = "glm_frontend"


def configure_logging(level: str, log_format: Literal["text", "json"]) -> None:
    """Send this package's and uvicorn's records of at least ``level`` to standard error."""
    handler = logging.StreamHandler()
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # One line for each fetched picture says nothing that the access log does not.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
