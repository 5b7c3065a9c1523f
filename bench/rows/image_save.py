"""`docker save` of the same image."""

from tests.support.engine import Engine

from bench.bigimage import load, variant
from bench.disk import settle
from bench.row import Row
from bench.work import seconds


def save(engine: Engine, name: str) -> int:
    """Read the whole archive and throw it away; return its bytes."""
    target = f"/v1.41/images/get?names={name}"
    buffer = bytearray(1 << 20)
    total = 0
    with engine.api("1.41").connect() as wire:
        request = f"GET {target} HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n"
        wire.sock.sendall(request.encode())
        while size := wire.sock.recv_into(buffer):
            total += size
    return total


def measure(engine: Engine, quick: bool) -> float:
    """Return seconds for one save."""
    image = variant(quick)
    load(engine, image)
    sizes: list[int] = []
    settle()
    took = seconds(lambda: sizes.append(save(engine, image.name)))
    assert sizes[0] > image.size
    return took


ROW = Row("save it", "s", 8, measure, rounds=3)
