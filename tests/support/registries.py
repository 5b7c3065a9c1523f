"""Registries to test with: Debian's docker-registry, plain or with TLS, passwords, tokens."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from tests.support.machine import Host


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def make_certificate(
    folder: Path, name: str = "localhost", address: str = "127.0.0.1"
) -> tuple[Path, Path]:
    """A self-signed certificate for localhost and an address, and its key."""
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=DNS:localhost,IP:{address}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


class DebianRegistry:
    """docker-registry on a free port of 127.0.0.1; a context manager."""

    def __init__(
        self,
        root: Path,
        *,
        tls: tuple[Path, Path] | None = None,
        htpasswd: tuple[str, str] | None = None,
        token: dict[str, str] | None = None,
        extra: str = "",
        address: str = "127.0.0.1",
        client_authority: Path | None = None,
        within: Host | None = None,
    ) -> None:
        """token: realm, service, issuer, rootcertbundle. extra: lines for the configuration.
        within: the host it runs on."""
        if shutil.which("docker-registry") is None:
            pytest.skip("docker-registry is not installed")
        self.port = free_port()
        self.host = f"{address}:{self.port}"
        self._address = address
        self._within = within
        self.root = root
        self._tls = tls
        self.log = root / "registry.log"
        root.mkdir(parents=True, exist_ok=True)
        clients = f", clientcas: ['{client_authority}']" if client_authority else ""
        lines = [
            "version: 0.1",
            "log: {level: warn}",
            f"storage: {{filesystem: {{rootdirectory: {root / 'data'}}}}}",
            f"http: {{addr: '{self.host}'"
            + (f", tls: {{certificate: {tls[0]}, key: {tls[1]}{clients}}}" if tls else "")
            + "}",
        ]
        if htpasswd is not None:
            file = root / "htpasswd"
            subprocess.run(
                ["htpasswd", "-Bbc", str(file), *htpasswd], check=True, capture_output=True
            )
            lines.append(f"auth: {{htpasswd: {{realm: test, path: {file}}}}}")
        if token is not None:
            inner = ", ".join(f"{key}: '{value}'" for key, value in token.items())
            lines.append(f"auth: {{token: {{{inner}}}}}")
        (root / "config.yml").write_text("\n".join([*lines, extra, ""]))

    def __enter__(self) -> DebianRegistry:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("REGISTRY")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(self._within.command if self._within else ()),
                    *("docker-registry", "serve", str(self.root / "config.yml")),
                ],
                stdout=log,
                stderr=log,
                env=environment,
            )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.request("GET", "/v2/")
                return
            except ssl.SSLError:
                return  # it wants a certificate of us: it is there
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(self.log.read_text()[-2000:])
                time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def request(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, bytes]:
        """One exchange: status and body."""
        if self._within is not None:
            return self._within.call(lambda: self._request(method, path, body, headers))
        return self._request(method, path, body, headers)

    def _request(
        self, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        connection: http.client.HTTPConnection
        if self._tls is not None:
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection(self._address, self.port, context=context)
        else:
            connection = http.client.HTTPConnection(self._address, self.port)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
