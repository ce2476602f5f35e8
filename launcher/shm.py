"""Tracks the shared memory of Triton, and removes leftover regions.

The Python backend creates one region per model instance in /dev/shm. A killed stub or server leaves
its region there.
"""

from collections.abc import Iterable
from pathlib import Path

SHM = Path("/dev/shm")
PREFIX = "triton_python_backend_shm_region_"


class RegionWatch:
    """Records the regions mapped by the processes passed to `sample`.

    A name does not identify the owner of a region, so only regions seen mapped are removed.
    """

    def __init__(self, shm: Path = SHM, proc: Path = Path("/proc")) -> None:
        self._shm = shm
        self._proc = proc
        self._owned: set[str] = set()

    def sample(self, pids: Iterable[int]) -> None:
        """Record new regions of these processes. Cheap if /dev/shm has no unknown region."""
        if self._present() <= self._owned:
            return
        for pid in pids:
            self._owned |= self._mapped(pid)

    def remove_leftovers(self) -> list[str]:
        """Remove recorded regions that still exist; call after the processes are gone.

        Returns the names of the removed regions.
        """
        leftovers = sorted(self._owned & self._present())
        for name in leftovers:
            (self._shm / name).unlink(missing_ok=True)
        return leftovers

    def _present(self) -> set[str]:
        return {path.name for path in self._shm.glob(PREFIX + "*")}

    def _mapped(self, pid: int) -> set[str]:
        try:
            maps = (self._proc / str(pid) / "maps").read_text(errors="replace")
        except OSError:  # the process has just exited
            return set()
        paths = (line.split(maxsplit=5)[-1] for line in maps.splitlines() if PREFIX in line)
        return {Path(path.removesuffix(" (deleted)")).name for path in paths}
