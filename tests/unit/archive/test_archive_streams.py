"""Compression, the reader, the differ, and fuzz of what comes from outside."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gantry.archive import header
from gantry.archive.apply import Limits, apply_layer
from gantry.archive.compression import CHUNK, Compression, decompress
from gantry.archive.diff import diff_layer, tree
from gantry.archive.errors import ArchiveError, NeedsParents
from gantry.archive.header import Entry
from gantry.archive.names import clean
from gantry.archive.reader import TarReader
from gantry.archive.removal import remove_tree
from gantry.archive.unpack import Ahead, unpack
from gantry.model.errors import GantryError
from gantry.model.snapshot import Flavour

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
DATA = b"".join(b"line %d\n" % i for i in range(50000))


def source(data: bytes, piece: int = 777) -> Callable[[], bytes]:
    stream = io.BytesIO(data)
    return lambda: stream.read(piece)


def everything(read: Callable[[], bytes]) -> bytes:
    return b"".join(iter(read, b""))


class TestCompression:
    @pytest.mark.parametrize(
        ("kind", "pack"),
        [
            (Compression.NONE, lambda data: data),
            (Compression.GZIP, gzip.compress),
            (Compression.BZIP2, bz2.compress),
            (Compression.XZ, lzma.compress),
            (Compression.ZSTD, zstandard.ZstdCompressor().compress),
        ],
    )
    def test_each_kind(self, kind: Compression, pack: Callable[[bytes], bytes]) -> None:
        packed = pack(DATA)
        found, read = decompress(source(packed))
        assert found is kind
        assert everything(read) == DATA
        _, read = decompress(source(packed, 1))
        assert everything(read) == DATA
        if kind is not Compression.NONE:
            _, read = decompress(source(pack(DATA) + pack(b"more")))
            assert everything(read) == DATA + b"more", "concatenated members are one stream"
            for cut in (len(packed) // 2, len(packed) - 2):
                _, read = decompress(source(packed[:cut]))
                if kind is Compression.ZSTD:
                    assert len(everything(read)) < len(DATA) or cut > len(packed) // 2
                    continue
                with pytest.raises(ArchiveError):
                    everything(read)

    def test_damage(self) -> None:
        packed = bytearray(gzip.compress(os.urandom(50000)))
        packed[20000] ^= 0xFF
        packed[20001] ^= 0xFF
        _, read = decompress(source(bytes(packed)))
        with pytest.raises(ArchiveError):
            everything(read)

    def test_rubbish_behind(self) -> None:
        _, read = decompress(source(gzip.compress(b"x") + b"\0" * 100))
        assert everything(read) == b"x", "zero padding is allowed"
        _, read = decompress(source(gzip.compress(b"x") + b"rubbish that is no gzip"))
        with pytest.raises(ArchiveError):
            everything(read)

    def test_a_bomb_comes_in_pieces(self) -> None:
        for packed in (gzip.compress(bytes(64 << 20)), bz2.compress(bytes(64 << 20))):
            _, read = decompress(source(packed, 1 << 20))
            assert max(map(len, iter(read, b""))) <= CHUNK

    def test_short_input(self) -> None:
        for data in (b"", b"x", b"\x1f\x8b"):
            _, read = decompress(source(data))
            assert everything(read) == data


class TestAhead:
    def test_order_and_error(self) -> None:
        def failing() -> Iterator[bytes]:
            yield b"one"
            yield b"two"
            raise ArchiveError("broken")

        pieces = failing()
        ahead = Ahead(lambda: next(pieces, b""))
        assert ahead() == b"one"
        assert ahead() == b"two"
        with pytest.raises(ArchiveError):
            ahead()
        ahead.close()

    def test_close_while_full(self) -> None:
        ahead = Ahead(lambda: b"x")
        assert ahead() == b"x"
        ahead.close()


names = st.one_of(
    st.binary(min_size=1, max_size=120),
    st.sampled_from([b"..", b"a/../..", b"/etc/x", b"a/b", b".wh.a", b"a/.wh..wh..opq", b"l/x"]),
)
entries = st.lists(
    st.builds(
        Entry,
        name=names.map(lambda n: n.replace(b"\0", b"_")),
        type=st.sampled_from([*b"0125346"]),
        mode=st.integers(0, 0o7777),
        uid=st.integers(0, 1 << 31),
        gid=st.integers(0, 1 << 31),
        mtime_ns=st.integers(-(1 << 33), 1 << 33).map(lambda s: s * 10**9),
        link=names.map(lambda n: n.replace(b"\0", b"_")),
        major=st.integers(0, 4095),
        minor=st.integers(0, 99999),
    ),
    max_size=12,
)


class TestHeader:
    @given(entries)
    def test_written_is_read_again(self, given_entries: list[Entry]) -> None:
        for entry in given_entries:
            if entry.type == header.REGULAR and entry.name.endswith(b"/"):
                continue
            [found] = list(TarReader(source(header.build(entry) + bytes(1024))))
            assert (found.name, found.link, found.type) == (entry.name, entry.link, entry.type)
            assert (found.mode, found.uid, found.gid) == (entry.mode, entry.uid, entry.gid)
            assert found.mtime_ns == entry.mtime_ns

    def test_tarfile_reads_what_we_write(self) -> None:
        entry = Entry(
            "é/".encode() + b"n" * 300,
            size=3,
            uid=1 << 22,
            mtime_ns=1_600_000_000 * 10**9,
            xattrs={b"user.a": b"binary \xff\n=value"},
        )
        data = header.build(entry) + b"abc".ljust(512, b"\0") + bytes(1024)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            [info] = archive.getmembers()
            assert info.name == os.fsdecode(entry.name)
            assert info.uid == 1 << 22
            assert archive.extractfile(info).read() == b"abc"  # type: ignore[union-attr]
        [found] = list(TarReader(source(data)))
        assert found.xattrs == entry.xattrs

    def test_base_256(self) -> None:
        assert header.number(b"\x80\0\0\0\0\0\0\0\0\0\1\0") == 256
        assert header.number(b"\xff" * 12) == -1

    @given(st.binary(max_size=3000))
    def test_rubbish_is_refused_not_crashed_on(self, data: bytes) -> None:
        try:
            for _ in TarReader(source(data)):
                pass
        except ArchiveError:
            pass

    @given(st.binary(min_size=1, max_size=2000), st.integers(0, 100))
    def test_pax_records(self, data: bytes, length: int) -> None:
        head = header.build(Entry(b"p", header.PAX, size=len(data)))
        try:
            for entry in TarReader(source(head + data.ljust(2048, b"\0") + bytes(1024))):
                assert entry.size >= 0
        except ArchiveError:
            pass

    @given(st.binary(max_size=200))
    def test_clean_never_leads_out(self, name: bytes) -> None:
        try:
            found = clean(name)
        except ArchiveError:
            return
        assert not found.startswith(b"/")
        assert b".." not in found.split(b"/")


@root_only
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(entries, st.sampled_from([Flavour.PLAIN, Flavour.OVERLAY]))
def test_fuzz_nothing_is_written_outside(given_entries: list[Entry], flavour: Flavour) -> None:
    """Whatever a tar says, what is beside the folder stays as it is."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        (top / "precious").write_text("untouched")
        os.utime(top / "precious", (1, 1))
        (top / "box").mkdir()
        data = b"".join(map(header.build, given_entries)) + bytes(1024)
        fd = os.open(top / "box", os.O_RDONLY)
        try:
            apply_layer(fd, TarReader(source(data)), flavour, limits=Limits(1 << 20, 100))
        except (GantryError, NeedsParents):
            pass
        finally:
            os.close(fd)
        info = (top / "precious").stat()
        assert (top / "precious").read_text() == "untouched"
        assert (info.st_nlink, info.st_mtime) == (1, 1)
        assert sorted(os.listdir(top)) == ["box", "precious"]
        remove_tree(str(top / "box"))
        (top / "box").mkdir()


