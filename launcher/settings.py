"""The launcher's settings, read from the environment (prefix ``GLM_``): the frontend's and its own.

Other ``GLM_*`` variables belong to the models and are passed on unchanged.
"""

from pathlib import Path
from typing import Self

from pydantic import DirectoryPath, Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

import glm_web.settings
from glm_frontend.variables import PREFIX
from launcher.triton_options import is_set, split_options

ROOT = Path(__file__).resolve().parents[1]

# For each port setting, the setting of its bind address.
PORTS = {
    "port": "host",
    "web_port": "host",
    "triton_grpc_port": "triton_host",
    "triton_metrics_port": "triton_host",
    "triton_http_port": "triton_host",
}


class LauncherSettings(glm_web.settings.PageSettings):
    """All settings of the frontend and of the web page, so that their invalid values also stop the
    start, and those of the launcher.

    Raises pydantic's ValidationError for an invalid value; the frontend's `describe` formats it.
    """

    model_config = SettingsConfigDict(
        use_attribute_docstrings=True, validate_default=True, protected_namespaces=()
    )

    port: int = Field(default=8000, ge=1, le=65535)
    """Port that the frontend listens on."""
    frontend: bool = True
    """Whether to run the frontend and the web page; false: only Triton, supervised."""
    web: bool = True
    """Whether to run the web page."""
    web_port: int = Field(default=7860, ge=1, le=65535)
    """Port of the web page."""
    triton_host: str = "127.0.0.1"
    """Bind address of Triton's three ports."""
    triton_grpc_port: int = Field(default=8001, ge=1, le=65535)
    """Triton's gRPC port."""
    triton_metrics_port: int = Field(default=8002, ge=1, le=65535)
    """Triton's metrics port."""
    triton_http_port: int = Field(default=8003, ge=1, le=65535)
    """Triton's HTTP port."""
    triton_options: str = ""
    """More options of tritonserver, written as in a shell."""
    triton_exit_timeout: int = Field(default=30, ge=1)
    """Seconds that running requests have to finish when Triton is stopped."""
    start_timeout: float = Field(default=1800, gt=0)
    """Seconds within which the smoke test must pass."""
    step_timeout: float = Field(default=120, gt=0)
    """Seconds that one step of the engine may take before Triton is restarted."""
    image_decode_timeout: int = Field(default=30, ge=1)
    """Of stage 1; see its settings."""
    video_decode_timeout: int = Field(default=30, ge=1)
    """Likewise."""
    preprocessing_timeout: float = Field(default=90, gt=0)
    """Seconds that stage 1 may spend on one request before its process is killed."""
    probe_timeout: float = Field(default=20, gt=0)
    """Seconds without a response after which Triton, or the frontend, is restarted."""
    model: str = str(ROOT / "demo_model" / "checkpoint")
    """Checkpoint: a local folder, or an id on the hub."""
    model_repository: DirectoryPath = ROOT / "model_repository"
    """Triton's model repository."""

    @field_validator("model")
    @classmethod
    def _absolute_model(cls, value: str) -> str:
        """Make a folder absolute, as Triton's processes have other working directories."""
        folder = Path(value).expanduser()
        if value and folder.is_dir():
            return str(folder.resolve())
        if not value or folder.is_absolute() or value.startswith((".", "~")):
            raise ValueError("no such folder")
        return value

    @field_validator("triton_options")
    @classmethod
    def _check_triton_options(cls, value: str) -> str:
        split_options(value)
        return value

    @field_validator("model_repository")
    @classmethod
    def _absolute_repository(cls, value: Path) -> Path:
        return value.resolve()

    @model_validator(mode="after")
    def _check_preprocessing_timeout(self) -> Self:
        decoding = self.image_decode_timeout + self.video_decode_timeout
        if self.preprocessing_timeout <= decoding:
            raise ValueError(
                f"{variable('preprocessing_timeout')}={self.preprocessing_timeout:g} must be more "
                f"than {variable('image_decode_timeout')} and {variable('video_decode_timeout')} "
                f"together, {decoding}"
            )
        return self

    @model_validator(mode="after")
    def _check_tls_options(self) -> Self:
        if not self.frontend:
            return self
        options = self.triton_option_list
        tls, mutual = is_set(options, "--grpc-use-ssl"), is_set(options, "--grpc-use-ssl-mutual")
        for needed, name in (
            (tls or mutual, "triton_root_certificate"),
            (mutual, "triton_certificate"),
        ):
            if needed and getattr(self, name) is None:
                raise ValueError(
                    f"{variable(name)} is needed for the frontend, as {variable('triton_options')} "
                    "switch on TLS"
                )
        if self.triton_root_certificate is not None and not (tls or mutual):
            raise ValueError(
                f"{variable('triton_root_certificate')} needs --grpc-use-ssl=true and the server's "
                f"certificate and key in {variable('triton_options')}"
            )
        return self

    @model_validator(mode="after")
    def _check_ports_differ(self) -> Self:
        owner: dict[int, str] = {}
        for name in self.ports:
            port = getattr(self, name)
            if port in owner:
                raise ValueError(f"{variable(owner[port])} and {variable(name)} are both {port}")
            owner[port] = name
        return self

    @property
    def base_url(self) -> str:
        """URL of the frontend from this machine."""
        return f"http://{_reachable(self.host)}:{self.port}"

    @property
    def triton_option_list(self) -> list[str]:
        """``triton_options`` as arguments."""
        return split_options(self.triton_options)

    @property
    def ports(self) -> list[str]:
        """The settings of the ports in use."""
        unused = {"port": not self.frontend, "web_port": not (self.frontend and self.web)}
        return [name for name in PORTS if not unused.get(name)]

    @property
    def web_url(self) -> str:
        """URL of the web page from this machine."""
        return f"http://{_reachable(self.host)}:{self.web_port}"

    @property
    def triton_grpc_url(self) -> str:
        """Triton's gRPC endpoint from this machine, as ``host:port``."""
        return f"{_reachable(self.triton_host)}:{self.triton_grpc_port}"

    @property
    def triton_http_url(self) -> str:
        return f"http://{_reachable(self.triton_host)}:{self.triton_http_port}"

    @property
    def triton_metrics_url(self) -> str:
        return f"http://{_reachable(self.triton_host)}:{self.triton_metrics_port}"


def variable(field: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + field.upper()


def settings_help() -> str:
    """The launcher's own settings as a table for ``--help``."""
    return "\n".join(
        f"  {variable(name):24} {LauncherSettings.model_fields[name].description} "
        f"Default: {LauncherSettings.model_fields[name].default}"
        for name in LauncherSettings.__annotations__
        if name in LauncherSettings.model_fields
    )


def _reachable(host: str) -> str:
    """The address to connect to, for a bind address."""
    # Nothing is bound here: nosec is for bandit's B104.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # nosec
    return f"[{host}]" if ":" in host else host
