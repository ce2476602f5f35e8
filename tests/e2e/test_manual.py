"""What the manual promises: its two call examples word for word, its fields, its answer's shape."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from e2e.calls import MODEL, PICTURES, chat, content, data_uri, post
from tools.stack import Stack

MANUAL = Path(__file__).parent / "manual"


def _example(name: str, stack: Stack) -> str:
    """An example of the manual, with the server's address put in."""
    return (MANUAL / name).read_text(encoding="utf-8").replace("http://<IP>:8000", stack.base_url)


def test_the_python_example(stack: Stack, tmp_path: Path) -> None:
    shutil.copy(PICTURES / "plot-three.jpg", tmp_path / "test.jpg")
    run = subprocess.run(
        [sys.executable, "-c", _example("python-example.txt", stack)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout == "Response: 一个绿色的三角形、一个黄色的星形和一个紫色的圆形。\n"


def test_the_curl_example(stack: Stack) -> None:
    command = ["bash", "-c", _example("curl-example.txt", stack)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    # The picture is one half-transparent yellow pixel.
    answer = json.loads(run.stdout)["choices"][0]["message"]["content"]
    assert answer == "Nothing but a yellow background."


def test_the_answers_shape(stack: Stack) -> None:
    answer = post(stack, chat("What is in this image?", "plot-42.png")).json()
    assert answer["object"] == "chat.completion" and answer["model"] == MODEL
    assert isinstance(answer["id"], str) and isinstance(answer["created"], int)
    choice = answer["choices"][0]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"]
    usage = answer["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert usage["prompt_tokens_details"]["image_tokens"] >= 16


def test_length_is_told_from_stop(stack: Stack) -> None:
    answer = post(stack, chat("What is in this image?", "plot-42.png", max_tokens=2)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 2


def test_max_tokens_is_512_when_left_open(stack: Stack) -> None:
    """The answer's: its thought has a bound of its own."""
    usage = post(stack, chat("hello", ignore_eos=True)).json()["usage"]
    thought = usage["completion_tokens_details"]["reasoning_tokens"]
    assert usage["completion_tokens"] == thought + 512


def test_content_may_be_one_part_instead_of_a_list(stack: Stack) -> None:
    body = chat("hello")
    body["messages"][0]["content"] = {"type": "text", "text": "Who are you?"}
    assert "demo model" in content(post(stack, body))


def test_a_second_turn_about_the_same_picture(stack: Stack) -> None:
    body = chat("What is in this image?", "plot-circle-square.png")
    first = content(post(stack, body))
    body["messages"] += [
        {"role": "assistant", "content": first},
        {"role": "user", "content": "What color is the square?"},
    ]
    assert content(post(stack, body)) == "The square is blue."


def test_two_pictures_in_one_message(stack: Stack) -> None:
    pictures = ("plot-42.png", "browser-star.png")
    assert content(post(stack, chat("Which image has a pink star?", *pictures))) == (
        "The second image."
    )


def test_no_picture_and_who_it_is(stack: Stack) -> None:
    assert content(post(stack, chat("What is in this image?"))) == "I do not see an image."
    assert content(post(stack, chat("你是谁？"))) == "我是一个看简单图片的小模型。"


@pytest.mark.parametrize("thinking", [True, False])
def test_the_thought_is_apart_from_the_answer(stack: Stack, thinking: bool) -> None:
    kwargs = {"enable_thinking": thinking}
    body = chat("What is in this image?", "plot-42.png", chat_template_kwargs=kwargs)
    message = post(stack, body).json()["choices"][0]["message"]
    assert message["content"] == "The number 42."
    assert bool(message.get("reasoning_content")) is thinking


def test_raw_inference_as_json(stack: Stack) -> None:
    body = {
        "prompt": "What is in the second image?",
        "images": [data_uri("plot-42.png"), data_uri("browser-star.png").split(",")[1]],
        "temperature": 0,
    }
    answer = post(stack, body, "/v1/multi-modal/inference").json()
    assert answer["text"] == "A pink star." and answer["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] > 0


def test_raw_inference_as_a_form_with_files_by_curl(stack: Stack) -> None:
    run = subprocess.run(
        ["curl", "-sS", "-F", "prompt=What is in this image?", "-F", "temperature=0",
         "-F", f"image=@{PICTURES / 'photo-square.jpg'}",
         f"{stack.base_url}/v1/multi-modal/inference"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert json.loads(run.stdout)["text"] == "A red square."


def test_health_models_and_docs(stack: Stack) -> None:
    health = requests.get(f"{stack.base_url}/v1/health", timeout=60)
    assert health.status_code == 200 and health.json()["status"] == "ok"
    models = requests.get(f"{stack.base_url}/v1/models", timeout=60).json()
    assert [model["id"] for model in models["data"]] == [MODEL]
    docs = requests.get(f"{stack.base_url}/docs", timeout=60)
    assert docs.status_code == 200 and "swagger-ui" in docs.text
