"""What the launcher tells the frontend, for ``/v1/health``: which parts are being started again."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

PARTS = ("triton", "preprocessing", "generation")


class Status:
    """A file, ``{"checks": {part: "restarting"}, "message": ...}``; none when all is well.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def tell(self, parts: Iterable[str], reason: str) -> None:
        """These parts are being started again, for this reason."""
        content = {
            "checks": dict.fromkeys(parts, "restarting"),
            "message": f"Being started again. {reason}",
        }
        new = self.path.with_suffix(".new")
        try:
            new.write_text(json.dumps(content))
            new.replace(self.path)  # a reader sees the old or the new, no half
        except OSError as error:  # a full disk: the frontend finds out by itself, a little later
            logging.getLogger("launcher").warning("the frontend was not told: %s", error)

    def clear(self) -> None:
        """All is well."""
        self.path.unlink(missing_ok=True)
