import json
import logging

import pytest

from launcher.logs import RelayFormatter


def relayed(line: str) -> str:
    record = logging.LogRecord("triton", logging.INFO, __file__, 1, "%s", (line,), None)
    return RelayFormatter().format(record)


def test_json_of_a_child_stays_as_it_is() -> None:
    line = '{"message": "from a child"}'
    assert relayed(line) == line


@pytest.mark.parametrize("line", ["text", '{"half', "{}x", "[1]", "two\nlines", ""])
def test_all_else_becomes_json(line: str) -> None:
    entry = json.loads(relayed(line))
    assert (entry["logger"], entry["level"], entry["message"]) == ("triton", "info", line)
    assert "\n" not in relayed(line)
