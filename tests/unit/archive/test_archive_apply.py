"""The applier: what a layer may do, and what it must never do."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gantry.archive.apply import Applied, Limits, apply_layer
from gantry.archive.errors import ArchiveError, NeedsParents
from gantry.archive.implicit import adopt
from gantry.archive.reader import TarReader
from gantry.model.snapshot import Flavour

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    info.uid = os.geteuid()
    info.gid = os.getegid()
    for key, value in fields.items():
        setattr(info, key, value)
    return info


Item = tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]


def tar(*items: Item, format: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for item in items:
            info, data = item if isinstance(item, tuple) else (item, b"")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def source(data: bytes, piece: int = 1000) -> Callable[[], bytes]:
    """In pieces that never fall on a block's border."""
    stream = io.BytesIO(data)
    return lambda: stream.read(piece)


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Path]:
    """The folder that layers go to, with something precious beside it."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("untouched")
    (tmp_path / "box").mkdir()
    yield tmp_path / "box"
    assert (tmp_path / "outside" / "precious").read_text() == "untouched"
    assert sorted(os.listdir(tmp_path)) == ["box", "outside"]
    assert os.listdir(tmp_path / "outside") == ["precious"]


def apply(
    box: Path, data: bytes, flavour: Flavour = Flavour.PLAIN, limits: Limits | None = None
) -> Applied:
    fd = os.open(box, os.O_RDONLY | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    try:
        return apply_layer(fd, TarReader(source(data)), flavour, limits=limits or Limits())
    finally:
        assert len(os.listdir("/proc/self/fd")) == before, "fds leaked"
        os.close(fd)


class TestContent:
    def test_files_folders_links(self, box: Path) -> None:
        done = apply(
            box,
            tar(
                member("etc", tarfile.DIRTYPE, mode=0o750, mtime=1000),
                (member("etc/passwd", mode=0o640, mtime=2000), b"root"),
                member("bin", tarfile.SYMTYPE, linkname="usr/bin"),
                member("etc/shadow", tarfile.LNKTYPE, linkname="etc/passwd"),
                member("pipe", tarfile.FIFOTYPE, mode=0o622),
            ),
        )
        assert done.size == 4
        assert (box / "etc" / "passwd").read_bytes() == b"root"
        assert stat.S_IMODE((box / "etc" / "passwd").stat().st_mode) == 0o640
        assert (box / "etc" / "passwd").stat().st_mtime == 2000
        assert stat.S_IMODE((box / "etc").stat().st_mode) == 0o750
        assert (box / "etc").stat().st_mtime == 1000, "entries made later do not change it"
        assert os.readlink(box / "bin") == "usr/bin"
        assert (box / "etc" / "shadow").stat().st_nlink == 2
        assert stat.S_ISFIFO((box / "pipe").stat().st_mode)
        assert stat.S_IMODE((box / "pipe").stat().st_mode) == 0o622

    def test_root_entry_changes_the_root(self, box: Path) -> None:
        apply(box, tar(member("./", tarfile.DIRTYPE, mode=0o711)))
        assert stat.S_IMODE(box.stat().st_mode) == 0o711

    def test_missing_parents_are_made(self, box: Path) -> None:
        done = apply(box, tar((member("a/b/c"), b"x")))
        assert (box / "a/b/c").read_bytes() == b"x"
        assert done.implicit == (b"a", b"a/b")
        assert stat.S_IMODE((box / "a").stat().st_mode) in (0o755, 0o755 & ~_umask())

    def test_a_described_parent_is_not_implicit(self, box: Path) -> None:
        done = apply(box, tar((member("a/b"), b"x"), member("a", tarfile.DIRTYPE, mode=0o700)))
        assert done.implicit == ()
        assert stat.S_IMODE((box / "a").stat().st_mode) == 0o700

    def test_the_last_of_duplicates_wins(self, box: Path) -> None:
        apply(
            box,
            tar(
                (member("x"), b"one"),
                (member("x"), b"two"),
                member("y", tarfile.DIRTYPE),
                (member("y/z"), b"gone"),
                (member("y"), b"file"),
                (member("w"), b"file"),
                member("w", tarfile.DIRTYPE),
            ),
        )
        assert (box / "x").read_bytes() == b"two"
        assert (box / "y").read_bytes() == b"file"
        assert (box / "w").is_dir()

    @root_only
    def test_owners_and_setuid(self, box: Path) -> None:
        apply(
            box,
            tar(
                (member("su", uid=123, gid=456, mode=0o4755), b"x"),
                member("link", tarfile.SYMTYPE, linkname="/x", uid=7, gid=8),
                member("d", tarfile.DIRTYPE, uid=9, gid=10, mode=0o2775),
            ),
        )
        info = (box / "su").stat()
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (123, 456, 0o4755)
        assert (box / "link").lstat().st_uid == 7
        assert stat.S_IMODE((box / "d").stat().st_mode) == 0o2775

    @root_only
    def test_devices(self, box: Path) -> None:
        apply(box, tar(member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666)))
        info = (box / "null").stat()
        assert stat.S_ISCHR(info.st_mode)
        assert info.st_rdev == os.makedev(1, 3)
        assert stat.S_IMODE(info.st_mode) == 0o666

    def test_names_that_are_no_text(self, box: Path) -> None:
        name = os.fsdecode(b"caf\xe9-\xff")
        raw = tar((member("caf"), b"x")).replace(b"caf\0\0\0\0\0", b"caf\xe9-\xff\0\0")
        raw = _rechecksum(raw)
        apply(box, raw)
        assert os.listdir(box) == [name]

    def test_long_names(self, box: Path) -> None:
        path = "/".join(["d" * 200] * 8)
        for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            apply(box, tar((member(path), b"deep"), format=format))
            assert (box / path).read_bytes() == b"deep"

    @root_only
    def test_xattrs_but_those_of_overlayfs(self, box: Path) -> None:
        info = member("x")
        info.pax_headers = {
            "SCHILY.xattr.user.colour": "blue",
            "SCHILY.xattr.trusted.overlay.redirect": "/etc",
            "SCHILY.xattr.user.overlay.opaque": "y",
        }
        try:
            apply(box, tar((info, b"x")))
            assert os.getxattr(box / "x", "user.colour") == b"blue"
        except OSError:
            pytest.skip("no xattrs here")
        assert os.listxattr(box / "x") == ["user.colour"]

    def test_sparse(self, box: Path) -> None:
        """GNU's 1.0 form: the map in front of the data."""
        info = member("s")
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "s",
            "GNU.sparse.realsize": "100000",
        }
        data = b"2\n5000\n3\n99000\n4\n".ljust(512, b"\0") + b"abcdefg"
        apply(box, tar((info, data)))
        content = (box / "s").read_bytes()
        assert len(content) == 100000
        assert content[5000:5003] == b"abc"
        assert content[99000:99004] == b"defg"
        assert content.count(b"\0") == 100000 - 7


