"""The web page in a real browser, over the real server. CI installs Chromium and its driver."""

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from selenium.webdriver import Chrome, ChromeOptions, ChromeService, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from e2e.calls import DESCRIPTIONS, PICTURES, chat, metrics, program, settled
from tools.stack import Stack, free_ports
from waiting import wait_until

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="there is no Chromium with its driver here"
)

DESKTOP, PHONE = (1280, 860), (375, 740)
SECONDS = 60.0
# Answers that go on until they are stopped: they may not end by themselves, and sixteen at a time
# take the demo model ten seconds.
ENDLESS = """
const plain = window.fetch;
window.fetch = (path, options) => {
  if (path !== "v1/chat/completions") return plain(path, options);
  const body = { ...JSON.parse(options.body), ignore_eos: true, max_tokens: 4000, n: 16 };
  return plain(path, { ...options, body: JSON.stringify(body) });
};
"""
GIVE_FILE = """
const [target, type, name, data] = arguments;
const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
const files = new DataTransfer();
files.items.add(new File([bytes], name, { type: "image/" + name.split(".").at(-1) }));
const event = type === "paste"
  ? new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true })
  : new DragEvent(type, { dataTransfer: files, bubbles: true, cancelable: true });
target.dispatchEvent(event);
"""


class Page:
    """The page as a person uses it."""

    def __init__(self, browser: Chrome) -> None:
        self._browser = browser
        self.url = ""

    def open(
        self,
        url: str,
        size: tuple[int, int] = DESKTOP,
        language: str = "en-US",
        scheme: str = "light",
        state: str = "ready",
    ) -> None:
        """A visit of somebody whose answers are greedy; returns when the page knows the server's
        state."""
        self.url = url
        width, height = size
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=size == PHONE,
        )  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._command("Emulation.setEmulatedMedia", features=features)
        agent = self._browser.execute_script("return navigator.userAgent")
        self._command("Network.setUserAgentOverride", userAgent=agent, acceptLanguage=language)
        self._browser.get(url)
        self.run("localStorage.clear(); localStorage['glm.settings'] = '{\"temperature\": \"0\"}'")
        self._browser.refresh()
        self.wait_state(state)

    def _command(self, name: str, **arguments: Any) -> None:
        self._browser.execute_cdp_cmd(name, arguments)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript."""
        return self._browser.execute_script(script, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        return self._browser.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self._browser.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        return [element.text for element in self.all(selector)]

    def wait_state(self, state: str) -> None:
        """Until the pill tells this state of the server."""
        # As when the tab is looked at again: the page asks at once.
        self.run("document.dispatchEvent(new Event('visibilitychange'))")
        self.wait(lambda: self.one("#status").get_attribute("data-state") == state)

    def wait(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, SECONDS)

    def upload(self, path: Path) -> None:
        """Choose a file behind the attach button."""
        count = len(self.all("#attachments li"))
        self.one("#files").send_keys(str(path))
        self.wait(lambda: len(self.all("#attachments li")) == count + 1)

    def give(self, how: str, name: str) -> None:
        """Paste or drop a picture onto the page."""
        count = len(self.all("#attachments li"))
        data = base64.b64encode((PICTURES / name).read_bytes()).decode()
        if how == "drop":
            self.run(GIVE_FILE, self.one("main"), "dragenter", name, data)
            assert self.one("#drop-target").is_displayed()
        self.run(GIVE_FILE, self.one("main"), how, name, data)
        self.wait(lambda: len(self.all("#attachments li")) == count + 1)
        assert not self.one("#drop-target").is_displayed()

    def ask(self, text: str) -> None:
        """Type and press Enter; returns when the question stands in the conversation."""
        count = len(self.all(".turn"))
        self.one("#prompt").send_keys(text + Keys.ENTER)
        self.wait(lambda: len(self.all(".turn")) == count + 1)
        assert self.one("#prompt").get_attribute("value") == ""

    def ask_in_vain(self, text: str) -> None:
        """Type and press Enter; what was typed stays."""
        count = len(self.all(".turn"))
        self.one("#prompt").send_keys(text + Keys.ENTER)
        assert self.one("#prompt").get_attribute("value") == text
        assert len(self.all(".turn")) == count

    def last_turn(self, *states: str) -> WebElement:
        """The last turn, once it is in one of these states."""
        self.wait(
            lambda: any(
                turn.get_attribute("data-state") in states for turn in self.all(".turn")[-1:]
            )
        )
        return self.all(".turn")[-1]

    def answer(self) -> str:
        """The last answer, once it is there."""
        turn = self.last_turn("done", "failed")
        assert turn.get_attribute("data-state") == "done", turn.text
        return turn.find_element(By.CSS_SELECTOR, ".content").text

    def hosts(self) -> set[str]:
        """Everybody that the browser has asked since the last call."""
        messages = [
            json.loads(entry["message"])["message"]
            for entry in self._browser.get_log("performance")  # type: ignore[no-untyped-call]
        ]
        urls = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        return {urlsplit(url).netloc for url in urls if not url.startswith(("data:", "blob:"))}

    def complaints(self) -> list[str]:
        """What the console says: violated policies, failed loads, exceptions."""
        log = self._browser.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in log if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = Chrome(options, ChromeService(str(DRIVER)))
    yield chrome
    chrome.quit()


@pytest.fixture
def page(browser: Chrome) -> Iterator[Page]:
    """Asks no other host, and has nothing to complain about but answers that are errors."""
    page = Page(browser)
    yield page
    assert page.hosts() == {urlsplit(page.url).netloc}
    assert [line for line in page.complaints() if "the server responded with" not in line] == []
    browser.get("about:blank")


def test_upload_ask_and_ask_again(stack: Stack, page: Page) -> None:
    page.open(stack.web_url)
    # Asked for apart from the state.
    wait_until(lambda: page.one("#model-name").text == "glm-4.6v-flash")
    page.upload(PICTURES / "plot-circle-square.png")
    page.ask("What is in this image?")
    assert page.answer() == DESCRIPTIONS["plot-circle-square.png"]
    figures = page.one(".figures").text
    assert "TTFT" in figures and "tokens/s" in figures and "tokens" in figures
    thought = page.one(".thought")
    assert "Thought for" in thought.text
    assert not page.one(".thought .markdown").is_displayed()
    thought.find_element(By.CSS_SELECTOR, "summary").click()
    assert "circle" in page.one(".thought .markdown").text
    # The picture and the first answer are sent again.
    page.ask("What color is the square?")
    assert page.answer() == "The square is blue."
    page.one("#new-chat").click()
    assert page.all(".turn") == [] and page.one("#welcome").is_displayed()


def test_paste_and_drop(stack: Stack, page: Page) -> None:
    page.open(stack.web_url)
    page.give("paste", "photo-square.jpg")
    page.give("drop", "plot-42.png")
    page.give("drop", "browser-star.png")
    page.all("#attachments .remove")[1].click()
    assert len(page.all("#attachments li")) == 2
    page.ask("Which image has a pink star?")
    assert page.answer() == "The second image."
    page.one(".user .picture").click()
    assert page.one("#lightbox img").is_displayed()


@pytest.mark.timing
def test_a_picture_that_is_still_read_is_waited_for(stack: Stack, page: Page) -> None:
    page.open(stack.web_url)
    page.one("#prompt").send_keys("What is in this image?")
    data = base64.b64encode((PICTURES / "photo-star.jpg").read_bytes()).decode()
    submit = "document.querySelector('#composer').requestSubmit();"
    page.run(GIVE_FILE + submit, page.one("main"), "drop", "photo-star.jpg", data)
    page.wait(lambda: len(page.all("#attachments li")) == 1)
    assert page.all(".turn") == []
    page.wait(page.one("#send").is_enabled)
    page.one("#send").click()
    assert page.answer() == DESCRIPTIONS["photo-star.jpg"]


@pytest.mark.timing
def test_an_answer_grows_and_the_stop_button_cancels_it(stack: Stack, page: Page) -> None:
    cancelled = 'glm_requests_total{finish_reason="cancelled"}'

    page.open(stack.web_url)
    page.run(ENDLESS)
    before = settled(stack)[cancelled]
    for stop in ("button", "Escape"):
        page.one("#new-chat").click()
        page.ask("Who are you?")
        turn = page.last_turn("thinking", "answering")
        assert not page.one("#send").is_displayed()
        lengths = [0]

        def grown(turn: WebElement = turn, lengths: list[int] = lengths) -> bool:
            text = turn.find_element(By.CSS_SELECTOR, ".answer").get_attribute("textContent")
            assert text is not None
            if len(text) > lengths[-1]:
                lengths.append(len(text))
            return len(lengths) > 4

        page.wait(grown)
        if stop == "button":
            page.one("#stop").click()
        else:
            page.one("#prompt").send_keys(Keys.ESCAPE)
        page.last_turn("stopped")
        assert "stopped" in turn.find_element(By.CSS_SELECTOR, ".figures").text
        assert page.one("#send").is_displayed()
    wait_until(lambda: metrics(stack)[cancelled] == before + 2)
    wait_until(lambda: metrics(stack)["glm_requests_running"] == 0)


def test_an_example_with_boxes(stack: Stack, page: Page) -> None:
    page.open(stack.web_url)
    examples = page.all("#examples button")
    assert len(examples) >= 6
    (chosen,) = [example for example in examples if "box around the circle" in example.text]
    chosen.click()
    assert page.answer()
    page.wait(lambda: len(page.all(".boxes .box")) == 1)
    picture, box = page.one(".boxes img").rect, page.one(".boxes .box").rect
    # As drawn: a circle of radius 88 around (361, 200), of 480 x 320.
    truth = (273 / 480, 112 / 320, 449 / 480, 288 / 320)
    left, top = ((box[i] - picture[i]) / picture[s] for i, s in (("x", "width"), ("y", "height")))
    right, bottom = left + box["width"] / picture["width"], top + box["height"] / picture["height"]
    wide = min(right, truth[2]) - max(left, truth[0])
    high = min(bottom, truth[3]) - max(top, truth[1])
    assert wide > 0 and high > 0
    both = wide * high
    either = (right - left) * (bottom - top) + (truth[2] - truth[0]) * (truth[3] - truth[1]) - both
    assert both / either > 0.5  # the demo checkpoint's boxes are coarse


def test_an_error_is_told_and_nothing_is_lost(stack: Stack, page: Page, tmp_path: Path) -> None:
    page.open(stack.web_url)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    page.upload(broken)
    page.ask("What is it?")
    error = page.last_turn("failed").find_element(By.CSS_SELECTOR, ".error").text
    assert "messages[0].content[0].image_url" in error
    page.one("[data-action=edit]").click()
    assert page.one("#prompt").get_attribute("value") == "What is it?"
    page.one("#attachments .remove").click()
    page.upload(PICTURES / "photo-star.jpg")
    page.one("#prompt").clear()
    page.ask("Describe the image.")
    assert page.answer() == DESCRIPTIONS["photo-star.jpg"]


def test_what_is_no_picture_is_not_taken(stack: Stack, page: Page, tmp_path: Path) -> None:
    page.open(stack.web_url)
    document = tmp_path / "report.pdf"
    document.write_bytes(b"%PDF-1.7")
    page.one("#files").send_keys(str(document))
    page.wait(lambda: "report.pdf" in page.one("#notice").text)
    assert page.all("#attachments li") == []


def test_parameters_are_sent_and_kept(stack: Stack, page: Page) -> None:
    page.open(stack.web_url)
    page.one("#open-settings").click()
    page.one("[name=thinking]").click()
    page.one("[name=max_tokens]").clear()
    page.one("[name=max_tokens]").send_keys("3" + Keys.ESCAPE)
    page.give("paste", "photo-circle.jpg")
    page.ask("What is in this image?")
    assert page.answer() in DESCRIPTIONS["photo-circle.jpg"]
    assert "3 tokens" in page.one(".figures").text and "cut off" in page.one(".figures").text
    assert not page.one(".thought").is_displayed()
    page.run("location.reload()")
    page.wait_state("ready")
    assert page.one("[name=max_tokens]").get_attribute("value") == "3"
    page.one("#open-settings").click()
    page.one("#reset-settings").click()
    assert page.one("[name=max_tokens]").get_attribute("value") == "2048"


def test_chinese_on_a_dark_phone(stack: Stack, page: Page) -> None:
    page.open(stack.web_url, PHONE, "zh-CN", "dark")
    assert page.one("h2").text == "看图提问"
    assert page.run("return document.documentElement.lang") == "zh-CN"
    page.all("#examples button")[6].click()
    assert page.answer() == "第二张图片。"
    assert "首 token" in page.one(".figures").text
    for element in ("document.documentElement", "document.querySelector('#scroll')"):
        assert page.run(f"return {element}.scrollWidth <= innerWidth")
    colour = "return getComputedStyle(document.body).backgroundColor"
    dark = page.run(colour)
    page.one("#toggle-theme").click()
    page.one("#toggle-language").click()
    assert page.run(colour) != dark
    assert "TTFT" in page.one(".figures").text
    page.run("location.reload()")
    page.wait_state("ready")
    assert page.run(colour) != dark and page.one("h2").text == "Ask about a picture"


def test_text_of_the_model_is_never_markup(stack: Stack, page: Page) -> None:
    page.open(stack.web_url)
    text = (
        "<img src=x onerror=alert(1)> <b>bold</b> ![a](https://example.com/a.png) "
        "[bad](javascript:alert(1)) [good](https://example.com)\n\n"
        "**strong** and $x^2$\n\n| a | b |\n|---|--:|\n| 1 | 2 |"
    )
    shown = page.run(
        "return import('/markdown.js').then(({ MarkdownView }) => {"
        "  const element = document.querySelector('#conversation');"
        "  const view = new MarkdownView(element);"
        "  const text = arguments[0];"
        "  for (let end = 0; end <= text.length; end++) view.show(text.slice(0, end));"
        "  return element.querySelectorAll('img, b, script, [onerror], [href^=java]').length;"
        "})",
        text,
    )
    assert shown == 0
    assert page.texts("#conversation strong") == ["strong"]
    assert "<b>bold</b>" in page.one("#conversation").text
    assert page.one("#conversation td[align=right]").text == "2"
    (link,) = page.all("#conversation a[href]")
    assert link.get_attribute("rel") == "noopener noreferrer"
    page.wait(lambda: len(page.all("#conversation .katex")) == 1)


@pytest.mark.timing
def test_a_server_with_keys_that_goes_and_comes_back(stack: Stack, page: Page) -> None:
    api_port, web_port = map(str, free_ports(2))
    api, web = f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{web_port}"
    photograph = PICTURES / "photo-circle.jpg"
    limit = str(photograph.stat().st_size - 1)  # so it has to be scaled down
    frontend = {
        "GLM_PORT": api_port, "GLM_TRITON_URL": stack.grpc_url,
        "GLM_API_KEYS": "sk-web", "GLM_RATE_LIMIT": "1/minute", "GLM_MAX_IMAGE_BYTES": limit,
    }  # fmt: skip
    settings = {
        "GLM_WEB_PORT": web_port, "GLM_WEB_API_URL": api, "GLM_MAX_IMAGE_BYTES": limit,
    }  # fmt: skip
    with program("glm_web", web, **settings):
        page.open(web, state="gone")
        assert "cannot be reached" in page.one("#banner").text
        page.upload(photograph)
        page.ask_in_vain("What is in this image?")
        assert "not ready" in page.one("#notice").text
        with program("glm_frontend", f"{api}/v1/health/live", **frontend):
            page.wait_state("ready")
            assert not page.one("#banner").is_displayed()
            page.wait(lambda: "API key" in page.one("#notice").text)
            page.one("#open-settings").click()
            page.one("[name=key]").send_keys("sk-web" + Keys.ESCAPE)
            page.wait(lambda: not page.one("#notice").is_displayed())
            page.one("#send").click()
            assert page.answer() == DESCRIPTIONS["photo-circle.jpg"]
            page.ask("What color is the circle?")
            assert "rate limit" in page.last_turn("failed").text
            assert not page.all("[data-action=retry]")[-1].is_enabled()
        page.all("[data-action=edit]")[-1].click()
        page.wait_state("gone")
        with program("glm_frontend", f"{api}/v1/health/live", **frontend):
            page.wait_state("ready")
            page.one("#send").click()
            assert page.answer() == "The circle is blue."


@pytest.mark.timing
def test_a_server_that_loads_and_one_that_is_full(stack: Stack, page: Page) -> None:
    api_port, web_port, nobodys = map(str, free_ports(3))
    api, web = f"http://127.0.0.1:{api_port}", f"http://127.0.0.1:{web_port}"
    frontend = {"GLM_PORT": api_port, "GLM_MAX_INFLIGHT": "1"}
    live = f"{api}/v1/health/live"
    with program("glm_web", web, GLM_WEB_PORT=web_port, GLM_WEB_API_URL=api):
        with program("glm_frontend", live, **frontend, GLM_TRITON_URL=f"127.0.0.1:{nobodys}"):
            page.open(web, state="loading")
            assert "Not ready yet" in page.one("#banner").text
            page.ask_in_vain("Who are you?")
            assert "not ready" in page.one("#notice").text
        with program("glm_frontend", live, **frontend, GLM_TRITON_URL=stack.grpc_url):
            page.wait_state("ready")
            body = chat("hello", stream=True, ignore_eos=True, max_tokens=4000, n=16)
            with requests.post(f"{api}/v1/chat/completions", json=body, stream=True, timeout=60):
                page.one("#send").click()
                assert "full" in page.last_turn("failed").text
            retry = page.all("[data-action=retry]")[-1]
            page.wait(retry.is_enabled)
            retry.click()
            assert page.answer()