def changes(new: Path, old: Path | None, flavour: Flavour = Flavour.PLAIN) -> bytes:
    fds = [os.open(path, os.O_RDONLY) for path in (new, old) if path is not None]
    try:
        return b"".join(diff_layer(fds[0], fds[1] if old else None, flavour))
    finally:
        for fd in fds:
            os.close(fd)


class TestDiff:
    def build(self, top: Path) -> None:
        (top / "d").mkdir()
        (top / "d" / "file").write_bytes(b"x" * 3000)
        (top / "d" / "link").symlink_to("file")
        os.link(top / "d" / "file", top / "hard")
        os.mkfifo(top / "fifo")
        (top / "empty").mkdir(mode=0o700)
        os.utime(top / "d" / "file", ns=(5 * 10**9, 7 * 10**9))

    def test_tree_round_trip(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        self.build(one)
        fd = os.open(one, os.O_RDONLY)
        first = b"".join(tree(fd))
        os.close(fd)
        fd = os.open(two, os.O_RDONLY)
        apply_layer(fd, TarReader(source(first)), Flavour.PLAIN)
        second = b"".join(tree(fd))
        os.close(fd)
        assert first == second
        with tarfile.open(fileobj=io.BytesIO(first)) as archive:
            assert archive.getnames() == ["d", "d/file", "d/link", "empty", "fifo", "hard"]
            assert archive.getmember("hard").linkname == "d/file"

    def test_plain_difference(self, tmp_path: Path) -> None:
        old, new = tmp_path / "old", tmp_path / "new"
        for top in (old, new):
            top.mkdir()
            self.build(top)
            for path in (top / "d" / "link", top / "d", top / "empty", top / "fifo"):
                os.utime(path, ns=(9, 9), follow_symlinks=False)
        os.unlink(new / "fifo")
        (new / "d" / "file").write_bytes(b"changed")
        (new / "made").mkdir()
        (new / "made" / "inside").write_text("")
        found = list(TarReader(source(changes(new, old))))
        assert [entry.name for entry in found] == [
            b"d/",
            b"d/file",
            b".wh.fifo",
            b"hard",
            b"made/",
            b"made/inside",
        ]

    def test_no_difference_is_an_empty_archive(self, tmp_path: Path) -> None:
        self.build(tmp_path)
        assert changes(tmp_path, tmp_path) == bytes(1024)

    @root_only
    def test_overlay_difference(self, tmp_path: Path) -> None:
        os.mknod(tmp_path / "gone", 0o020000, 0)
        (tmp_path / "d").mkdir()
        os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"y")
        (tmp_path / "d" / "x").write_text("x")
        data = changes(tmp_path, None, Flavour.OVERLAY)
        assert [entry.name for entry in TarReader(source(data))] == [
            b"d/",
            b"d/.wh..wh..opq",
            b"d/x",
            b".wh.gone",
        ]
        again = tmp_path / "again"
        again.mkdir()
        fd = os.open(again, os.O_RDONLY)
        done = unpack(source(gzip.compress(data)), fd, Flavour.OVERLAY)
        os.close(fd)
        assert done.compression is Compression.GZIP
        assert os.getxattr(again / "d", "trusted.overlay.opaque") == b"y"


