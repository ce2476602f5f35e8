"""The page's files: all from this server, complete, and in two languages."""

import re

import pytest

from glm_frontend.settings import SettingsError
from glm_web.app import STATIC
from glm_web.settings import PageSettings, load_settings
from unit.web.conftest import Connect

OWN = [path for path in STATIC.rglob("*") if path.is_file() and "vendor" not in path.parts]
HTML = (STATIC / "index.html").read_text(encoding="utf-8")
TEXTS = (STATIC / "i18n.js").read_text(encoding="utf-8")


def texts(language: str) -> dict[str, str]:
    block = re.search(rf"\n  {language}: {{\n(.*?)\n  }},\n", TEXTS, re.DOTALL)
    assert block
    return dict(re.findall(r'^    (\w+): "(.*)",$', block[1], re.MULTILINE))


def test_browsers_are_told_to_load_nothing_from_elsewhere(connect: Connect) -> None:
    client = connect()
    for path in ("/", "/main.js", "/vendor/katex/katex.min.css", "/v1/health", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_types_of_files(connect: Connect) -> None:
    client = connect()
    for path, kind in {
        "/": "text/html",
        "/main.js": "text/javascript",
        "/vendor/katex/katex.mjs": "text/javascript",
        "/vendor/katex/fonts/KaTeX_Main-Regular.woff2": "font/woff2",
        "/icons.svg": "image/svg+xml",
        "/examples/box.png": "image/png",
    }.items():
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].partition(";")[0] == kind, path


def test_a_file_that_has_not_changed_is_not_sent_again(connect: Connect) -> None:
    client = connect()
    headers = client.get("/main.js").headers
    assert headers["cache-control"] == "no-cache"
    again = client.get("/main.js", headers={"if-none-match": headers["etag"]})
    assert again.status_code == 304


def test_the_page_is_told_the_limits(connect: Connect) -> None:
    limits = connect(max_images=3, max_image_bytes=1000).get("/limits.json").json()
    assert limits == {"max_images": 3, "max_image_bytes": 1000}


def test_no_file_names_another_host() -> None:
    assert len(OWN) > 15
    for path in OWN:
        if path.suffix != ".png":
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://\w", text), path


def test_every_file_that_is_named_is_there() -> None:
    named = {
        path.parent / found
        for path in OWN
        if path.suffix in {".html", ".js", ".css"}
        for found in re.findall(
            r'(?:src|href|from|import\()[= ]?"?(\.?[\w/.-]+\.(?:js|mjs|css|svg))',
            path.read_text(encoding="utf-8"),
        )
    }
    assert len(named) > 15
    for path in named:
        assert path.is_file(), path
    examples = re.findall(r'"(\w+\.png)"', (STATIC / "examples.js").read_text(encoding="utf-8"))
    assert set(examples) == {path.name for path in (STATIC / "examples").iterdir()}


def test_both_languages_say_the_same_things() -> None:
    english, chinese = texts("en"), texts("zh")
    assert len(english) > 60
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert set(re.findall(r"{\w+}", text)) == set(re.findall(r"{\w+}", chinese[key])), key


def test_every_text_is_there_and_used() -> None:
    keys = set(texts("en"))
    in_page = set(re.findall(r'data-i18n(?:-label|-placeholder)?="(\w+)"', HTML))
    assert in_page <= keys
    scripts = "".join(path.read_text(encoding="utf-8") for path in OWN if path.suffix == ".js")
    states = {f"state{name}" for name in
              ("Checking", "Ready", "Loading", "Full", "Failed", "Draining", "Gone")}  # fmt: skip
    unused = {key for key in keys - in_page - states if f'"{key}"' not in scripts}
    assert unused == set()


def test_vendored_files_have_their_licences() -> None:
    for folder in (STATIC / "vendor").iterdir():
        assert (folder / "LICENSE").is_file(), folder


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GLM_WEB_PORT", "http"),
        ("GLM_WEB_API_URL", "127.0.0.1:8000"),
        ("GLM_WEB_API_URL", "http://a b"),
        ("GLM_MAX_IMAGES", "many"),
    ],
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=rf"^{name}='{re.escape(value)}': "):
        load_settings()


def test_the_defaults() -> None:
    settings = PageSettings()
    assert (settings.host, settings.web_port) == ("127.0.0.1", 7860)
    assert settings.web_api_url == "http://127.0.0.1:8000"
