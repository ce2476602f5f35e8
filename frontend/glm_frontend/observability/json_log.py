"""Log records as JSON, one object a line; or as text, with the time in each line.

Each part of the server works alone, so each that needs this file has it. What a record is given by
name becomes a key of the object, and ``name=%(name)s`` is left out of its message:
``logger.info("request path=%(path)s", {"path": path})``.
"""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

_PAIR = re.compile(r" (\w+)=%\(\1\)s")


class JsonFormatter(logging.Formatter):
    """Writes time (UTC), level, logger, message, exception if there is one, and named values."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        named = record.args if isinstance(record.args, dict) else {}
        entry: dict[str, Any] = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _PAIR.sub("", record.msg) % named if named else record.getMessage(),
        }
        entry = {**entry, **named, **entry}  # in this order, and no value takes the place of these
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Writes time (UTC), level and logger before each line of a record, so also of a traceback.

    Args:
        layout: of a line, with the fields ``time``, ``level``, ``name`` and ``line``.
    """

    def __init__(self, layout: str = "{time} {level} {name} {line}") -> None:
        super().__init__()
        self._layout = layout

    def format(self, record: logging.LogRecord) -> str:
        """The lines, without the end of the last."""
        fields = {"time": _utc(record), "level": record.levelname, "name": record.name}
        lines = super().format(record).split("\n")
        return "\n".join(self._layout.format(line=line, **fields).rstrip() for line in lines)


def _utc(record: logging.LogRecord) -> str:
    time = datetime.fromtimestamp(record.created, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
