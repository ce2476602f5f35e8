"""client/README.md names everything that a client can send, and get."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from glm_client import GenerationDelta, GenerationRequest, errors

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "client" / "README.md").read_text(encoding="utf-8")
GENERATION = ROOT / "model_repository" / "generation"
NAMES = set(re.findall(r"`(\w+)`", README))


def _sampling_parameters() -> set[str]:
    """The keys that the engine reads; its package needs torch, so only its source is looked at."""
    source = (GENERATION / "1" / "glm_engine" / "request.py").read_text(encoding="utf-8")
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "_READERS":
            assert isinstance(node.value, ast.Dict)
            return {ast.literal_eval(key) for key in node.value.keys if key is not None}
    raise AssertionError("request.py has no _READERS")


def _inputs() -> set[str]:
    text = (GENERATION / "config.pbtxt").read_text(encoding="utf-8")
    return {tensor.name for tensor in text_format.Parse(text, model_config_pb2.ModelConfig()).input}


@pytest.mark.parametrize(
    "names",
    [
        pytest.param({field.name for field in fields(GenerationRequest)}, id="fields"),
        pytest.param(_inputs(), id="inputs"),
        pytest.param(_sampling_parameters(), id="sampling parameters"),
        pytest.param({field.name for field in fields(GenerationDelta)}, id="what comes back"),
        pytest.param(
            {error.__name__ for error in errors.GLMError.__subclasses__()} | {"GLMError"},
            id="errors",
        ),
    ],
)
def test_everything_is_described(names: set[str]) -> None:
    assert names - NAMES == set()


def test_every_example_is_listed_and_every_link_leads_somewhere() -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)", README) if "://" not in link}
    for link in links:
        assert (ROOT / "client" / link).exists(), link
    examples = {
        f"examples/{path.name}"
        for path in (ROOT / "client" / "examples").iterdir()
        if path.suffix in (".py", ".sh", ".ipynb")
    }
    assert examples <= links
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors
