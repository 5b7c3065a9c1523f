"""Finding and calling Docker's legacy plugins: HTTP POSTs of JSON to a socket.

Where plugins are (moby pkg/plugins): NAME.sock or NAME/NAME.sock in /run/docker/plugins;
NAME.spec (a URL) or NAME.json ({"Name", "Addr", "TLSConfig"}) in /etc/docker/plugins and
/usr/lib/docker/plugins. A plugin says what it implements when it is activated.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import stat
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gantry.model.errors import InvalidParameter, NotFound, System

if TYPE_CHECKING:
    import aiohttp

Json = dict[str, Any]

MIME = "application/vnd.docker.plugins.v1.2+json"
_TIMEOUT = 60.0
_LONGEST = 16 << 20  # bytes of an answer
_RETRY_FOR = 5.0  # seconds that a plugin that does not answer yet gets


class NoSuchMethod(System):
    """The plugin answers 404 to this call: it does not have it."""


class Plugin:
    """A plugin at an address. Its methods are e.g. "NetworkDriver.CreateNetwork"."""

    def __init__(self, name: str, address: str, tls: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.address = address
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None
        self.implements: Sequence[str] = ()

    async def activate(self) -> None:
        answer = await self.call("Plugin.Activate")
        self.implements = tuple(answer.get("Implements") or ())

    async def call(self, method: str, body: Json | None = None) -> Json:
        """The answer. System with the plugin's own text ("remote: ...") when it refuses."""
        deadline = asyncio.get_running_loop().time() + _RETRY_FOR
        while True:
            try:
                return await self._call(method, body)
            except (ConnectionError, FileNotFoundError) as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise System(f'error while calling plugin "{self.name}": {error}') from error
                await asyncio.sleep(0.2)

    async def _call(self, method: str, body: Json | None) -> Json:
        from gantry.http.lean import aiohttp

        session = self._open()
        base = "http://plugin" if self.address.startswith("unix:") else self._base()
        data = b"" if body is None else json.dumps(body).encode()
        try:
            async with session.post(f"{base}/{method}", data=data) as response:
                said = await _whole(response.content)
                status = response.status
        except aiohttp.ClientConnectorError as error:
            raise ConnectionError(str(error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise System(f"{method}: {error}") from error
        answer = _parse(said)
        text = str(answer.get("Err") or "")
        if status == 404 and not text:
            raise NoSuchMethod(f"{method}: not found")
        if status != 200:
            raise System(f"{method}: {text or said.decode(errors='replace').strip()}")
        if text:
            raise System(f"remote: {text}")
        return answer

    def _open(self) -> aiohttp.ClientSession:
        from gantry.http.lean import aiohttp

        if self._session is None:
            connector: aiohttp.BaseConnector
            if self.address.startswith("unix:"):
                connector = aiohttp.UnixConnector(urlsplit(self.address).path)
            else:
                connector = aiohttp.TCPConnector(ssl=_context(self._tls) if self._tls else True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT),
                headers={"Accept": MIME, "Content-Type": MIME},
            )
        return self._session

    def _base(self) -> str:
        parts = urlsplit(self.address)
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{parts.netloc}"

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class Plugins:
    """The plugins of this host. sockets: where sockets are; specs: where files are."""

    def __init__(self, sockets: str, specs: Sequence[str]) -> None:
        self._sockets = sockets
        self._specs = specs
        self._active: dict[str, Plugin] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def get(self, name: str, kind: str) -> Plugin:
        """The plugin of that name that implements `kind` ("NetworkDriver", "IpamDriver").
        NotFound with Docker's text."""
        async with self._locks.setdefault(name, asyncio.Lock()):
            plugin = self._active.get(name)
            if plugin is None:
                plugin = self._find(name)
                try:
                    await plugin.activate()
                except BaseException:
                    await plugin.aclose()
                    raise
                self._active[name] = plugin
        if kind not in plugin.implements:
            raise NotFound(f'plugin "{name}" does not implement {kind}')
        return plugin

    async def aclose(self) -> None:
        for plugin in self._active.values():
            await plugin.aclose()
        self._active.clear()

    def _find(self, name: str) -> Plugin:
        missing = f"could not find plugin {name} in v1 plugin registry: plugin not found"
        if not re.fullmatch(r"[\w][\w.:-]*(/[\w.:-]+)*", name) or ".." in name:
            raise NotFound(missing)
        for path in (f"{self._sockets}/{name}.sock", f"{self._sockets}/{name}/{name}.sock"):
            try:
                if stat.S_ISSOCK(os.stat(path).st_mode):
                    return Plugin(name, f"unix://{path}")
            except OSError:
                continue
        for folder in self._specs:
            for path in (f"{folder}/{name}", f"{folder}/{name}/{name}"):
                plugin = _read_spec(name, path)
                if plugin is not None:
                    return plugin
        raise NotFound(missing)


def _read_spec(name: str, path: str) -> Plugin | None:
    for suffix in (".spec", ".json"):
        try:
            with open(path + suffix, encoding="utf-8") as file:
                text = file.read()
        except OSError:
            continue
        if suffix == ".spec":
            address, tls = text.strip(), None
        else:
            found = _parse(text.encode())
            address, tls = str(found.get("Addr", "")), found.get("TLSConfig")
        if not urlsplit(address).scheme:
            raise InvalidParameter(f"plugin {name}: unknown protocol: {address}")
        return Plugin(name, address, tls if isinstance(tls, dict) else None)
    return None


async def _whole(content: aiohttp.StreamReader) -> bytes:
    """All of an answer, if there is an end to it. System."""
    said = bytearray()
    while part := await content.readany():
        said += part
        if len(said) > _LONGEST:
            raise System("the plugin's answer is too long")
    return bytes(said)


def _parse(data: bytes) -> Json:
    """The object, an empty one for whatever else it is."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _context(tls: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=tls.get("CAFile") or None)
    if tls.get("InsecureSkipVerify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.get("CertFile"):
        context.load_cert_chain(str(tls["CertFile"]), str(tls.get("KeyFile") or "") or None)
    return context
