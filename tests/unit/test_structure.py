"""A class is found by its name: in no process do two have the same."""

import ast
from collections import defaultdict

import pytest

from tools.stack import ROOT


@pytest.mark.parametrize(
    "folders",
    [
        ("client/glm_client", "frontend/glm_frontend", "frontend/glm_web"),
        ("model_repository/generation/1",),
        ("model_repository/preprocessing/1",),
        ("client/glm_client", "frontend/glm_frontend", "frontend/glm_web", "launcher"),
    ],
    ids=["frontend", "generation", "preprocessing", "launcher"],
)
def test_class_names_are_unique_in_a_process(folders: tuple[str, ...]) -> None:
    files: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    files[node.name].append(str(file.relative_to(ROOT)))
    assert len(files) > 5
    assert {name: found for name, found in files.items() if len(found) > 1} == {}
