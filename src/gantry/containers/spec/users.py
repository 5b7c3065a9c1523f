"""Which ids a container's process runs with, from its own passwd and group.

Semantics of moby/sys/user GetExecUser: "user[:group]", each a name or a number. A number is
taken as it is and never looked up as a name; a known number brings its group and home along.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gantry.model.errors import System

MAX_ID: Final = (1 << 31) - 1
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Identity:
    """gids: additional groups, the primary one first as Docker gives them."""

    uid: int
    gid: int
    gids: tuple[int, ...]
    home: str


@dataclass(frozen=True, slots=True)
class _User:
    name: str
    uid: int
    gid: int
    home: str


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


@functools.lru_cache(maxsize=64)
def resolve(
    passwd: bytes | None, group: bytes | None, user: str, extra: tuple[str, ...] = ()
) -> Identity:
    """passwd, group: the files' contents, None where missing. System with Docker's texts."""
    who, _, which = user.partition(":")
    users, groups = _users(passwd), _groups(group)
    name, uid, gid, home = "", 0, 0, "/"
    number = _number(who)
    if not who:
        matches = [u for u in users if u.uid == 0]
    elif number is not None:
        matches = [u for u in users if u.uid == number]
    else:
        matches = [u for u in users if u.name == who]
    if matches:
        first = matches[0]
        name, uid, gid, home = first.name, first.uid, first.gid, first.home
    elif who:
        if number is None:
            raise System(f"unable to find user {who}: no matching entries in passwd file")
        uid = _checked(number)
    supplementary: list[int] = []
    if which:
        gid = _gid(groups, which, f"unable to find group {which}")
    elif name:
        supplementary = [g.gid for g in groups if name in g.members]
    added = [_gid(groups, each, f"Unable to find group {each}") for each in extra]
    return Identity(uid, gid, (gid, *supplementary, *added), home)


def _gid(groups: Sequence[_Group], wanted: str, complaint: str) -> int:
    number = _number(wanted)
    for group in groups:
        if group.gid == number if number is not None else group.name == wanted:
            return group.gid
    if number is None:
        raise System(f"{complaint}: no matching entries in group file")
    return _checked(number)


def _number(text: str) -> int | None:
    """As strconv.Atoi takes it, but for signs of no use; None for all else."""
    return int(text) if _NUMBER.fullmatch(text) else None


def _checked(number: int) -> int:
    if not 0 <= number <= MAX_ID:
        raise System(f"uids and gids must be in range 0-{MAX_ID}")
    return number


def _fields(content: bytes | None) -> list[list[str]]:
    text = (content or b"").decode(errors="surrogateescape")
    lines = (line.strip() for line in text.splitlines())
    return [line.split(":") for line in lines if line and not line.startswith("#")]


def _users(content: bytes | None) -> list[_User]:
    found = []
    for fields in _fields(content):
        fields += [""] * (7 - len(fields))
        uid, gid = _number(fields[2]), _number(fields[3])
        found.append(_User(fields[0], uid or 0, gid or 0, fields[5]))
    return found


def _groups(content: bytes | None) -> list[_Group]:
    found = []
    for fields in _fields(content):
        fields += [""] * (4 - len(fields))
        members = tuple(m for m in fields[3].split(",") if m)
        found.append(_Group(fields[0], _number(fields[2]) or 0, members))
    return found