class TestEscapes:
    @pytest.mark.parametrize(
        "name", ["../outside/evil", "a/../../outside/evil", "./../outside/evil", ".."]
    )
    def test_dots_out(self, box: Path, name: str) -> None:
        with pytest.raises(ArchiveError, match="outside"):
            apply(box, tar((member(name), b"evil")))

    def test_absolute_names_are_below(self, box: Path) -> None:
        apply(box, tar((member("/abs"), b"x"), (member("//two"), b"y")))
        assert sorted(os.listdir(box)) == ["abs", "two"]

    @pytest.mark.parametrize("target", ["../outside", "/outside", "../../../../../../.."])
    def test_through_symlinks(self, box: Path, target: str) -> None:
        """A symlink leads where it would in a container: at worst to the box's own root."""
        (box / "outside").mkdir()
        apply(
            box,
            tar(
                member("link", tarfile.SYMTYPE, linkname=target),
                (member("link/precious"), b"evil"),
            ),
        )
        found = [p for p in box.rglob("precious") if not p.is_symlink()]
        assert found, "it went somewhere inside"

    def test_through_a_chain_of_symlinks(self, box: Path) -> None:
        chain = [member(f"l{i}", tarfile.SYMTYPE, linkname=f"l{i + 1}") for i in range(30)]
        chain.append(member("l30", tarfile.SYMTYPE, linkname=str(box.parent / "outside")))
        with pytest.raises(ArchiveError):
            apply(box, tar(*chain, (member("l0/precious"), b"evil")))

    def test_symlink_loop(self, box: Path) -> None:
        with pytest.raises(ArchiveError):
            apply(
                box,
                tar(
                    member("a", tarfile.SYMTYPE, linkname="b"),
                    member("b", tarfile.SYMTYPE, linkname="a"),
                    (member("a/x"), b""),
                ),
            )

    @pytest.mark.parametrize("flavour", [Flavour.PLAIN, Flavour.OVERLAY])
    @pytest.mark.parametrize(
        "target", ["../outside/precious", "/outside/precious", "link/precious"]
    )
    def test_hardlink_out(self, box: Path, target: str, flavour: Flavour) -> None:
        data = tar(
            member("link", tarfile.SYMTYPE, linkname="../outside"),
            member("hard", tarfile.LNKTYPE, linkname=target),
            (member("hard"), b"evil"),
        )
        with pytest.raises((ArchiveError, NeedsParents)):
            apply(box, data, flavour)

    def test_file_over_a_symlink_replaces_it(self, box: Path) -> None:
        outside = box.parent / "outside" / "precious"
        apply(
            box,
            tar(member("x", tarfile.SYMTYPE, linkname=str(outside)), (member("x"), b"evil")),
        )
        assert not (box / "x").is_symlink()

    def test_folder_over_a_symlink_replaces_it(self, box: Path) -> None:
        apply(
            box,
            tar(
                member("x", tarfile.SYMTYPE, linkname="../outside"),
                member("x", tarfile.DIRTYPE, mode=0o777),
                (member("x/y"), b""),
            ),
        )
        assert (box / "x" / "y").exists()

    def test_replacing_a_parent_under_way(self, box: Path) -> None:
        """The cached fd of a folder must not outlive its name."""
        apply(
            box,
            tar(
                member("d", tarfile.DIRTYPE),
                (member("d/one"), b"1"),
                member("d", tarfile.SYMTYPE, linkname="e"),
                member("e", tarfile.DIRTYPE),
                (member("d/two"), b"2"),
            ),
        )
        assert os.listdir(box / "e") == ["two"]

    def test_whiteout_of_parents(self, box: Path) -> None:
        for name in (".wh..", ".wh...", "a/.wh...", ".wh."):
            with pytest.raises(ArchiveError):
                apply(box, tar(member(name)))

    @root_only
    def test_a_whiteout_device_is_no_entry(self, box: Path) -> None:
        with pytest.raises(ArchiveError):
            apply(box, tar(member("w", tarfile.CHRTYPE, devmajor=0, devminor=0)), Flavour.OVERLAY)


