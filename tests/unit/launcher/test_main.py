import os
import socket
from pathlib import Path

import pytest

from launcher.errors import LaunchError
from launcher.main import check_ports
from launcher.settings import LauncherSettings

pytestmark = pytest.mark.timing

# An address of this process alone, so that nobody else takes a port that was free a moment ago.
HOST = f"127.{100 + os.getpid() // 65536 % 100}.{os.getpid() // 256 % 256}.{os.getpid() % 256}"


@pytest.fixture
def free_ports() -> list[int]:
    sockets = [socket.create_server((HOST, 0)) for _ in range(5)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def settings_for(ports: list[int], host: str = HOST) -> LauncherSettings:
    port, web, grpc, metrics, http = ports
    return LauncherSettings(
        model=str(Path.cwd()),
        host=host,
        port=port,
        web_port=web,
        triton_host=HOST,
        triton_grpc_port=grpc,
        triton_metrics_port=metrics,
        triton_http_port=http,
    )


def test_free_ports_pass(free_ports: list[int]) -> None:
    check_ports(settings_for(free_ports))


def test_every_taken_port_is_named_with_its_setting(free_ports: list[int]) -> None:
    settings = settings_for(free_ports)
    with (
        socket.create_server((HOST, settings.port)),
        socket.create_server((HOST, settings.triton_metrics_port)),
        pytest.raises(LaunchError) as caught,
    ):
        check_ports(settings)
    first, second = str(caught.value).splitlines()
    assert f"port {settings.port} is taken" in first and "GLM_PORT=" in first
    assert "GLM_TRITON_METRICS_PORT=" in second


def test_an_address_of_another_machine_is_named(free_ports: list[int]) -> None:
    with pytest.raises(LaunchError, match=r"GLM_HOST=192\.0\.2\.1"):
        check_ports(settings_for(free_ports, host="192.0.2.1"))


def test_the_port_of_no_web_page_may_be_taken(free_ports: list[int]) -> None:
    settings = settings_for(free_ports)
    with socket.create_server((HOST, settings.web_port)):
        with pytest.raises(LaunchError, match="GLM_WEB_PORT"):
            check_ports(settings)
        check_ports(settings.model_copy(update={"web": False}))
