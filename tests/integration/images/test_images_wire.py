"""Progress over the wire: what a client sees while it still sends."""

from __future__ import annotations

import json
import random

import pytest
from tests.support.api import Api
from tests.support.imagebox import digest, docker_archive, layer

pytestmark = pytest.mark.integration

LAYER = layer({"big": random.Random(1).randbytes(3_000_000)})
ARCHIVE = docker_archive([LAYER], ["wire:1"])
HALF = 1_500_000


@pytest.mark.parametrize("version", ["1.41", "1.52"])
def test_a_load_tells_how_far_it_is(api: Api, version: str) -> None:
    head = (
        f"POST /v{version}/images/load?quiet=0 HTTP/1.1\r\nHost: docker\r\n"
        f"Content-Length: {len(ARCHIVE)}\r\nConnection: close\r\n\r\n"
    )
    with api.connect() as wire:
        wire.sock.sendall(head.encode() + ARCHIVE[:HALF])
        wire.until(b"\r\n\r\n")
        wire.line()  # the chunk's length
        first = json.loads(wire.line())
        wire.sock.sendall(ARCHIVE[HALF:])
        rest = wire.rest()
    assert first["status"] == "Loading layer"
    assert first["id"] == digest(LAYER)[7:19]
    assert 0 < first["progressDetail"]["current"] <= HALF
    assert first["progressDetail"]["total"] == len(LAYER)
    assert ("progress" in first) == (version == "1.41")
    assert b"Loaded image: wire:1" in rest
    api.delete("/images/wire:1").expect(200)
