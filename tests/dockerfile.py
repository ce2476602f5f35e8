"""Dockerfile.triton, read as far as the tests need it: there is no Docker engine where they run."""

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

Instruction = tuple[str, str]


def instructions() -> list[Instruction]:
    """All, as name and the rest of the line."""
    lines = (ROOT / "Dockerfile.triton").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2]) for line in joined if line]


def stages() -> dict[str, list[Instruction]]:
    """Those of each stage, by its name."""
    found: dict[str, list[Instruction]] = {}
    for instruction, value in instructions():
        if instruction == "FROM":
            found[value.partition(" AS ")[2]] = []
        elif found:
            list(found.values())[-1].append((instruction, value))
    return found


def copy_stage(name: str, folder: Path) -> None:
    """Copy what a stage copies from the tree, to where it lies under the stage's /opt/glm."""
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for instruction, value in stages()[name]:
        if instruction != "COPY" or "--" in value:
            continue
        *sources, target = value.split()
        for source in sources:
            place = folder / target
            if target.endswith("/"):
                place /= Path(source).name
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=ignore)
            else:
                shutil.copy2(ROOT / source, place)
