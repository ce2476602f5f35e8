"""TTFT, TPOT, tokens/s and goodput in Locust's page and in its HTML report."""

import ipaddress
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flask import Response, abort, jsonify, request
from locust.web import WebUI

from benchmarks.loadtest.book import Book
from benchmarks.loadtest.figures import Figures, timeline

KEY = "goodput"
TITLE = "TTFT, TPOT, goodput"
PERCENTILES = (50, 90, 99)
COLUMNS = {
    "request": "Request",
    "answered": "Answered",
    "left": "Left",
    "refused": "Refused",
    "failed": "Failed",
    **{f"ttft{percent}": f"TTFT p{percent} (ms)" for percent in PERCENTILES},
    **{f"tpot{percent}": f"TPOT p{percent} (ms)" for percent in PERCENTILES},
    "total50": "E2E p50 (ms)",
    "total99": "E2E p99 (ms)",
    "answers": "Answers/s",
    "tokens": "Tokens/s",
    "goodput": "Goodput (%)",
    "good": "In time/s",
}
CHARTS = Path(__file__).with_name("charts.html")


def extend(web_ui: WebUI, book: Book) -> None:
    """Add a table, charts and the report's part to Locust's page, and shut it for other pages."""
    app = web_ui.app
    assert app
    web_ui.template_args |= {
        "extended_tabs": [{"title": TITLE, "key": KEY}],
        "extended_tables": [
            {"key": KEY, "structure": [{"key": k, "title": t} for k, t in COLUMNS.items()]}
        ],
    }

    @app.before_request
    def refuse_other_pages() -> None:
        # Locust answers any page that a browser shows, and starts loads for it.
        origin = request.headers.get("Origin")
        if origin and urlsplit(origin).netloc != request.host:
            abort(403, "from another page")
        # Nor is a name that somebody lets point to this machine ours.
        if _is_loopback(web_ui.host) and not _is_loopback(urlsplit(f"//{request.host}").hostname):
            abort(403, "under another name")

    @app.route("/charts")
    def charts() -> Response:
        return jsonify(_points(book))

    @app.after_request
    def add(response: Response) -> Response:
        if response.status_code != 200:
            return response
        if request.path == "/stats/requests":
            own = {"extended_stats": [{"key": KEY, "data": rows(book)}]}
            response.set_data(json.dumps({**(response.get_json() or {}), **own}))
        elif request.path == "/":
            text = response.get_data(as_text=True)
            response.set_data(text.replace("</body>", _section(book, is_live=True) + "</body>"))
        elif request.path == "/stats/report":
            response.set_data(with_figures(response.get_data(as_text=True), book))
        return response


def with_figures(report: str, book: Book, plot: str = "") -> str:
    """Locust's HTML report with our figures on top of it.

    Args:
        plot: an SVG in base64.
    """
    root = '<div id="root"></div>'
    return report.replace(root, _section(book, is_live=False, plot=plot) + root)


def rows(book: Book) -> list[dict[str, Any]]:
    """The table: a row for all requests, and one for each kind."""
    return [_row(name, figures) for name, figures in book.kinds().items()]


def _row(name: str, figures: Figures) -> dict[str, Any]:
    row: dict[str, Any] = {
        "request": name,
        "answered": figures.ends.get("answered", 0),
        "left": figures.left,
        "refused": figures.ends.get("refused", 0),
        "failed": figures.ends.get("failed", 0),
        "answers": round(figures.requests_per_second, 2),
        "tokens": round(figures.tokens_per_second),
        "goodput": None if figures.goodput is None else round(100 * figures.goodput, 1),
        "good": round(figures.good_per_second, 2),
    }
    for key, values in (("ttft", figures.ttft), ("tpot", figures.tpot), ("total", figures.total)):
        for percent in PERCENTILES:
            value = values[percent]
            row[f"{key}{percent}"] = None if value is None else round(value, 1)
    return row


def _points(book: Book) -> dict[str, Any]:
    limits = book.limits
    return {
        "ttft_limit": 1e3 * limits.ttft,
        "tpot_limit": 1e3 * limits.tpot,
        "points": timeline(list(book.records), list(book.windows), limits),
        "columns": COLUMNS,
        "rows": rows(book),
    }


def _section(book: Book, *, is_live: bool, plot: str = "") -> str:
    data = json.dumps({"is_live": is_live, "plot": plot, **_points(book)}).replace("<", "\\u003c")
    return CHARTS.read_text().replace("DATA", data, 1)


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
