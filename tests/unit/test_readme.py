"""What the README and the other pages say is true of the tree."""

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from glm_engine.config import EngineConfig
from glm_preprocessing.settings import PreprocessingSettings
from launcher.settings import LauncherSettings, variable
from unit.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh.md").read_text(encoding="utf-8")
COMPARISON = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8")
PAGES = [
    ROOT / name
    for name in (
        *("README.md", "README.zh.md", "CONTRIBUTING.md", "deploy/README.md"),
        *("client/README.md", "benchmarks/README.md", "demo_model/README.md"),
        "frontend/glm_web/README.md",
        *("docs/architecture.md", "docs/operate.md", "docs/api.md", "docs/clients.md"),
        *("docs/comparison.md", "docs/triton.md", "client/examples/triton_models/README.md"),
    )
]
# Told by the launcher to its own processes.
INTERNAL = {"GLM_STATUS_FILE", "GLM_HEARTBEATS"}


def test_every_row_of_the_comparison_has_its_test() -> None:
    table = COMPARISON.partition("## Beside vLLM")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        found = re.search(r"`(tests/[\w/]+\.py)::(test_\w+)` \|$", row)
        assert found, row
        tree = ast.parse((ROOT / found[1]).read_text(encoding="utf-8"))
        names = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert found[2] in names, row


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_into_the_tree_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    for link in [link for link in links if "://" not in link]:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_that_is_named_is_there(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make\s+([a-z-]+)", page.read_text(encoding="utf-8")):
        assert f"\n{target}:" in makefile, target


def test_every_setting_is_in_the_operators_table() -> None:
    page = (ROOT / "deploy/README.md").read_text(encoding="utf-8")
    rows = page.partition("## Settings")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(GLM_\w+)`", "".join(re.findall(r"^\| (.+?) \|", rows, re.MULTILINE))))
    settings = {variable(name) for name in LauncherSettings.model_fields}
    for kind in (EngineConfig, PreprocessingSettings):
        settings |= {variable(field.name) for field in fields(kind)}
    assert told == settings - INTERNAL


def test_the_chinese_readme_has_the_same_commands_and_places() -> None:
    def blocks(page: str) -> list[str]:
        return re.findall(r"^```\w*\n(.+?)^```", page, re.MULTILINE | re.DOTALL)

    def urls(page: str) -> set[str]:
        return set(re.findall(r"http://127\.0\.0\.1[\w:/.-]*\w", page))

    assert len(blocks(README)) > 5
    commands = [block for block in blocks(README) if "──" not in block]  # drawings have words
    assert [block for block in blocks(CHINESE) if "──" not in block] == commands
    assert urls(CHINESE) == urls(README)
    assert CHINESE.count("\n## ") == README.count("\n## ")
