"""``make gpu-check ARGS=--dry``: the script that will run once on a GPU runs here first."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu_check

# In the order of their worth: a run that is cut short has the first ones.
CHECKS = [
    "kernels", "right", "peaks", "graphs", "decode", "prefill", "follow-up", "pictures",
    "throughput", "mixed", "memory", "compilations", "bandwidth", "profile", "masks", "loading",
]  # fmt: skip


@pytest.mark.slow
def test_the_dry_run_makes_every_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "PAGE", tmp_path / "gpu.md")
    output = tmp_path / "result.json"
    assert gpu_check.main(["--dry", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert result["failed"] == [] and list(result["seconds_at"]) == CHECKS
    assert result["right"]["equal tokens, float32"] == 1
    assert max(result["kernels"]["torch.float32"].values()) < 1e-5
    assert {"batch 1", "batch 64, everything", "63 short, one long"} <= set(result["decode"])
    assert result["throughput"]["all_done"] and result["mixed"]["all_done"]
    assert result["throughput"]["output_tokens_per_second"] > 0
    # A page is made of a GPU's results only.
    assert gpu_check.main(["--page", str(output)]) == 2 and not gpu_check.PAGE.exists()
    text = gpu_check.page(result)
    assert "| batch 64, everything |" in text and "TFLOP/s" in text


def test_a_check_that_fails_is_noted_and_the_next_one_runs(tmp_path: Path) -> None:
    run = gpu_check.Run(tmp_path / "folder" / "result.json", dry=True)

    def fails() -> None:
        raise RuntimeError("no kernel image")

    assert run.note("first", fails) is None and run.note("second", lambda: 2) == 2
    written = json.loads((tmp_path / "folder" / "result.json").read_text())
    assert written["failed"] == ["first: RuntimeError: no kernel image"]
    assert written["second"] == 2 and list(written["seconds_at"]) == ["first", "second"]
