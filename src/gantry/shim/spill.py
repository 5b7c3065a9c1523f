"""A queue of bytes on disk: what a slow client has not taken yet."""

from __future__ import annotations

import os
from collections import deque

SEGMENT = 16 << 20


class Spill:
    """Files without a name in `folder`, each given back when it has been read."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._segments: deque[int] = deque()
        self._written = self._read = 0  # in the last and in the first segment
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append. OSError: there is no room; what was appended before stays."""
        if not self._segments or self._written >= SEGMENT:
            flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
            fd = os.open(self._folder, flags, 0o600)
            if not self._segments:
                self._read = 0
            self._segments.append(fd)
            self._written = 0
        view = memoryview(data)
        position = self._written
        while view:
            count = os.pwrite(self._segments[-1], view, position)
            position += count
            view = view[count:]
        self.size += position - self._written
        self._written = position

    def read(self, limit: int) -> bytes:
        """Take the next bytes; b"" when there are none."""
        while self._segments:
            data = os.pread(self._segments[0], limit, self._read)
            if len(self._segments) == 1:
                data = data[: self._written - self._read]
            if data:
                self._read += len(data)
                self.size -= len(data)
                return data
            os.close(self._segments.popleft())
            self._read = 0
        return b""

    def close(self) -> None:
        """Give everything back."""
        while self._segments:
            os.close(self._segments.popleft())
        self.size = 0
