"""Pictures and videos that clients have named, so that they need not send them again."""

from collections import OrderedDict

# What an entry takes beside its bytes.
_OVERHEAD_BYTES = 1024

Name = tuple[str, str, str]


class MediaMemory:
    """Files by tenant, kind and the client's own name; the least recently used ones are forgotten.

    Args:
        max_bytes: of all of them together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._files: OrderedDict[Name, bytes] = OrderedDict()

    def get(self, name: Name) -> bytes | None:
        """The file, if it is still remembered."""
        if name in self._files:
            self._files.move_to_end(name)
        return self._files.get(name)

    def put(self, name: Name, data: bytes) -> None:
        """Remember a file, in place of an earlier one of this name."""
        earlier = self._files.pop(name, None)
        self._left += 0 if earlier is None else len(earlier) + _OVERHEAD_BYTES
        self._files[name] = data
        self._left -= len(data) + _OVERHEAD_BYTES
        while self._left < 0:
            _, forgotten = self._files.popitem(last=False)
            self._left += len(forgotten) + _OVERHEAD_BYTES
