"""docs/architecture.md names files and classes that are there."""

import ast
import re

from tools.stack import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
# A path may be given from the package that the text is about.
FOLDERS = (
    ROOT,
    ROOT / "frontend" / "glm_frontend",
    ROOT / "model_repository" / "generation" / "1",
    ROOT / "model_repository" / "generation" / "1" / "glm_engine",
    ROOT / "model_repository" / "preprocessing" / "1" / "glm_preprocessing",
)


def test_every_file_is_there() -> None:
    paths = set(re.findall(r"`([\w/.]+(?:\.py|/))`", PAGE))
    assert len(paths) > 30
    for path in paths:
        assert any((folder / path).exists() for folder in FOLDERS), path


def test_every_class_and_function_is_there() -> None:
    names = set(re.findall(r"`([A-Za-z_]+)`", PAGE))
    defined = set()
    for folder in ("frontend", "client/glm_client", "model_repository", "launcher"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    defined.add(node.name)
    others = {  # packages, threads, fields and parameters that the page names as well
        *("glm_client", "glm_frontend", "glm_triton", "glm_engine", "glm_format"),
        *("engine", "responses", "metrics", "max_queue", "error_details"),
    }
    assert len(names & defined) > 30
    assert names - others <= defined
