"""Debian's docker-registry with us as its client, and skopeo and podman as clients of ours."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.imagebox import ImageBox, collect, digest, docker_archive, layer
from tests.support.registries import DebianRegistry, make_certificate

from gantry.model.errors import GantryError, Unauthorized
from gantry.registry.settings import parse_settings

pytestmark = pytest.mark.compat

BASE = layer({"etc": None, "etc/os": "base"})
TOP = layer({"big": bytes(range(256)) * 10_000})
Json = dict[str, Any]


def in_box(root: Path, body: Callable[[ImageBox], Awaitable[None]], **settings: Any) -> None:
    async def main() -> None:
        async with ImageBox(root) as box:
            if settings:
                await box.images.set_registries(parse_settings(**settings))
            await body(box)

    asyncio.run(main())


async def round_trip(box: ImageBox, host: str, auth: Json | None = None) -> None:
    """Push, remove, pull: the same image again."""
    await box.load(docker_archive([BASE, TOP], ["a"]))
    name = f"{host}/some/name"
    await box.images.tag("a", name, "1")
    image = box.images.resolve("a")
    options: Json = {"platform": "", "auth": auth or {}}
    await collect(box.images.push(name, tag="1", **options))
    for one in ("a", f"{name}:1"):
        await box.images.remove(one, force=False, noprune=False)
    assert not box.images.catalog.images
    await collect(box.images.pull(name, tag="1", **options))
    again = box.images.resolve(f"{name}:1")
    assert (again.id, again.manifest) == (image.id, image.manifest)


class TestDebianRegistry:
    def test_plain(self, tmp_path: Path) -> None:
        with DebianRegistry(tmp_path / "registry") as registry:

            async def body(box: ImageBox) -> None:
                await round_trip(box, registry.host)
                await box.images.tag(f"{registry.host}/some/name:1", f"{registry.host}/b", "2")
                options: Json = {"tag": "2", "platform": "", "auth": {}}
                messages = await collect(box.images.push(f"{registry.host}/b", **options))
                assert "Mounted from some/name" in [m.get("status") for m in messages]
                found = await box.images.distribution(f"{registry.host}/b:2", auth={})
                assert found["Platforms"][0]["os"] == "linux"

            in_box(tmp_path / "box", body)

    @pytest.mark.parametrize("client_certificate", [False, True])
    def test_tls_by_certs_d(self, tmp_path: Path, client_certificate: bool) -> None:
        address = _own_address()
        tls = make_certificate(tmp_path, "server", address)
        ours = make_certificate(tmp_path, "client")
        with DebianRegistry(
            tmp_path / "registry",
            tls=tls,
            address=address,
            client_authority=ours[0] if client_certificate else None,
        ) as registry:
            folder = tmp_path / "certs.d" / registry.host
            folder.mkdir(parents=True)
            shutil.copy(tls[0], folder / "ca.crt")
            settings: Json = {"certs_dirs": (str(tmp_path / "certs.d"),)}

            async def body(box: ImageBox) -> None:
                if client_certificate:
                    with pytest.raises(
                        GantryError, match=r"tls: (bad certificate|certificate required)"
                    ):
                        await round_trip(box, registry.host)
                    await box.images.remove("a", force=True, noprune=False)
                    name = f"{registry.host}/some/name:1"
                    await box.images.remove(name, force=True, noprune=False)
                    shutil.copy(ours[0], folder / "client.cert")
                    shutil.copy(ours[1], folder / "client.key")
                await round_trip(box, registry.host)

            in_box(tmp_path / "box", body, **settings)

    def test_unknown_authority(self, tmp_path: Path) -> None:
        """Not on loopback, where everything goes: through another address of this host."""
        address = _own_address()
        tls = make_certificate(tmp_path)
        with DebianRegistry(tmp_path / "registry", tls=tls, address=address) as registry:
            host = f"{address}:{registry.port}"

            async def refused(box: ImageBox) -> None:
                with pytest.raises(GantryError) as error:
                    await round_trip(box, host)
                assert str(error.value) == (
                    f'Get "https://{host}/v2/": tls: failed to verify certificate: x509:'
                    " certificate signed by unknown authority"
                )

            in_box(tmp_path / "box", refused)

            async def allowed(box: ImageBox) -> None:
                await round_trip(box, host)

            in_box(tmp_path / "box2", allowed, insecure=[f"{address}/32"])

        with DebianRegistry(tmp_path / "plain", address=address) as registry:
            host = f"{address}:{registry.port}"

            async def http(box: ImageBox) -> None:
                with pytest.raises(GantryError) as error:
                    await round_trip(box, host)
                assert str(error.value) == (
                    f'Get "https://{host}/v2/": http: server gave HTTP response to HTTPS client'
                )

            in_box(tmp_path / "box3", http)
            in_box(tmp_path / "box4", allowed, insecure=[host])

    def test_passwords(self, tmp_path: Path) -> None:
        with DebianRegistry(tmp_path / "registry", htpasswd=("me", "secret")) as registry:

            async def body(box: ImageBox) -> None:
                with pytest.raises(GantryError, match=r"^no basic auth credentials$"):
                    await round_trip(box, registry.host)
                auth = {"username": "me", "password": "secret", "serveraddress": registry.host}
                assert (await box.images.login(auth))["Status"] == "Login Succeeded"
                with pytest.raises(Unauthorized):
                    await box.images.login({**auth, "password": "wrong"})
                await box.images.remove("a", force=True, noprune=False)
                await box.images.remove(f"{registry.host}/some/name:1", force=True, noprune=False)
                await round_trip(box, registry.host, auth)

            in_box(tmp_path / "box", body)

    def test_what_others_pushed(self, tmp_path: Path) -> None:
        """An image in Docker's own schema, with gzip layers, by skopeo."""
        _need("skopeo")
        archive = tmp_path / "a.tar"
        archive.write_bytes(docker_archive([BASE, TOP], ["a"]))
        with DebianRegistry(tmp_path / "registry") as registry:
            name = f"{registry.host}/x"
            _run(
                *("skopeo", "copy", "--dest-tls-verify=false", "--format", "v2s2"),
                *(f"docker-archive:{archive}", f"docker://{name}:1"),
            )

            async def body(box: ImageBox) -> None:
                await collect(box.images.pull(name, tag="1", platform="", auth={}))
                image = box.images.resolve(f"{name}:1")
                assert image.diff_ids == (digest(BASE), digest(TOP))
                _, raw = registry.request("GET", f"/v2/x/manifests/{image.manifest}")
                assert digest(raw) == image.manifest
                assert json.loads(raw)["mediaType"].startswith("application/vnd.docker")

            in_box(tmp_path / "box", body)


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[str]:
    """host:port of our registry, as a process of its own."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gantry.daemon.registryd"),
            *("--root", str(tmp_path / "registry"), "--listen", "127.0.0.1:0"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    yield line.split()[-1]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


class TestOurRegistry:
    def test_skopeo(self, ours: str, tmp_path: Path) -> None:
        _need("skopeo")
        archive = tmp_path / "a.tar"
        archive.write_bytes(docker_archive([BASE, TOP], ["a"]))
        for kind in ("oci", "v2s2"):
            name = f"docker://{ours}/skopeo/{kind}:1"
            _run(
                *("skopeo", "copy", "--dest-tls-verify=false", "--format", kind),
                *(f"docker-archive:{archive}", name),
            )
            _run("skopeo", "copy", "--src-tls-verify=false", name, f"dir:{tmp_path / kind}")
            assert (tmp_path / kind / "manifest.json").exists()
        tags = json.loads(
            _run("skopeo", "list-tags", "--tls-verify=false", f"docker://{ours}/skopeo/oci")
        )
        assert tags["Tags"] == ["1"]
        _run("skopeo", "delete", "--tls-verify=false", f"docker://{ours}/skopeo/oci:1")
        failed = subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", f"docker://{ours}/skopeo/oci:1"],
            capture_output=True,
            text=True,
        )
        assert "manifest unknown" in failed.stderr

    def test_podman(self, ours: str, tmp_path: Path) -> None:
        _need("podman")
        archive = tmp_path / "a.tar"
        archive.write_bytes(docker_archive([BASE, TOP], ["a"]))
        podman = [
            *("podman", "--root", str(tmp_path / "p"), "--runroot", str(tmp_path / "r")),
            *("--storage-driver", "vfs"),
        ]
        try:
            _run(*podman, "load", "-i", str(archive))
            _run(*podman, "push", "--tls-verify=false", "localhost/a", f"{ours}/podman/a:1")
            _run(*podman, "rmi", "--all", "--force")
            _run(*podman, "pull", "--tls-verify=false", f"{ours}/podman/a:1")
        finally:
            subprocess.run([*podman, "rmi", "--all", "--force"], capture_output=True)

    def test_us(self, ours: str, tmp_path: Path) -> None:
        async def body(box: ImageBox) -> None:
            await round_trip(box, ours)

        in_box(tmp_path / "box", body)


def _own_address() -> str:
    """An address of this host that is not loopback."""
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            address = str(probe.getsockname()[0])
        except OSError:
            address = "127.0.0.1"
    if address.startswith("127."):
        pytest.skip("this host has only loopback")
    return address


def _need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
