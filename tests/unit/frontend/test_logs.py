"""Log lines as JSON."""

import json
import logging
import sys
from typing import Any

from glm_frontend.observability.json_log import JsonFormatter


def logged(message: str, *arguments: object, error: bool = False) -> Any:
    record = logging.LogRecord(
        "part", logging.WARNING, __file__, 1, message, arguments, sys.exc_info() if error else None
    )
    record.created = 1795442594.1234
    line = JsonFormatter().format(record)
    assert "\n" not in line
    return json.loads(line)


def test_a_line() -> None:
    assert logged("%s of\n%d", "é", 3) == {
        "time": "2026-11-23T14:03:14.123Z",
        "level": "warning",
        "logger": "part",
        "message": "é of\n3",
    }


def test_named_values_are_keys_and_not_told_twice() -> None:
    fields = {"request_id": "r-1", "status": 200, "level": "forged"}
    line = logged("request of %(request_id)s status=%(status)s", fields)
    assert line["message"] == "request of r-1"
    assert (line["request_id"], line["status"], line["level"]) == ("r-1", 200, "warning")
    assert list(line)[:4] == ["time", "level", "logger", "message"]


def test_an_exception() -> None:
    try:
        raise ValueError("no\nway")
    except ValueError:
        line = logged("it failed", error=True)
    assert line["exception"].startswith("Traceback") and "ValueError: no\nway" in line["exception"]
