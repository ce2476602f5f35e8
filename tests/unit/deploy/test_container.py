"""The container's files, as far as they can be held against the tree without a Docker engine."""

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from dockerfile import instructions, stages
from glm_frontend.variables import NAMES
from launcher.settings import LauncherSettings
from launcher.triton import SHM_BYTES
from unit.paths import ROOT

COMPOSE = ROOT / "deploy" / "compose.yaml"
# Read by libraries and by Docker, not by us.
OTHERS = {
    *("PATH", "HOME", "HF_HOME", "HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"),
    *("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "FORWARDED_ALLOW_IPS"),
}


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def test_what_is_copied_is_in_the_tree_and_let_through() -> None:
    let_through = [
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]
    copied = 0
    for instruction, value in instructions():
        words = value.split()
        if instruction != "COPY":
            continue
        if words[0].startswith("--from="):
            assert words[0].removeprefix("--from=") in stages()
            continue
        for source in [word for word in words[:-1] if not word.startswith("--")]:
            copied += 1
            assert (ROOT / source).exists(), source
            assert any(Path(source).is_relative_to(path) for path in let_through), source
    assert copied > 15


def test_what_is_run_is_copied_before() -> None:
    extras = (ROOT / "pyproject.toml").read_text()
    scripts = 0
    for steps in stages().values():
        for instruction, value in steps:
            for script in re.findall(r"deploy/[\w.]+\.(?:sh|py)", value):
                scripts += 1
                assert (ROOT / script).exists(), script
            runs = value if instruction == "RUN" else ""
            for names in re.findall(r"deploy/install\.sh ([\w,]+)", runs):
                for extra in names.split(","):
                    assert f"\n{extra} = [" in extras, extra
    assert scripts > 8


def test_images_are_pinned_and_nobody_is_root(compose: Any) -> None:
    bases = [value.partition("=")[2] for name, value in instructions() if name == "ARG"]
    images = bases + [s["image"] for s in compose["services"].values() if "image" in s]
    assert len(images) == 4
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), image
    for target in ("frontend", "server"):  # the others begin with one of these
        names = [name for name, _ in stages()[target]]
        assert ("USER", "10001:10001") in stages()[target]
        assert {"HEALTHCHECK", "ENTRYPOINT", "STOPSIGNAL"} <= set(names)
    assert all(
        value.startswith("[") for name, value in instructions() if name == "ENTRYPOINT"
    )  # a shell would not hand SIGTERM on


def test_settings_are_settings(compose: Any) -> None:
    names = {
        name
        for instruction, value in instructions()
        if instruction == "ENV"
        for name in re.findall(r"(\w+)=", value)
    }
    for service in ("triton", "frontend", "web"):
        names |= set(compose["services"][service].get("environment", {}))
    ours = {name for name in names if name.startswith("GLM_")}
    assert ours and ours <= NAMES
    assert names - ours <= OTHERS


def test_the_services_fit_the_dockerfile_and_the_tree(compose: Any) -> None:
    services = compose["services"]
    assert set(services) == {"triton", "frontend", "web", "prometheus", "grafana"}
    for service in services.values():
        if "build" in service:
            assert service["build"]["target"] in stages()
            assert (COMPOSE.parent / service["build"]["context"] / "Dockerfile.triton").exists()
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for volume in service.get("volumes", []):
            source = re.sub(r"^\$\{\w+:-(\w+)\}", r"\1", volume).partition(":")[0]
            if source.startswith("."):
                assert (COMPOSE.parent / source).exists(), source
            else:
                assert source in compose["volumes"]
    published = {port.split(":")[1] for s in services.values() for port in s.get("ports", [])}
    defaults = {str(LauncherSettings.model_fields[field].default) for field in ("port", "web_port")}
    assert published == defaults | {"9090", "3000"}
    assert "ports" not in services["triton"]


def test_containers_are_given_the_time_that_they_take_to_stop(compose: Any) -> None:
    fields = LauncherSettings.model_fields

    def seconds(service: str) -> int:
        return int(compose["services"][service]["stop_grace_period"].removesuffix("s"))

    assert seconds("triton") > fields["triton_exit_timeout"].default + 10
    answers = fields["graceful_timeout"].default + fields["drain_seconds"].default
    assert seconds("frontend") > answers


def test_shared_memory_is_enough_for_every_instance(compose: Any) -> None:
    size = compose["services"]["triton"]["shm_size"]
    assert size.endswith("gb")
    assert int(size.removesuffix("gb")) * 2**30 > 10 * 3 * SHM_BYTES


def test_only_the_page_is_believed_for_whom_it_asks(compose: Any) -> None:
    services = compose["services"]
    page = services["web"]["networks"]["default"]["ipv4_address"]
    assert services["frontend"]["environment"]["FORWARDED_ALLOW_IPS"] == page
    (network,) = compose["networks"]["default"]["ipam"]["config"]
    assert ip_address(page) in ip_network(network["subnet"])


def test_keys_are_neither_in_git_nor_in_an_image() -> None:
    keys = yaml.safe_load((ROOT / "deploy/compose.keys.yaml").read_text(encoding="utf-8"))
    file = Path("deploy", keys["secrets"]["glm_api_keys"]["file"])
    for name, place in ((".gitignore", f"/{file}"), (".dockerignore", str(file))):
        assert (ROOT / name).read_text().splitlines()[-1] == place  # the last that matches counts
