"""How a card's memory would be used, for GLM-4.6V-Flash and for the cards in the manual."""

import json
import re
from pathlib import Path

import pytest
from transformers import AutoConfig

from benchmarks.gpu_check import FLASH_TEXT, FLASH_VISION
from glm_engine.plan import main, parse_memory
from glm_engine.quantization.schemes import SCHEMES
from glm_engine.quantize import quantize
from unit.paths import DEMO_CHECKPOINT, ROOT


@pytest.fixture(scope="module")
def flash(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the real model's config.json, and nothing else."""
    folder = tmp_path_factory.mktemp("flash")
    AutoConfig.for_model(
        "glm4v", text_config=FLASH_TEXT, vision_config=FLASH_VISION
    ).save_pretrained(folder)
    return folder


def plan(capsys: pytest.CaptureFixture[str], *arguments: str, **env: str) -> dict[str, float]:
    """The printed numbers by their names; sizes in GB."""
    code = main(arguments, env)
    lines = capsys.readouterr().out.splitlines()
    found = [re.match(r" *(\S.*?)  +(-?[\d.,]+)", line) for line in lines]
    numbers = {line[1]: float(line[2].replace(",", "")) for line in found if line}
    assert code == (numbers["tokens in it"] < 1)
    return numbers


@pytest.mark.parametrize(
    ("quantization", "weights"), [("none", 20.59), ("int8", 11.81), ("fp8", 11.81), ("int4", 7.86)]
)
def test_weights_of_the_real_model(
    flash: Path, quantization: str, weights: float, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan(
        capsys, "--memory", "80GiB", "--checkpoint", str(flash), "--quantization", quantization
    )
    assert found["weights"] == weights
    parts = ("language model", "output head", "embeddings", "vision encoder")
    assert sum(found[part] for part in parts) == pytest.approx(weights, abs=0.02)
    assert found["requests of 131,072 tokens"] >= 8


def test_what_does_not_fit_is_the_exit_code(
    flash: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = plan(capsys, "--memory", "16GiB", GLM_MODEL=str(flash))
    assert found["left for the KV cache"] < 0 and found["tokens in it"] == 0


def profiles() -> dict[str, tuple[dict[str, str], int]]:
    """The settings, and the tokens of KV cache, of each card in the manual."""
    page = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+ GB), (\w+) \| (.+?) \| ([\d,]+) \|$", page, re.MULTILINE)
    return {
        f"{card} {quantization}": (
            dict(re.findall(r"(GLM_\w+)=(\S+?)`", settings)),
            int(tokens.replace(",", "")),
        )
        for card, quantization, settings, tokens in rows
    }


@pytest.mark.parametrize("card", profiles())
def test_the_profiles_of_the_manual_fit(
    card: str, flash: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, tokens = profiles()[card]
    size, quantization = card.rsplit(" ", 1)
    assert settings["GLM_QUANTIZATION"] == quantization
    memory = size.replace(" GB", "GiB")
    found = plan(capsys, "--memory", memory, GLM_MODEL=str(flash), **settings)
    assert tokens <= found["tokens in it"] <= tokens + 1000


def test_there_are_profiles_for_small_cards() -> None:
    assert {"12 GB int4", "16 GB int8", "16 GB fp8"} <= set(profiles())


def test_a_quantised_checkpoint_has_the_size_of_its_tensors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More than the same quantised while loading, by the output head."""
    quantize(DEMO_CHECKPOINT, tmp_path, SCHEMES["int4"], {})
    head = 785 * 256
    stored = plan(capsys, "--memory", "8GB", GLM_MODEL=str(tmp_path))
    loaded = plan(
        capsys, "--memory", "8GB", "--quantization", "int4", GLM_MODEL=str(DEMO_CHECKPOINT)
    )
    assert stored["left for the KV cache"] == pytest.approx(
        loaded["left for the KV cache"] - head / 1e9, abs=0.02
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GiB", 16 * 2**30), ("12 GB", 12 * 10**9), ("24G", 24 * 2**30), ("1.5TiB", 3 * 2**39),
     ("100", 100)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "much"], "'much'"),
        (["--memory", "16GiB"], "give --checkpoint"),
        (["--memory", "16GiB", "--checkpoint", "/nowhere"], "no config.json in /nowhere"),
        (["--memory", "16GiB", "--quantization", "q4"], "invalid choice: 'q4'"),
    ],
)
def test_bad_arguments_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(arguments, {})
    assert message in capsys.readouterr().err


def test_a_checkpoint_that_is_not_understood_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((DEMO_CHECKPOINT / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hqq"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        main(["--memory", "16GiB", "--checkpoint", str(tmp_path)], {})
    assert "quantization_config.quant_method='hqq' is not supported" in capsys.readouterr().err
