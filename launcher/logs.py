"""The launcher's own log and the lines of what it started, on standard output."""

import json
import logging
import os
import sys

from glm_frontend.observability.json_log import JsonFormatter
from launcher.settings import variable


def configure_logging() -> None:
    """To be called before the settings are read, whose errors are logged as well."""
    handler = logging.StreamHandler(sys.stdout)
    if os.environ.get(variable("log_format"), "").lower() == "json":
        handler.setFormatter(RelayFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(name)-8s | %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class RelayFormatter(JsonFormatter):
    """Leaves a line as it is which a child wrote as JSON already."""

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
