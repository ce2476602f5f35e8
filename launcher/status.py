"""Reports to the frontend, for ``/v1/health``, which parts are being started."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

PARTS = ("triton", "preprocessing", "generation")


class Status:
    """A file ``{"checks": {part: state}, "message": ...}``, absent if all parts are running.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checks: dict[str, str] = {}
        self._message = ""

    def report(
        self, parts: Iterable[str], state: Literal["loading", "restarting"], message: str
    ) -> None:
        """Report that these parts are being started."""
        self._checks, self._message = dict.fromkeys(parts, state), message
        self._write(message)

    def report_progress(self, progress: str) -> None:
        """Update the progress of the last report."""
        self._write(f"{self._message} {progress}")

    def clear(self) -> None:
        """Report that all parts are running."""
        self.path.unlink(missing_ok=True)

    def _write(self, message: str) -> None:
        new = self.path.with_suffix(".new")
        try:
            new.write_text(json.dumps({"checks": self._checks, "message": message}))
            new.replace(self.path)  # atomic for readers
        except OSError as error:  # a full disk: the frontend notices by itself, a little later
            logging.getLogger("launcher").warning("writing the status file failed error=%s", error)
