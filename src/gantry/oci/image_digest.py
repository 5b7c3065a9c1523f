"""Digests: `algorithm:hex`, the identity of a blob (image-spec, descriptor.md)."""

from __future__ import annotations

import hashlib
import re
from typing import Final

_LENGTHS: Final = {"sha256": 64, "sha512": 128}
_HEX: Final = re.compile(r"[0-9a-f]+")


def is_digest(text: str) -> bool:
    """Whether this is a well-formed digest of an algorithm we can verify."""
    algorithm, colon, value = text.partition(":")
    return bool(colon) and _LENGTHS.get(algorithm) == len(value) and bool(_HEX.fullmatch(value))


def sha256_digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """The name of each layer together with those below it (image-spec, config.md)."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append(sha256_digest(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return tuple(chain)
