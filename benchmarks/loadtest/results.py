"""The result of a load: printed, as a page with a plot, as JSON, and within Locust's own report."""

import argparse
import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gevent
import locust.stats
from locust.env import Environment

from benchmarks.loadtest import page
from benchmarks.loadtest.book import Book
from benchmarks.loadtest.figures import Figures, Limits, Record, levels, timeline
from tools.report import Panel, report

LONG_SECONDS = 3600

EXPLANATION = """Closed loop: each user sends its next request when it has the answer to the last
one. TTFT is the time to the first token, TPOT the time between two tokens after it, E2E to the last
token, all as the client sees them. Goodput is the share of answers within the limits among all
requests, refused and failed ones included; those whose client left on purpose are not judged.
"""


def register(environment: Environment, book: Book) -> None:
    """Have the result written after Locust's own tables and report."""
    environment.events.quitting.add_listener(lambda **_: _before(environment, book))
    environment.events.quit.add_listener(lambda **_: write(environment, book))


def _before(environment: Environment, book: Book) -> None:
    options = environment.parsed_options
    assert isinstance(options, argparse.Namespace)
    if not book.records and not environment.web_ui:
        environment.process_exit_code = 1
    if options.csv_prefix:
        # The last turn of Locust's writer: a later one would find its files closed.
        turn = locust.stats.CSV_STATS_INTERVAL_SEC
        locust.stats.CSV_STATS_INTERVAL_SEC = LONG_SECONDS
        gevent.sleep(turn + 0.1)


def write(environment: Environment, book: Book) -> None:
    """Print the result, write its files, and say where they are."""
    options = environment.parsed_options
    assert isinstance(options, argparse.Namespace)
    if not book.records:
        print("No request was made, so there is no result.")
        return
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    records = list(book.records)
    kinds = book.kinds()
    steps = levels(records, book.windows, book.limits)
    table = [
        f"In time: first token within {options.ttft_limit:g} ms, further ones within "
        f"{options.tpot_limit:g} ms each. Times are in ms, p50 / p90 / p99.",
        "",
        *([*_table("users", steps), ""] if len(steps) > 1 else []),
        *_table("request", kinds),
    ]
    panels = _over_users(steps) if len(steps) > 1 else _over_time(records, book, book.limits)
    report(output, "Load", _details(environment, options), EXPLANATION, table, panels)
    results = {
        "requests": {name: asdict(one) for name, one in kinds.items()},
        "users": {users: asdict(one) for users, one in steps.items()},
    }
    output.with_suffix(".json").write_text(json.dumps(results) + "\n")
    written = [output, output.with_suffix(".svg"), output.with_suffix(".json")]
    if options.html_file and (html := Path(options.html_file)).exists():
        plot = base64.b64encode(output.with_suffix(".svg").read_bytes()).decode()
        html.write_text(page.with_figures(html.read_text(), book, plot))
        written.append(html)
    if options.csv_prefix:
        written.append(Path(f"{options.csv_prefix}_stats.csv"))
    print("Written:", *(f"  {path}" for path in written), sep="\n")


def _details(environment: Environment, options: argparse.Namespace) -> str:
    names = " and ".join(user.__name__ for user in environment.user_classes)
    return (
        f"{names}, weights {options.text:g} text, {options.picture:g} picture, "
        f"{options.conversation:g} conversation, sides {options.sides}, {options.repeats:.0%} seen "
        f"before, {options.disconnects:.0%} leave, {options.max_tokens} tokens an answer"
        + (f"; {options.note}" if options.note else "")
    )


def _table(first: str, rows: dict[Any, Figures]) -> list[str]:
    head = (
        f"| {first} | answered | answers/s | tokens/s | TTFT | TPOT | E2E | goodput "
        "| in time/s | left | refused | failed |"
    )
    lines = [head, "|---|" + "--:|" * (head.count("|") - 2)]
    for name, one in rows.items():
        cells = [
            str(name),
            str(one.ends.get("answered", 0)),
            f"{one.requests_per_second:.2f}",
            f"{one.tokens_per_second:.0f}",
            _three(one.ttft, 0),
            _three(one.tpot, 1),
            _three(one.total, 0),
            "-" if one.goodput is None else f"{one.goodput:.1%}",
            f"{one.good_per_second:.2f}",
            str(one.left),
            str(one.ends.get("refused", 0)),
            str(one.ends.get("failed", 0)),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _three(percentiles: dict[int, float | None], digits: int) -> str:
    values = [percentiles[percent] for percent in (50, 90, 99)]
    return " / ".join("-" if value is None else f"{value:.{digits}f}" for value in values)


def _over_users(steps: dict[int, Figures]) -> list[Panel]:
    def series(value: Callable[[Figures], float | None]) -> list[tuple[float, float]]:
        pairs = [(float(users), value(one)) for users, one in steps.items()]
        return [(users, found) for users, found in pairs if found is not None]

    return [
        Panel(
            "answers",
            "1/s",
            {
                "all": series(lambda one: one.requests_per_second),
                "in time": series(lambda one: one.good_per_second),
            },
        ),
        Panel("output tokens", "1/s", {"all": series(lambda one: one.tokens_per_second)}),
        Panel(
            "time to first token",
            "ms",
            {
                "p50": series(lambda one: one.ttft[50]),
                "p95": series(lambda one: one.ttft[95]),
            },
        ),
        Panel(
            "time per output token",
            "ms",
            {
                "p50": series(lambda one: one.tpot[50]),
                "p95": series(lambda one: one.tpot[95]),
            },
        ),
    ]


def _over_time(records: Sequence[Record], book: Book, limits: Limits) -> list[Panel]:
    points = timeline(records, list(book.windows), limits)

    def panel(title: str, unit: str, **names: str) -> Panel:
        series = {
            name: [(point["time"], point[key]) for point in points if point[key] is not None]
            for name, key in names.items()
        }
        return Panel(title, unit, series, over="seconds")

    return [
        panel("answers", "1/s", **{"all": "answers", "in time": "good"}),
        panel("output tokens", "1/s", all="tokens"),
        panel("time to first token", "ms", p50="ttft_p50", p95="ttft_p95"),
        panel("time per output token", "ms", p50="tpot_p50", p95="tpot_p95"),
    ]