class TestDamage:
    def test_cut_off_anywhere(self, box: Path) -> None:
        whole = tar((member("a"), b"x" * 2000), member("l", tarfile.SYMTYPE, linkname="a"))
        for end in (100, 512, 700, 1500, 2559, 3071):
            with pytest.raises(ArchiveError):
                apply(box, whole[:end] if end != 512 else whole[:512])

    def test_no_end_blocks_is_fine(self, box: Path) -> None:
        whole = tar((member("a"), b"x"))
        apply(box, whole[:1024])
        assert (box / "a").read_bytes() == b"x"

    def test_bad_checksum(self, box: Path) -> None:
        whole = bytearray(tar((member("a"), b"x")))
        whole[0] ^= 1
        with pytest.raises(ArchiveError, match="invalid tar header"):
            apply(box, bytes(whole))

    def test_not_a_tar(self, box: Path) -> None:
        with pytest.raises(ArchiveError):
            apply(box, b"hello world, this is no tar archive" * 100)

    def test_limits(self, box: Path) -> None:
        with pytest.raises(ArchiveError, match="too large"):
            apply(box, tar((member("a"), b"x" * 100)), limits=Limits(size=99))
        with pytest.raises(ArchiveError, match="too many"):
            apply(box, tar(member("b"), member("c")), limits=Limits(entries=1))

    def test_huge_pax_header(self, box: Path) -> None:
        info = member("x")
        info.pax_headers = {"comment": "c" * (2 << 20)}
        with pytest.raises(ArchiveError, match="too large"):
            apply(box, tar(info))

    def test_unknown_type(self, box: Path) -> None:
        with pytest.raises(ArchiveError, match="unhandled"):
            apply(box, tar(member("x", b"V")))

    def test_name_too_long(self, box: Path) -> None:
        with pytest.raises(ArchiveError, match="too long"):
            apply(box, tar(member("n" * 300)))
        with pytest.raises(ArchiveError):
            apply(box, tar(member("/".join(["n" * 100] * 60))))

    def test_file_as_a_parent(self, box: Path) -> None:
        with pytest.raises(ArchiveError):
            apply(box, tar((member("a"), b"x"), member("a/b")))


