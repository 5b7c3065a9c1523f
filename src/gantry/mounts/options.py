"""fstab-style option words, as mount(8), runc and the runtime-spec read them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from gantry.kernel import mountapi as api
from gantry.model.record import Record

# word → (attribute bits, True to set, False to clear)
_ATTRIBUTES: Final[dict[str, tuple[int, bool]]] = {
    "ro": (api.MOUNT_ATTR_RDONLY, True),
    "rw": (api.MOUNT_ATTR_RDONLY, False),
    "nosuid": (api.MOUNT_ATTR_NOSUID, True),
    "suid": (api.MOUNT_ATTR_NOSUID, False),
    "nodev": (api.MOUNT_ATTR_NODEV, True),
    "dev": (api.MOUNT_ATTR_NODEV, False),
    "noexec": (api.MOUNT_ATTR_NOEXEC, True),
    "exec": (api.MOUNT_ATTR_NOEXEC, False),
    "nodiratime": (api.MOUNT_ATTR_NODIRATIME, True),
    "diratime": (api.MOUNT_ATTR_NODIRATIME, False),
    "nosymfollow": (api.MOUNT_ATTR_NOSYMFOLLOW, True),
    "symfollow": (api.MOUNT_ATTR_NOSYMFOLLOW, False),
}
# Access times are one field with three values: the last word wins. Recursive words say what is
# to be; plain ones are mount(2)'s flags, and to take back what was not said says nothing.
_ATIME: Final[dict[str, int]] = {
    "noatime": api.MOUNT_ATTR_NOATIME,
    "atime": api.MOUNT_ATTR_RELATIME,
    "relatime": api.MOUNT_ATTR_RELATIME,
    "norelatime": api.MOUNT_ATTR_RELATIME,
    "strictatime": api.MOUNT_ATTR_STRICTATIME,
    "nostrictatime": api.MOUNT_ATTR_RELATIME,
}
_PROPAGATION: Final[dict[str, int]] = {
    "private": api.MS_PRIVATE,
    "shared": api.MS_SHARED,
    "slave": api.MS_SLAVE,
    "unbindable": api.MS_UNBINDABLE,
}
_NO_ATIME: Final[dict[str, int]] = {
    "atime": api.MOUNT_ATTR_NOATIME,
    "norelatime": api.MOUNT_ATTR_RELATIME,
    "nostrictatime": api.MOUNT_ATTR_STRICTATIME,
}
# Flags of the superblock: fsconfig(2) takes them by these names, mount(2) as bits.
_SUPER: Final[dict[str, tuple[int, bool]]] = {
    "sync": (api.MS_SYNCHRONOUS, True),
    "async": (api.MS_SYNCHRONOUS, False),
    "dirsync": (api.MS_DIRSYNC, True),
    "mand": (api.MS_MANDLOCK, True),
    "nomand": (api.MS_MANDLOCK, False),
    "lazytime": (api.MS_LAZYTIME, True),
    "nolazytime": (api.MS_LAZYTIME, False),
    "iversion": (api.MS_I_VERSION, True),
    "noiversion": (api.MS_I_VERSION, False),
    "silent": (api.MS_SILENT, True),
    "loud": (api.MS_SILENT, False),
}
_SUPER_NAMES: Final[dict[int, str]] = {
    bit: word for word, (bit, on) in _SUPER.items() if on and word not in ("silent", "iversion")
}

KNOWN: Final[tuple[str, ...]] = tuple(
    sorted(
        {"bind", "rbind", "defaults", "remount", "tmpcopyup", "idmap", "ridmap"}
        | _ATTRIBUTES.keys()
        | _ATIME.keys()
        | _SUPER.keys()
        | {f"r{word}" for word in (*_ATTRIBUTES, *_ATIME)}
        | _PROPAGATION.keys()
        | {f"r{word}" for word in _PROPAGATION}
    )
)


class Options(Record):
    """What option words mean.

    set, clear: MOUNT_ATTR_* of this mount; rec_set, rec_clear: of it and all below it.
    super_flags: MS_* of the superblock. propagation: (MS_* type, recursive) in order.
    data: what is left, for the file system itself. flagged: some word was a flag of mount(2),
    to set or to clear.
    idmap: "" or "idmap" or "ridmap".
    """

    set: int = 0
    clear: int = 0
    rec_set: int = 0
    rec_clear: int = 0
    super_flags: int = 0
    propagation: tuple[tuple[int, bool], ...] = ()
    data: tuple[str, ...] = ()
    bind: bool = False
    recursive: bool = False
    remount: bool = False
    tmpcopyup: bool = False
    idmap: str = ""
    flagged: bool = False

    @property
    def readonly(self) -> bool:
        return bool(self.set & api.MOUNT_ATTR_RDONLY)

    def of_all(self) -> Options:
        """The same attributes for this mount and all below it."""
        set_, clear = self.set | self.rec_set, self.clear | self.rec_clear
        return self.replace(set=0, clear=0, rec_set=set_, rec_clear=clear)

    def super_words(self) -> list[str]:
        """The superblock's flags as fsconfig(2) words."""
        return [word for bit, word in _SUPER_NAMES.items() if self.super_flags & bit]

    def mount_flags(self) -> int:
        """The flags as mount(2) takes them."""
        flags = self.super_flags
        for attribute, flag in _ATTRIBUTE_TO_MS:
            if self.set & attribute == attribute:
                flags |= flag
        return flags


