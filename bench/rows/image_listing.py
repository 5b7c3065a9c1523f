"""100 listings with 200 images."""

import io
import tarfile

from tests.support.engine import Engine
from tests.support.image import add_file

from bench.row import Row
from bench.work import client, seconds

COUNT = 200


def _tar(number: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        add_file(tar, "number", str(number).encode())
    return out.getvalue()


def measure(engine: Engine, quick: bool) -> float:
    """Return milliseconds for all listings, over one connection."""
    count = 20 if quick else COUNT
    with client(engine) as api:
        there = api.get("/images/json").expect(200).body
        for number in range(count):
            if b'"many:%d"' % number not in there:
                target = f"/images/create?fromSrc=-&repo=many&tag={number}"
                api.post(target, body=_tar(number)).expect(200)

        def ask() -> None:
            answer = api.get("/images/json").expect(200)
            assert answer.body.count(b"many:") == count

        ask()
        return seconds(ask, 100) * 100_000


ROW = Row("100 listings of 200 images", "ms", 5, measure, rounds=3)
