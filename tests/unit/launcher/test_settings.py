from pathlib import Path

import pytest
from pydantic import ValidationError

from glm_frontend.settings import describe
from glm_preprocessing.settings import PreprocessingSettings
from launcher.settings import LauncherSettings, settings_help


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No GLM_ variable of the caller's; the working folder holds a checkpoint folder."""
    for name in LauncherSettings.model_fields:
        monkeypatch.delenv(f"GLM_{name.upper()}", raising=False)
    (tmp_path / "checkpoint").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLM_MODEL", "checkpoint")
    return tmp_path


def problem() -> str:
    with pytest.raises(ValidationError) as caught:
        LauncherSettings()
    return describe(caught.value)


def test_ports_of_the_design() -> None:
    settings = LauncherSettings()
    assert settings.base_url == "http://127.0.0.1:8000"
    assert settings.triton_grpc_url == "127.0.0.1:8001"
    assert settings.triton_metrics_url == "http://127.0.0.1:8002"
    assert settings.triton_http_url == "http://127.0.0.1:8003"


def test_model_folder_becomes_absolute(environment: Path) -> None:
    assert LauncherSettings().model == str(environment / "checkpoint")


def test_decoding_in_time_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_VIDEO_DECODE_TIMEOUT", "60")
    assert problem().startswith("GLM_PREPROCESSING_TIMEOUT=90 must be more than GLM_IMAGE_DECODE_")
    monkeypatch.setenv("GLM_PREPROCESSING_TIMEOUT", "91")
    assert LauncherSettings().video_decode_timeout == 60


def test_stage_1_has_the_same_defaults() -> None:
    stage = PreprocessingSettings.from_env({"GLM_MODEL": "x"})
    own = LauncherSettings()
    assert stage.image_decode_timeout == own.image_decode_timeout
    assert stage.video_decode_timeout == own.video_decode_timeout


def test_hub_id_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_MODEL", "zai-org/GLM-4.6V-Flash")
    assert LauncherSettings().model == "zai-org/GLM-4.6V-Flash"


@pytest.mark.parametrize("value", ["./missing", "/missing/checkpoint", "~/missing", ""])
def test_missing_model_folder_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("GLM_MODEL", value)
    assert problem() == f"GLM_MODEL={value!r}: no such folder"


def test_each_bad_value_is_named_with_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_PORT", "eighty")
    monkeypatch.setenv("GLM_TRITON_HTTP_PORT", "70000")
    lines = problem().splitlines()
    assert lines[0].startswith("GLM_PORT='eighty': ")
    assert lines[1].startswith("GLM_TRITON_HTTP_PORT='70000': ")


def test_dangerous_options_of_triton_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_TRITON_OPTIONS", "--log-verbose=1 --model-control-mode=none")
    assert problem().startswith("GLM_TRITON_OPTIONS=")
    assert ": --model-control-mode may not be given: the launcher loads all models" in problem()


def test_tls_of_triton_and_of_the_frontend_go_together(
    monkeypatch: pytest.MonkeyPatch, environment: Path
) -> None:
    pem = environment / "a.pem"
    pem.write_text("")
    monkeypatch.setenv("GLM_TRITON_OPTIONS", "--grpc-use-ssl=true")
    assert problem().startswith("GLM_TRITON_ROOT_CERTIFICATE is needed for the frontend")
    monkeypatch.setenv("GLM_TRITON_ROOT_CERTIFICATE", str(pem))
    tls = LauncherSettings().triton_tls
    assert tls is not None and tls.root_certificate == pem
    monkeypatch.setenv("GLM_TRITON_OPTIONS", "--grpc-use-ssl-mutual=true")
    assert problem().startswith("GLM_TRITON_CERTIFICATE is needed for the frontend")
    monkeypatch.setenv("GLM_TRITON_CERTIFICATE", str(pem))
    assert problem() == "GLM_TRITON_CERTIFICATE and GLM_TRITON_KEY: set both or none of them"
    monkeypatch.setenv("GLM_TRITON_KEY", str(pem))
    assert LauncherSettings().triton_option_list == ["--grpc-use-ssl-mutual=true"]
    monkeypatch.setenv("GLM_TRITON_OPTIONS", "")
    assert "needs --grpc-use-ssl=true" in problem()
    monkeypatch.setenv("GLM_FRONTEND", "false")  # then clients bring their own certificates
    monkeypatch.delenv("GLM_TRITON_ROOT_CERTIFICATE")
    assert problem() == "GLM_TRITON_CERTIFICATE needs GLM_TRITON_ROOT_CERTIFICATE"


def test_equal_ports_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_TRITON_GRPC_PORT", "8000")
    assert problem() == "GLM_PORT and GLM_TRITON_GRPC_PORT are both 8000"


@pytest.mark.parametrize(
    ("bound", "dialled"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]"), ("10.0.0.7", "10.0.0.7")],
)
def test_address_to_dial(monkeypatch: pytest.MonkeyPatch, bound: str, dialled: str) -> None:
    monkeypatch.setenv("GLM_HOST", bound)
    assert LauncherSettings().base_url == f"http://{dialled}:8000"


def test_a_bad_setting_of_the_frontend_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_MAX_INFLIGHT", "none")
    assert problem().startswith("GLM_MAX_INFLIGHT='none': ")


def test_help_lists_the_launcher_s_settings() -> None:
    text = settings_help()
    assert "GLM_MODEL " in text and "GLM_TRITON_GRPC_PORT " in text
    assert "None" not in text