@root_only
class TestWhiteouts:
    def test_overlay(self, box: Path) -> None:
        apply(
            box,
            tar(
                member(".wh.gone"),
                member("d", tarfile.DIRTYPE),
                member("d/.wh..wh..opq"),
                (member("d/kept"), b""),
            ),
            Flavour.OVERLAY,
        )
        info = (box / "gone").lstat()
        assert stat.S_ISCHR(info.st_mode)
        assert info.st_rdev == 0
        assert os.getxattr(box / "d", "trusted.overlay.opaque") == b"y"
        assert (box / "d" / "kept").exists()

    def test_overlay_delete_and_make_again(self, box: Path) -> None:
        """In either order, the new folder shows nothing of the old one."""
        for number, items in enumerate(
            [
                (member("d/.wh.x"), member("d/x", tarfile.DIRTYPE)),
                (member("d/x", tarfile.DIRTYPE), member("d/.wh.x")),
                (member("d/.wh.x"), member("d/x/y")),
            ]
        ):
            folder = box / str(number)
            folder.mkdir()
            apply(folder, tar(*items), Flavour.OVERLAY)
            assert os.getxattr(folder / "d/x", "trusted.overlay.opaque") == b"y"

    def test_overlay_file_of_this_layer_stays(self, box: Path) -> None:
        apply(box, tar((member("x"), b"new"), member(".wh.x")), Flavour.OVERLAY)
        assert (box / "x").read_bytes() == b"new"

    def test_plain(self, box: Path) -> None:
        (box / "old").write_text("")
        (box / "tree").mkdir()
        (box / "tree" / "file").write_text("")
        (box / "opaque").mkdir()
        (box / "opaque" / "old").write_text("")
        apply(
            box,
            tar(
                member(".wh.old"),
                member(".wh.tree"),
                (member("opaque/new"), b""),
                member("opaque/.wh..wh..opq"),
                (member("nothing"), b""),
                member(".wh.nothing"),
                member("never/.wh.was"),
            ),
        )
        assert sorted(os.listdir(box)) == ["nothing", "opaque"]
        assert os.listdir(box / "opaque") == ["new"]

    def test_plain_through_a_symlink_stays_inside(self, box: Path) -> None:
        (box / "link").symlink_to("../outside")
        apply(box, tar(member("link/.wh.precious"), member("link/.wh..wh..opq")))

    def test_hardlink_to_a_lower_layer_needs_the_parents(self, box: Path) -> None:
        with pytest.raises(NeedsParents):
            apply(box, tar(member("h", tarfile.LNKTYPE, linkname="below")), Flavour.OVERLAY)


