"""`variables.py` knows the names of all settings that the parts read, and no others."""

from collections.abc import Iterator, Mapping
from dataclasses import fields

import pytest

from glm_engine.config import EngineConfig
from glm_frontend.variables import LAUNCHED, NAMES, unknown_variables
from glm_preprocessing.settings import PreprocessingSettings
from launcher.settings import LauncherSettings, variable

# What the launcher tells its processes, the client's programs and compose.yaml read.
OTHERS = {"GLM_HEARTBEATS", LAUNCHED, "GLM_API_KEY", "GLM_URL", "GLM_DATA"}


class Asked(Mapping[str, str]):
    """An environment with no more than a model, and what was looked up in it."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return {"GLM_MODEL": "x"}[name]

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("settings are read by their names")

    def __len__(self) -> int:
        raise AssertionError("settings are read by their names")


def test_every_setting_is_known_and_every_known_name_is_a_setting() -> None:
    asked = Asked()
    settings = {variable(name) for name in LauncherSettings.model_fields}
    for kind in (EngineConfig, PreprocessingSettings):
        kind.from_env(asked)
        settings |= {variable(field.name) for field in fields(kind)}
    assert asked.names <= settings
    assert settings | OTHERS == NAMES


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("GLM_CPU_THREAD", "there is no such setting; did you mean GLM_CPU_THREADS?"),
        ("GLM_KV_CACHE", "there is no such setting; did you mean GLM_KV_CACHE_MEMORY?"),
        ("GLM_MAX_SEQS", "there is no such setting; did you mean GLM_MAX_NUM_SEQS?"),
        ("GLM_TELEMETRY", "there is no such setting (deploy/README.md lists all)"),
    ],
)
def test_an_unknown_name_is_reported_with_the_nearest_and_without_its_value(
    name: str, sentence: str
) -> None:
    env = {name: "sk-secret", "GLM_PORT": "8000", "PATH": "/bin", "XGLM_FOO": "1"}
    assert unknown_variables(env) == [f"{name} is ignored: {sentence}"]
    assert unknown_variables(env | {LAUNCHED: "true"}) == []
