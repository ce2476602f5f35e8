"""Logs of the launcher and of its child processes, on standard output."""

import json
import logging
import os
import sys

from glm_frontend.observability.json_log import JsonFormatter
from launcher.settings import variable


def configure_logging() -> None:
    """Set up logging. Called before reading the settings, whose errors are logged as well."""
    handler = logging.StreamHandler(sys.stdout)
    if os.environ.get(variable("log_format"), "").lower() == "json":
        handler.setFormatter(RelayFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(name)-8s | %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class RelayFormatter(JsonFormatter):
    """Passes through lines that a child already wrote as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = record.getMessage()
        return line if _is_object(line) else super().format(record)


def _is_object(line: str) -> bool:
    if not line.startswith("{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False
