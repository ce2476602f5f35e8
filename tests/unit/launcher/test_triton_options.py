import re
import subprocess
from pathlib import Path

import pytest

from launcher.triton import find_triton
from launcher.triton_options import REFUSED, is_set, split_options


def test_options_are_split_as_in_a_shell() -> None:
    text = "--grpc-keepalive-time=60000 '--trace-config=opentelemetry,url=a b'"
    assert split_options(text) == [
        "--grpc-keepalive-time=60000",
        "--trace-config=opentelemetry,url=a b",
    ]
    assert split_options("") == []


@pytest.mark.parametrize("text", ["grpc", "-x", "--a --b c", "--A=1", "--", "'--a", "--a_b=1"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        split_options(text)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_dangerous_options_are_refused_by_name(name: str) -> None:
    for given in (f"--{name}", f"--{name}=x", f"--{name[:-1]}=x"):
        with pytest.raises(ValueError, match=r"^--[a-z-]+ may not be given: "):
            split_options(f"--log-verbose=1 {given}")


def test_every_option_of_triton_is_refused_or_can_be_given(tmp_path: Path) -> None:
    triton = find_triton(tmp_path)
    done = subprocess.run(
        [triton.binary, "--help"], env=dict(triton.environment), capture_output=True, text=True
    )
    names = set(re.findall(r"^\s*--([a-z0-9-]+)", done.stdout + done.stderr, re.MULTILINE))
    assert len(names) > 50 and {*REFUSED} - {"allow-client-shm"} <= names  # that one is newer
    for name in names - {*REFUSED}:
        assert split_options(f"--{name}=1") == [f"--{name}=1"]


def test_the_last_of_several_values_counts() -> None:
    assert is_set(["--grpc-use-ssl=false", "--grpc-use-ssl=True"], "--grpc-use-ssl")
    assert not is_set(["--grpc-use-ssl=1", "--grpc-use-ssl=0"], "--grpc-use-ssl")
    assert not is_set(["--grpc-use-ssl-mutual=true"], "--grpc-use-ssl")
