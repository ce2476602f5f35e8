"""Settings from the environment; bad ones by name and value."""

import pytest

from glm_frontend.settings import Settings, SettingsError, load_settings


def test_defaults() -> None:
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.triton_url == "127.0.0.1:8001"
    assert settings.served_model_name == "glm-4.6v-flash"
    assert (settings.api_keys, settings.cors_origins) == ((), ())
    assert settings.max_body_bytes == 32 * 1024 * 1024
    assert settings.image_fetch


def test_values(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "GLM_PORT": "9000",
        "GLM_API_KEYS": " one, two ,",
        "GLM_CORS_ORIGINS": "https://a.example,http://localhost:7860",
        "GLM_IMAGE_FETCH": "off",
        "GLM_IMAGE_FETCH_ALLOWED_HOSTS": "pictures.example",
        "GLM_LOG_LEVEL": "WARNING",
        "GLM_MODEL": "another program's setting",
    }.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.port == 9000
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]
    assert settings.cors_origins == ("https://a.example", "http://localhost:7860")
    assert not settings.image_fetch
    assert settings.image_fetch_allowed_hosts == ("pictures.example",)
    assert settings.log_level == "warning"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GLM_PORT", "abc"),
        ("GLM_PORT", "70000"),
        ("GLM_PORT", ""),
        ("GLM_HOST", " "),
        ("GLM_SERVED_MODEL_NAME", ""),
        ("GLM_MAX_BODY_BYTES", "0"),
        ("GLM_MAX_IMAGES", "-1"),
        ("GLM_MAX_IMAGE_BYTES", "1.5"),
        ("GLM_MAX_VIDEOS", "-1"),
        ("GLM_MAX_VIDEO_BYTES", "0"),
        ("GLM_MAX_INFLIGHT", "0"),
        ("GLM_REQUEST_TIMEOUT", "0"),
        ("GLM_REQUEST_TIMEOUT", "inf"),
        ("GLM_GRACEFUL_TIMEOUT", "-1"),
        ("GLM_IMAGE_FETCH", "perhaps"),
        ("GLM_IMAGE_FETCH_TIMEOUT", "nan"),
        ("GLM_LOG_LEVEL", "loud"),
        ("GLM_CORS_ORIGINS", "example.com"),
        ("GLM_CORS_ORIGINS", "https://example.com/path"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert str(error.value).startswith(name)
    assert value in str(error.value)


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_PORT", "abc")
    monkeypatch.setenv("GLM_MAX_IMAGES", "x")
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert [line.partition("=")[0] for line in str(error.value).splitlines()] == [
        "GLM_PORT",
        "GLM_MAX_IMAGES",
    ]


def test_a_bad_key_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLM_API_KEYS", "sch lüssel")
    with pytest.raises(SettingsError, match=r"^GLM_API_KEYS: a key may only have visible ASCII"):
        load_settings()


def test_keys_do_not_show() -> None:
    assert "secret" not in repr(Settings(api_keys=("secret",)))  # type: ignore[arg-type]
