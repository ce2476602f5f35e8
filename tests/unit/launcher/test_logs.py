import json
import logging

import pytest

from glm_frontend.observability.json_log import TextFormatter
from launcher.logs import RelayFormatter, without_time


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


def test_each_line_has_one_time_with_its_zone() -> None:
    line = '2026-12-01T11:43:26Z I 7 server.cc:604] "x"\n\nsecond'
    record = logging.LogRecord("triton", logging.INFO, __file__, 1, "%s", (line,), None)
    record.created = 1796125406.5
    assert without_time(record)
    written = TextFormatter("{time} {name:8} | {line}").format(record)
    time = "2026-12-01T11:43:26.500Z triton   |"
    assert written.splitlines() == [f'{time} I 7 server.cc:604] "x"', time, f"{time} second"]


def test_a_traceback_has_the_time_as_well() -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("generation", logging.ERROR, __file__, 1, "failed", (), info)
    lines = TextFormatter().format(record).splitlines()
    assert len(lines) > 3
    assert {line.split(" ")[0] for line in lines} == {lines[0].split(" ")[0]}
    assert lines[0].endswith("Z ERROR generation failed") and lines[-1].endswith(" broken")
