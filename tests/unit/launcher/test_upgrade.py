"""Finding the key to the running Triton; tests/e2e/test_upgrade.py tries the change itself."""

from pathlib import Path

from launcher.triton import ADMIN_HEADER
from launcher.upgrade import admin_headers


def _process(proc: Path, pid: int, *arguments: str) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "cmdline").write_bytes("\0".join(arguments).encode() + b"\0")


def test_the_key_is_that_of_the_triton_on_the_port(tmp_path: Path) -> None:
    apis = f"--http-restricted-api=model-repository,trace:{ADMIN_HEADER}"
    _process(tmp_path, 1, "tritonserver", "--http-port=8003", f"{apis}=one")
    _process(tmp_path, 2, "tritonserver", "--http-port=9003", f"{apis}=two")
    _process(tmp_path, 3, "tritonserver", "--http-port=7003")
    (tmp_path / "4").mkdir()  # has just ended
    assert admin_headers(8003, tmp_path) == {ADMIN_HEADER: "one"}
    assert admin_headers(9003, tmp_path) == {ADMIN_HEADER: "two"}
    assert admin_headers(7003, tmp_path) == {}
    assert admin_headers(6003, tmp_path) == {}