@root_only
class TestAdopt:
    def test_looks_of_the_nearest_parent(self, tmp_path: Path) -> None:
        for name in ("top", "middle", "bottom"):
            (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / "top" / "a" / "b").mkdir()
        (tmp_path / "bottom" / "a" / "b").mkdir()
        os.chown(tmp_path / "middle" / "a", 5, 6)
        os.chmod(tmp_path / "middle" / "a", 0o1777)
        os.chmod(tmp_path / "bottom" / "a" / "b", 0o700)
        _adopt(tmp_path, (b"a", b"a/b"))
        info = (tmp_path / "top" / "a").stat()
        assert (info.st_uid, info.st_gid, stat.S_IMODE(info.st_mode)) == (5, 6, 0o1777)
        assert stat.S_IMODE((tmp_path / "top" / "a" / "b").stat().st_mode) == 0o700

    def test_symlink_below(self, tmp_path: Path) -> None:
        (tmp_path / "top" / "lib").mkdir(parents=True)
        (tmp_path / "middle").mkdir()
        (tmp_path / "middle" / "lib").symlink_to("usr/lib")
        (tmp_path / "bottom").mkdir()
        with pytest.raises(NeedsParents):
            _adopt(tmp_path, (b"lib",))


def _adopt(tmp_path: Path, implicit: tuple[bytes, ...]) -> None:
    fds = [os.open(tmp_path / name, os.O_RDONLY) for name in ("top", "middle", "bottom")]
    try:
        adopt(fds[0], fds[1:], implicit)
    finally:
        for fd in fds:
            os.close(fd)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _rechecksum(raw: bytes) -> bytes:
    block = raw[:148] + b" " * 8 + raw[156:512]
    return raw[:148] + b"%06o\0 " % sum(block) + raw[156:]


@root_only
def test_a_node_swapped_for_a_symlink_leads_nowhere(
    box: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docker cp into a running container, where somebody waits for the moment between mknod
    and chmod."""
    precious = box.parent / "outside" / "precious"
    precious.chmod(0o600)
    make = os.mknod

    def make_and_swap(path: bytes, mode: int, device: int, *, dir_fd: int) -> None:
        make(path, mode, device, dir_fd=dir_fd)
        os.unlink(path, dir_fd=dir_fd)
        os.symlink(precious, path, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mknod", make_and_swap)
    fd = os.open(box, os.O_RDONLY)
    try:
        apply_layer(
            fd, TarReader(source(tar(member("f", tarfile.FIFOTYPE, mode=0o6777)))), Flavour.PLAIN
        )
    finally:
        os.close(fd)
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ({"uid": "4294967296"}, "owner out of range"),
        ({"gid": "-2"}, "owner out of range"),
        ({"uid": "9" * 30}, "owner out of range"),
        ({"uid": "9" * 5000}, "malformed extended header"),
        ({"SCHILY.xattr.user.a\0b": "x"}, "malformed extended header"),
        ({"mtime": "9" * 30}, ""),
        ({"atime": "-" + "9" * 30}, ""),
    ],
)
def test_values_that_no_call_takes(box: Path, records: dict[str, str], text: str) -> None:
    """An OverflowError would end the worker that unpacks."""
    fd = os.open(box, os.O_RDONLY)
    data = tar(member("f", pax_headers=records), member("l", tarfile.SYMTYPE, linkname="f"))
    try:
        if text:
            with pytest.raises(ArchiveError, match=text):
                apply_layer(fd, TarReader(source(data)), Flavour.PLAIN)
        else:
            apply_layer(fd, TarReader(source(data)), Flavour.PLAIN)
            assert 0 in ((box / "f").stat().st_mtime, (box / "f").stat().st_atime)
    finally:
        os.close(fd)


def test_global_headers_without_end(box: Path) -> None:
    """Each is small, and all are kept."""
    parts = (
        tarfile.TarInfo.create_pax_global_header({f"comment.{number}": "x" * 200_000})
        for number in range(200)
    )
    fd = os.open(box, os.O_RDONLY)
    try:
        with pytest.raises(ArchiveError, match="too large"):
            apply_layer(fd, TarReader(source(b"".join(parts), 1 << 20)), Flavour.PLAIN)
    finally:
        os.close(fd)
