"""Pictures from files and the web, and their paths in a line."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from glm_client import pictures
from glm_client.pictures import PictureError, find_pictures, read_picture

PNG = b"\x89PNG\r\n\x1a\n..."
URI = "data:image/png;base64,iVBORw0KGgouLi4="


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "my pic.png"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "text.png").write_bytes(b"no picture")
    return tmp_path


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    http = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.parametrize("source", ["a.png", "{folder}/my pic.png", "file://{folder}/my%20pic.png"])
def test_a_file(folder: Path, source: str) -> None:
    assert read_picture(source.format(folder=folder)) == URI


def test_a_url(server: str) -> None:
    assert read_picture(f"{server}/my%20pic.png") == URI
    with pytest.raises(PictureError, match=r"nowhere\.png: File not found"):
        read_picture(f"{server}/nowhere.png")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("nowhere.png", "No such file or directory"),
        ("text.png", "not a picture (JPEG, PNG, WebP, GIF, BMP)"),
        (".", "not a regular file"),
        ("/dev/zero", "not a regular file"),
        ("http://127.0.0.1:1/a.png", "[Errno 111] Connection refused"),
        ("http://[x", "Invalid IPv6 URL"),
        ("a\0.png", "embedded null byte"),
    ],
)
def test_unreadable_picture_is_named(folder: Path, source: str, reason: str) -> None:
    with pytest.raises(PictureError) as caught:
        read_picture(source)
    assert str(caught.value) == f"{source}: {reason}"


def test_its_size_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_BYTES", 10)
    with pytest.raises(PictureError, match=r"a\.png: larger than"):
        read_picture("a.png")


@pytest.mark.parametrize(
    ("line", "rest", "found"),
    [
        ("What's this?", "What's this?", []),
        ("a.png What is it?", "What is it?", ["a.png"]),
        ("'my pic.png' What's it?", "What's it?", ["my pic.png"]),
        (r"my\ pic.png What is it?", "What is it?", ["my pic.png"]),
        ('What is "my pic.png"  beside a.png ?', "What is beside ?", ["my pic.png", "a.png"]),
        ("a.png", "", ["a.png"]),
        ("two  blanks and text.txt", "two  blanks and text.txt", []),
        ("https://example.com/a.png What is it?", "https://example.com/a.png What is it?", []),
    ],
)
def test_paths_in_a_line(folder: Path, line: str, rest: str, found: list[str]) -> None:
    assert find_pictures(line) == (rest, found, [])


def test_missing_file_stays_text_and_is_reported(folder: Path) -> None:
    assert find_pictures("b.png is what?") == ("b.png is what?", [], ["b.png"])
