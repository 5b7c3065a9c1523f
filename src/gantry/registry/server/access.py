"""Who may use a registry: an htpasswd file with bcrypt, as `htpasswd -B` makes it."""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
import functools
import hashlib
import hmac
import os
from typing import Final

from gantry.model.errors import InvalidParameter, System

_CHECKED: Final = 256
"""Passwords whose (slow) check is remembered."""
_NOBODY: Final = "$2y$05$" + "." * 53
"""What an unknown user's password is compared with: that takes as long as a known one's."""


class Access:
    """See the module. The file is read again when it changes."""

    def __init__(self, path: str, realm: str = "gantry") -> None:
        self._path = path
        self.challenge = f'Basic realm="{realm}"'
        self._stamp = 0
        self._hashes: dict[str, str] = {}
        self._known: dict[bytes, None] = {}
        self._salt = os.urandom(16)
        self._load()

    def user(self, header: str) -> str | None:
        """The user of an Authorization header; None when it is not right. Blocks for a bcrypt."""
        self._load()
        scheme, _, rest = header.partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
        except ValueError:
            return None
        expected = self._hashes.get(name)
        if "\0" in password:
            return None
        if expected is None:
            _crypt(password, next(iter(self._hashes.values()), _NOBODY))
            return None
        key = hashlib.sha256(self._salt + f"{name}\0{expected}\0{password}".encode()).digest()
        if key in self._known:
            return name
        if not hmac.compare_digest(_crypt(password, expected), expected):
            return None
        if len(self._known) >= _CHECKED:
            self._known.pop(next(iter(self._known)))
        self._known[key] = None
        return name

    def _load(self) -> None:
        try:
            stamp = os.stat(self._path).st_mtime_ns
            if stamp == self._stamp:
                return
            with open(self._path, encoding="utf-8") as file:
                lines = [line.strip() for line in file]
        except OSError as error:
            raise System(f"cannot read {self._path}: {error}") from error
        hashes: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not line or line.startswith("#"):
                continue
            if not colon or not value.startswith(("$2y$", "$2b$", "$2a$")):
                raise InvalidParameter(f"{self._path}: only bcrypt passwords (htpasswd -B) work")
            hashes[name] = value
        self._hashes, self._stamp = hashes, stamp


@functools.cache
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("crypt") or "libcrypt.so.1"
    try:
        library = ctypes.CDLL(name, use_errno=True)
        library.crypt_r.restype = ctypes.c_char_p
    except (OSError, AttributeError) as error:
        raise System(f"htpasswd needs libcrypt: {error}") from error
    return library


def _crypt(password: str, setting: str) -> str:
    """crypt_r(3); "" when the library does not know the method."""
    data = ctypes.create_string_buffer(65536)
    result = _library().crypt_r(password.encode(), setting.encode(), data)
    return result.decode() if result else ""
