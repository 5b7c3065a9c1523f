"""Option words."""

from __future__ import annotations

from gantry.kernel import mountapi as api
from gantry.mounts.options import KNOWN, parse


def test_attributes_set_and_cleared() -> None:
    found = parse(("ro", "nosuid", "nodev", "noexec"))
    assert found.set == 0xF
    assert found.clear == 0
    found = parse(("ro", "rw", "suid"))
    assert found.set == 0
    assert found.clear == api.MOUNT_ATTR_RDONLY | api.MOUNT_ATTR_NOSUID


def test_the_last_word_wins() -> None:
    assert parse(("rw", "ro")).readonly
    assert not parse(("ro", "rw")).readonly


def test_access_times_are_one_field() -> None:
    found = parse(("noatime", "strictatime"))
    assert found.set == api.MOUNT_ATTR_STRICTATIME
    assert found.clear == api.MOUNT_ATTR_ATIME | api.MOUNT_ATTR_NODIRATIME


def test_an_access_time_that_is_not_said_stays() -> None:
    for words in (("atime",), ("norelatime", "diratime"), ("noatime", "atime"), ("dev",)):
        assert parse(words).clear & api.MOUNT_ATTR_ATIME == 0, words
        assert parse(words).set == 0, words
        assert parse(words).flagged
    found = parse(("nodiratime", "strictatime", "atime"))
    assert found.set == api.MOUNT_ATTR_NODIRATIME | api.MOUNT_ATTR_STRICTATIME
    assert not parse(("rbind", "rslave", "rro")).flagged


def test_recursive_attributes() -> None:
    found = parse(("rro", "rnosuid"))
    assert (found.set, found.rec_set) == (0, api.MOUNT_ATTR_RDONLY | api.MOUNT_ATTR_NOSUID)
    assert parse(("rrw",)).rec_clear == api.MOUNT_ATTR_RDONLY


def test_relatime_is_not_a_recursive_elatime() -> None:
    found = parse(("relatime",))
    assert found.rec_set == found.rec_clear == 0
    assert found.data == ()


def test_bind_and_propagation() -> None:
    found = parse(("rbind", "rslave", "shared"))
    assert found.bind and found.recursive
    assert found.propagation == ((api.MS_SLAVE, True), (api.MS_SHARED, False))
    assert not parse(("bind",)).recursive


def test_the_rest_is_the_file_system_s() -> None:
    found = parse(("defaults", "size=64m", "mode=755", "newinstance", ""))
    assert found.data == ("size=64m", "mode=755", "newinstance")


def test_superblock_flags() -> None:
    found = parse(("sync", "lazytime", "async"))
    assert found.super_words() == ["lazytime"]
    assert found.mount_flags() == api.MS_LAZYTIME


def test_flags_for_mount_2() -> None:
    flags = parse(("ro", "nosuid", "noatime", "dirsync")).mount_flags()
    assert flags == api.MS_RDONLY | api.MS_NOSUID | api.MS_NOATIME | api.MS_DIRSYNC


def test_every_known_word_is_understood() -> None:
    for word in KNOWN:
        assert parse((word,)).data == (), word
