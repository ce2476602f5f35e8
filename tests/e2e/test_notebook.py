"""The notebook runs from top to bottom, and gives what is stored in it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools.stack import ROOT, Stack

NOTEBOOK = ROOT / "client" / "examples" / "quickstart.ipynb"


def _outputs(path: Path) -> dict[str, Any]:
    """What each cell of code shows, by the cell's id: printed text, and values and pictures."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {
        cell["id"]: (
            # A print may come in one piece or in several.
            "".join(line for output in cell["outputs"] for line in output.get("text", [])),
            [
                ("".join(output["data"]["text/plain"]), sorted(output["data"]))
                for output in cell["outputs"]
                if "data" in output
            ],
        )
        for cell in cells
        if cell["cell_type"] == "code" and "varies" not in cell["metadata"].get("tags", [])
    }


def test_a_run_gives_the_outputs_that_are_stored(stack: Stack, tmp_path: Path) -> None:
    """To store those of a new run: `jupyter execute --inplace`, against a server that runs."""
    copy = tmp_path / NOTEBOOK.name
    copy.write_bytes(NOTEBOOK.read_bytes())
    (tmp_path / "pictures").symlink_to(NOTEBOOK.parent / "pictures")
    urls = {"GLM_URL": stack.base_url, "GLM_TRITON_URL": stack.grpc_url}
    run = subprocess.run(
        [sys.executable, "-m", "jupyter", "execute", "--inplace", str(copy)],
        env=os.environ | urls, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    outputs = _outputs(copy)
    assert outputs == _outputs(NOTEBOOK)
    # It shows something: an answer, the picture, and the picture with boxes.
    assert "A red circle and a blue square." in {text for text, _ in outputs.values()}
    assert str(outputs).count("image/png") == 2
