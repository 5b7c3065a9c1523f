"""Pulls on which much goes wrong: connections, disks, crowds."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from tests.support.exchange import BASE, TOP, Served, pull, statuses
from tests.support.imagebox import ImageBox, digest
from tests.support.ownregistry import Gone, OwnRegistry, broken_after

from gantry.images import transfer
from gantry.model.errors import (
    GantryError,
)


class TestTransfers:
    def test_broken_connections(self, served: Served) -> None:
        """Every connection breaks after half a megabyte: it goes on from where it was."""

        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"

            def hook(request: web.Request) -> web.StreamResponse | None:
                if request.path != path or request.method != "GET":
                    return None
                start = int(request.headers.get("Range", "bytes=0-")[6:].split("-")[0])
                if start + 500_000 >= len(TOP):
                    return None
                if start == 0:
                    return broken_after(request, TOP, 500_000)
                return _partial(request, TOP, start, 500_000)

            registry.hook = hook
            messages = await pull(box, f"{registry.host}/x", "1")
            ranges = [r for m, p, r in registry.requests if p == path and m == "GET"]
            assert ranges[0] == ""
            assert len(ranges) >= len(TOP) // 500_000
            assert "Retrying in 1 second" in statuses(messages, digest(TOP)[7:19])
            assert box.images.resolve(f"{registry.host}/x:1")

        served(body)

    def test_gives_up(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [TOP])
            registry.hook = lambda request: (
                web.Response(status=500) if "/blobs/" in request.path else None
            )
            with pytest.raises(GantryError, match="500 Internal Server Error"):
                await pull(box, f"{registry.host}/x", "1")

        served(body)

    def test_goes_on_after_a_restart(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"
            box.images.transfers.attempts = 1
            registry.hook = lambda request: (
                broken_after(request, TOP, 2_500_000) if request.path == path else None
            )
            with pytest.raises(GantryError):
                await pull(box, f"{registry.host}/x", "1")
            await box.images.aclose()
            box.open()
            await box.images.recover()
            assert box.content.exists(digest(BASE)), "kept by the lease"
            registry.hook = None
            registry.requests.clear()
            await pull(box, f"{registry.host}/x", "1")
            [(_, _, asked)] = [one for one in registry.requests if one[1] == path]
            assert int(asked.removeprefix("bytes=").split("-")[0]) >= 100_000
            assert registry.seen("GET", digest(BASE)) == 0
            assert not box.store.leases
            assert not box.content.ingests()

        served(body)

    @pytest.mark.parametrize("ranges", [True, False])
    def test_large_blobs_in_ranges(
        self, served: Served, ranges: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "_SPLIT", 1_000_000)
        monkeypatch.setattr(transfer, "_NOTE", 100_000)

        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"
            if not ranges:
                registry.hook = lambda request: (
                    web.Response(body=TOP) if request.path == path else None
                )
            await pull(box, f"{registry.host}/x", "1")
            asked = [r for _, p, r in registry.requests if p == path]
            if ranges:
                assert len(asked) == 4
                assert len(set(asked)) == 4
            assert box.content.verify(digest(TOP))

        served(body)

    def test_ranges_go_on_after_a_restart(
        self, served: Served, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transfer, "_SPLIT", 1_000_000)

        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"
            box.images.transfers.attempts = 1

            def hook(request: web.Request) -> web.StreamResponse | None:
                if request.path != path:
                    return None
                start = int(request.headers.get("Range", "bytes=0-")[6:].split("-")[0])
                return _partial(request, TOP, start, 300_000)

            registry.hook = hook
            with pytest.raises(GantryError):
                await pull(box, f"{registry.host}/x", "1")
            await box.images.aclose()
            box.open()
            await box.images.recover()
            assert len(box.content.ingests()) == 1
            registry.hook = None
            registry.requests.clear()
            await pull(box, f"{registry.host}/x", "1")
            asked = [r for _, p, r in registry.requests if p == path]
            assert "" not in asked
            assert sum(_length(r, len(TOP)) for r in asked) < len(TOP)
            assert box.content.verify(digest(TOP))

        served(body)

    def test_two_pulls_share(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            await registry.put_image("y", "1", [BASE, TOP], author="other")
            await asyncio.gather(
                *(pull(box, f"{registry.host}/{n}", "1") for n in ("x", "y", "x", "y"))
            )
            assert (
                sum(1 for m, p, _ in registry.requests if p.endswith(digest(TOP)) and m == "GET")
                == 1
            )
            assert len(box.images.catalog.images) == 2

        served(body)

    def test_cancelled_client(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"
            hang = asyncio.Event()

            async def stuck(request: web.Request) -> web.StreamResponse:
                response = web.StreamResponse(headers={"Content-Length": str(len(TOP))})
                await response.prepare(request)
                await response.write(TOP[:1_500_000])
                hang.set()
                await asyncio.Event().wait()
                return response

            registry.hook = None
            original = registry.registry.handle

            async def handle(request: web.Request) -> web.StreamResponse:
                return await (stuck if request.path == path else original)(request)

            registry.registry.handle = handle  # type: ignore[method-assign]  # a fault
            first = asyncio.get_running_loop().create_task(pull(box, f"{registry.host}/x", "1"))
            second = asyncio.get_running_loop().create_task(pull(box, f"{registry.host}/x", "1"))
            await hang.wait()
            first.cancel()
            await asyncio.wait([first])
            assert box.images.transfers._running, "the second one still wants it"
            second.cancel()
            await asyncio.wait([second])
            assert not box.images.transfers._running
            assert not any(i.name.startswith("unpack-") for i in box.snapshots.walk())
            registry.registry.handle = original  # type: ignore[method-assign]
            await pull(box, f"{registry.host}/x", "1")

        served(body)

    def test_wrong_content(self, served: Served) -> None:
        async def body(box: ImageBox, registry: OwnRegistry) -> None:
            await registry.put_image("x", "1", [BASE, TOP])
            path = f"/v2/x/blobs/{digest(TOP)}"
            other = bytes(reversed(TOP))
            for wrong in (other, TOP + b"x", TOP[:-1], b""):
                registry.hook = lambda request, wrong=wrong: (
                    web.Response(body=wrong) if request.path == path else None
                )
                with pytest.raises(GantryError) as error:
                    await pull(box, f"{registry.host}/x", "1")
                if wrong is other:
                    assert str(error.value) == (
                        f"filesystem layer verification failed for digest {digest(TOP)}"
                    )
                assert not box.images.catalog.images
                assert not box.content.exists(digest(TOP))
            registry.hook = None
            await pull(box, f"{registry.host}/x", "1")

        served(body)


def _partial(request: web.Request, data: bytes, start: int, count: int) -> web.StreamResponse:
    """206 from `start` that breaks off after `count` bytes."""
    end = request.headers.get("Range", "").partition("-")[2]
    stop = int(end) + 1 if end else len(data)
    body = data[start:stop]
    transport = request.transport
    assert transport is not None
    head = (
        f"HTTP/1.1 206 Partial Content\r\nContent-Length: {len(body)}\r\n"
        f"Content-Range: bytes {start}-{stop - 1}/{len(data)}\r\n\r\n"
    )
    transport.write(head.encode() + body[:count])
    asyncio.get_running_loop().call_soon(transport.close)
    return Gone()


def _length(text: str, size: int) -> int:
    start, _, end = text.removeprefix("bytes=").partition("-")
    return (int(end) + 1 if end else size) - int(start)
