"""Triton's shared memory: which regions belong to our server, and removing those left behind.

The Python backend makes one region per model instance in /dev/shm. A killed stub or server leaves
its region there, and nobody else cleans it up.
"""

from collections.abc import Iterable
from pathlib import Path

SHM = Path("/dev/shm")
PREFIX = "triton_python_backend_shm_region_"


class RegionWatch:
    """Remembers the regions that the processes given to `sample` have mapped.

    A name alone does not tell whose a region is, so only what was seen mapped is ever removed.
    """

    def __init__(self, shm: Path = SHM, proc: Path = Path("/proc")) -> None:
        self._shm = shm
        self._proc = proc
        self._owned: set[str] = set()

    def sample(self, pids: Iterable[int]) -> None:
        """Notes new regions of these processes. Cheap while /dev/shm holds no unknown region."""
        if self._present() <= self._owned:
            return
        for pid in pids:
            self._owned |= self._mapped(pid)

    def remove_leftovers(self) -> list[str]:
        """Removes the noted regions that still exist; call when the processes are gone.

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
        except OSError:  # the process has just ended
            return set()
        paths = (line.split(maxsplit=5)[-1] for line in maps.splitlines() if PREFIX in line)
        return {Path(path.removesuffix(" (deleted)")).name for path in paths}