_ATTRIBUTE_TO_MS: Final = (
    (api.MOUNT_ATTR_RDONLY, api.MS_RDONLY),
    (api.MOUNT_ATTR_NOSUID, api.MS_NOSUID),
    (api.MOUNT_ATTR_NODEV, api.MS_NODEV),
    (api.MOUNT_ATTR_NOEXEC, api.MS_NOEXEC),
    (api.MOUNT_ATTR_NOATIME, api.MS_NOATIME),
    (api.MOUNT_ATTR_STRICTATIME, api.MS_STRICTATIME),
    (api.MOUNT_ATTR_NODIRATIME, api.MS_NODIRATIME),
    (api.MOUNT_ATTR_NOSYMFOLLOW, api.MS_NOSYMFOLLOW),
)


def _change(set_: int, clear: int, bits: int, on: bool) -> tuple[int, int]:
    return (set_ | bits, clear & ~bits) if on else (set_ & ~bits, clear | bits)


def _attribute(word: str, set_: int, clear: int) -> tuple[int, int] | None:
    if word in _ATTRIBUTES:
        return _change(set_, clear, *_ATTRIBUTES[word])
    if word in _ATIME:
        # mount_setattr(2): to change the access time mode, clear the whole field.
        return set_ & ~api.MOUNT_ATTR_ATIME | _ATIME[word], clear | api.MOUNT_ATTR_ATIME
    return None


def _plain(word: str, set_: int, clear: int) -> tuple[int, int] | None:
    """As mount(2) has it: an access time that is not said stays as it is, one that is said
    takes nodiratime with it."""
    times = api.MOUNT_ATTR_ATIME | api.MOUNT_ATTR_NODIRATIME
    if word in _NO_ATIME:
        if clear & times and set_ & api.MOUNT_ATTR_ATIME == _NO_ATIME[word]:
            set_ &= ~api.MOUNT_ATTR_ATIME
            clear = clear if set_ & api.MOUNT_ATTR_NODIRATIME else clear & ~times
        return set_, clear
    if word in _ATIME:
        return set_ & ~api.MOUNT_ATTR_ATIME | _ATIME[word], clear | times
    if word == "nodiratime":
        return set_ | api.MOUNT_ATTR_NODIRATIME, clear | times
    if word == "diratime":
        return set_ & ~api.MOUNT_ATTR_NODIRATIME, clear
    return _attribute(word, set_, clear)


_cache: dict[tuple[str, ...], Options] = {}


def parse(words: Iterable[str]) -> Options:
    """Read option words; unknown ones go to `data` (the kernel judges them)."""
    key = tuple(words)
    found = _cache.get(key)
    if found is None:
        found = _parse(key)
        if len(_cache) < 256:  # data of overlays differ by container: never grow without end
            _cache[key] = found
    return found


def _parse(words: tuple[str, ...]) -> Options:
    set_ = clear = rec_set = rec_clear = super_flags = 0
    bind = recursive = remount = tmpcopyup = flagged = False
    idmap = ""
    propagation: list[tuple[int, bool]] = []
    data: list[str] = []
    for word in words:
        plain = _plain(word, set_, clear)
        below = _attribute(word[1:], rec_set, rec_clear) if word[:1] == "r" else None
        if plain is not None:
            set_, clear = plain
            flagged = True
        elif below is not None:
            rec_set, rec_clear = below
        elif word in _SUPER:
            bit, on = _SUPER[word]
            super_flags = super_flags | bit if on else super_flags & ~bit
            flagged = True
        elif word in _PROPAGATION or (word[:1] == "r" and word[1:] in _PROPAGATION):
            deep = word not in _PROPAGATION
            propagation.append((_PROPAGATION[word[1:] if deep else word], deep))
        elif word in ("bind", "rbind"):
            bind, recursive = True, recursive or word == "rbind"
        elif word in ("idmap", "ridmap"):
            idmap = word
        elif word == "remount":
            remount = True
        elif word == "tmpcopyup":
            tmpcopyup = True
        elif word and word != "defaults":
            data.append(word)
    return Options(
        set=set_,
        clear=clear,
        rec_set=rec_set,
        rec_clear=rec_clear,
        super_flags=super_flags,
        propagation=tuple(propagation),
        data=tuple(data),
        bind=bind,
        recursive=recursive,
        remount=remount,
        tmpcopyup=tmpcopyup,
        idmap=idmap,
        flagged=flagged,
    )
