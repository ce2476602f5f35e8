"""Logs of the launcher and of its child processes, on standard output."""

import json
import logging
import os
import re
import sys

from glm_frontend.observability.json_log import JsonFormatter, TextFormatter
from launcher.settings import variable

# The time in UTC that a child has put before its line; ours has milliseconds, Triton's has not.
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z ")


def configure_logging() -> None:
    """Set up logging. Called before reading the settings, whose errors are logged as well."""
    handler = logging.StreamHandler(sys.stdout)
    handler.addFilter(without_time)
    if os.environ.get(variable("log_format"), "").lower() == "json":
        handler.setFormatter(RelayFormatter())
    else:
        handler.setFormatter(TextFormatter("{time} {name:8} | {line}"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def without_time(record: logging.LogRecord) -> bool:
    """A filter that removes the time of a child from its line, so that each line has one time."""
    message = record.getMessage()
    if match := _TIME.match(message):
        record.msg, record.args = "%s", (message[match.end() :],)
    return True


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
