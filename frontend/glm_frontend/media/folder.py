"""Files of one folder of this machine, by ``file://`` URLs; nothing outside it is ever read."""

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit


class NotInFolder(Exception):
    """There is no such file in the folder. The message does not say what is elsewhere."""


def read_file(url: str, folder: Path, max_bytes: int) -> bytes:
    """The bytes of a file, at most one more than ``max_bytes``. Blocks.

    Raises:
        NotInFolder: it is outside of ``folder``, also by a link, or is not a file.
    """
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise NotInFolder
    try:
        inside = folder.resolve(strict=True)
        path = Path(unquote(parts.path)).resolve(strict=True)
        if not path.is_relative_to(inside):
            raise NotInFolder
        # Not blocking: a pipe would wait for somebody to write into it.
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError, RuntimeError):
        raise NotInFolder from None
    # Of the file that is open: a folder on its path may have become a link since.
    path = Path(os.readlink(f"/proc/self/fd/{opened}"))
    if not path.is_relative_to(inside) or not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise NotInFolder
    with os.fdopen(opened, "rb") as file:
        return file.read(max_bytes + 1)
