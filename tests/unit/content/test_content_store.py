from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from gantry.content.store import ContentStore
from gantry.model.errors import Conflict, InvalidParameter, NotFound

DATA = b"some bytes"
DIGEST = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(str(tmp_path / "content"))


def files(store: ContentStore) -> list[str]:
    return sorted(
        str(p.relative_to(store.root)) for p in Path(store.root).rglob("*") if p.is_file()
    )


def test_a_blob_in_and_out(store: ContentStore) -> None:
    with store.writer() as writer:
        writer.write(DATA[:4])
        assert not store.exists(DIGEST)
        writer.write(DATA[4:])
        assert writer.commit(DIGEST, len(DATA)) == DIGEST
    assert store.read(DIGEST, 100) == DATA
    assert store.size(DIGEST) == len(DATA)
    assert [blob.digest for blob in store.walk()] == [DIGEST]
    assert files(store) == ["blobs/sha256/" + DIGEST[7:], "index.json", "oci-layout"]
    store.delete(DIGEST)
    store.delete(DIGEST)
    assert not store.exists(DIGEST)


def test_wrong_digest_and_size(store: ContentStore) -> None:
    before = files(store)
    with (
        store.writer() as writer,
        pytest.raises(InvalidParameter, match="unexpected commit digest"),
    ):
        writer.write(b"other")
        writer.commit(DIGEST)
    with store.writer() as writer, pytest.raises(InvalidParameter, match="unexpected commit size"):
        writer.write(DATA)
        writer.commit(DIGEST, 3)
    assert files(store) == before


def test_what_was_not_committed_is_dropped(store: ContentStore) -> None:
    before = files(store)
    with pytest.raises(RuntimeError), store.writer() as writer:
        writer.write(DATA)
        raise RuntimeError
    assert files(store) == before
    assert store.ingests() == []


def test_the_same_blob_twice(store: ContentStore) -> None:
    assert store.put(DATA) == store.put(DATA, DIGEST) == DIGEST
    with store.writer() as writer:
        writer.write(DATA)
        assert writer.commit() == DIGEST


def test_unknown_and_malformed(store: ContentStore) -> None:
    with pytest.raises(NotFound):
        store.open(DIGEST)
    assert store.size(DIGEST) is None
    for bad in ("", "sha256:", "sha256:../../etc", "md5:" + "a" * 32, "sha256:" + "g" * 64):
        with pytest.raises(InvalidParameter):
            store.path(bad)


def test_large_is_refused_where_small_is_wanted(store: ContentStore) -> None:
    store.put(DATA)
    with pytest.raises(InvalidParameter):
        store.read(DIGEST, 3)


def test_resume(store: ContentStore) -> None:
    with store.writer("layer " + DIGEST) as writer:
        writer.write(DATA[:6])
        writer.keep()
    store = ContentStore(store.root)
    [ingest] = store.ingests()
    assert (ingest.ref, ingest.offset) == ("layer " + DIGEST, 6)
    with store.resume(ingest.name) as writer:
        with pytest.raises(Conflict):
            store.resume(ingest.name)
        assert writer.offset == 6
        writer.write(DATA[6:])
        assert writer.commit(DIGEST) == DIGEST
    assert store.ingests() == []
    with pytest.raises(NotFound):
        store.resume(ingest.name)


def test_clean_ingests(store: ContentStore) -> None:
    for ref in ("", "kept", "old"):
        with store.writer(ref) as writer:
            writer.write(b"x")
            writer.keep()
    [old] = [item for item in store.ingests() if item.ref == "old"]
    os.utime(Path(store.root) / "ingest" / old.name / "data", (1, 1))
    store.clean_ingests(keep_seconds=3600)
    assert [item.ref for item in store.ingests()] == ["kept"]


def test_verify(store: ContentStore) -> None:
    store.put(DATA)
    assert store.verify(DIGEST)
    path = store.path(DIGEST)
    os.chmod(path, 0o600)
    Path(path).write_bytes(b"some bytez")
    assert not store.verify(DIGEST)


def test_sha512(store: ContentStore) -> None:
    digest = "sha512:" + hashlib.sha512(DATA).hexdigest()
    with store.writer(algorithm="sha512") as writer:
        writer.write(DATA)
        assert writer.commit(digest) == digest
    assert store.verify(digest)


def test_set_aside(tmp_path: Path) -> None:
    """Gone from the store at once; deleted by `drop`, or by the next start after a crash."""
    store = ContentStore(str(tmp_path))
    first, second = store.put(b"first"), store.put(b"second")
    aside = store.set_aside([first, "sha256:" + "a" * 64])
    assert (len(aside), store.exists(first), store.exists(second)) == (1, False, True)
    store.drop(aside)
    store.drop(aside)
    store.set_aside([second])
    again = ContentStore(str(tmp_path))
    again.clean_ingests(keep_seconds=0)
    assert list((tmp_path / "ingest").iterdir()) == []
    assert again.put(b"first") == first
