"""What the launcher tells the frontend, for ``/v1/health``: which parts are being started."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

PARTS = ("triton", "preprocessing", "generation")


class Status:
    """A file, ``{"checks": {part: state}, "message": ...}``; none when all is well.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checks: dict[str, str] = {}
        self._message = ""

    def tell(
        self, parts: Iterable[str], state: Literal["loading", "restarting"], message: str
    ) -> None:
        """These parts are being started."""
        self._checks, self._message = dict.fromkeys(parts, state), message
        self._write(message)

    def tell_progress(self, progress: str) -> None:
        """How far what was told has come."""
        self._write(f"{self._message} {progress}")

    def clear(self) -> None:
        """All is well."""
        self.path.unlink(missing_ok=True)

    def _write(self, message: str) -> None:
        new = self.path.with_suffix(".new")
        try:
            new.write_text(json.dumps({"checks": self._checks, "message": message}))
            new.replace(self.path)  # a reader sees the old or the new, no half
        except OSError as error:  # a full disk: the frontend finds out by itself, a little later
            logging.getLogger("launcher").warning("the frontend was not told: %s", error)