class TestRemoval:
    def test_deeper_than_paths_go(self, tmp_path: Path) -> None:
        (tmp_path / "t").mkdir()
        fd = os.open(tmp_path / "t", os.O_RDONLY)
        for _ in range(1500):
            os.mkdir("deep", dir_fd=fd)
            below = os.open("deep", os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        remove_tree(str(tmp_path / "t"))
        assert os.listdir(tmp_path) == []

    def test_names_that_it_would_use_itself(self, tmp_path: Path) -> None:
        """A container must not be able to make its files undeletable."""
        for name in (".gantry-spill-1", ".gantry-spill-2"):
            (tmp_path / "t" / name / "full").mkdir(parents=True)
        (tmp_path / "t" / Path("/".join(["a"] * 250))).mkdir(parents=True)
        (tmp_path / "t" / ".gantry-spill-2" / Path("/".join(["b"] * 250))).mkdir(parents=True)
        remove_tree(str(tmp_path / "t"))
        assert os.listdir(tmp_path) == []

    def test_symlinks_are_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "kept").mkdir()
        (tmp_path / "kept" / "x").write_text("")
        (tmp_path / "t").mkdir()
        (tmp_path / "t" / "link").symlink_to(tmp_path / "kept")
        (tmp_path / "top").symlink_to(tmp_path / "kept")
        remove_tree(str(tmp_path / "t"))
        remove_tree(str(tmp_path / "top"))
        remove_tree(str(tmp_path / "never"))
        assert (tmp_path / "kept" / "x").exists()
        assert os.listdir(tmp_path) == ["kept"]


@pytest.mark.parametrize("becomes_fifo", [True, False])
def test_what_changes_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, becomes_fifo: bool
) -> None:
    """A file that became a fifo is not opened (one would wait, or rewind a tape); one that is
    gone is left out."""
    (tmp_path / "file").write_text("content")
    (tmp_path / "stays").write_text("here")
    look = os.stat

    def look_and_swap(path: bytes, *, dir_fd: int, follow_symlinks: bool) -> os.stat_result:
        info = look(path, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if path == b"file":
            os.unlink(path, dir_fd=dir_fd)
            if becomes_fifo:
                os.mkfifo(path, dir_fd=dir_fd)
        return info

    fd = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(os, "stat", look_and_swap)
    data = b"".join(tree(fd))
    monkeypatch.undo()
    os.close(fd)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["stays"]
