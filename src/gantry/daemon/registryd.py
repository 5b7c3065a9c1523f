"""`gantry registry serve`: our own registry as a process. `python -m gantry.daemon.registryd`.

A plain foreground program: one line when it serves, SIGTERM or SIGINT ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from gantry.content.store import ContentStore
from gantry.ipc.owner import TaskOwner
from gantry.model.errors import GantryError, InvalidParameter
from gantry.registry.auth import Credentials
from gantry.registry.client import RegistryClient
from gantry.registry.server.access import Access
from gantry.registry.server.app import Registry, make_app
from gantry.registry.server.proxy import Upstream
from gantry.registry.server.repositories import Repositories
from gantry.registry.settings import parse_settings

_log = logging.getLogger(__name__)

_COLLECT: Final = 3600.0
"""Seconds between two searches for what no repository needs any more."""


@dataclass(frozen=True, slots=True)
class Options:
    """listen: host:port, port 0 for any. proxy: a registry to cache ("docker.io"), or ""."""

    root: str
    listen: str = "127.0.0.1:5000"
    tls_certificate: str = ""
    tls_key: str = ""
    htpasswd: str = ""
    proxy: str = ""
    proxy_user: str = ""
    proxy_password: str = ""
    insecure_upstream: bool = False


def parse_options(arguments: Sequence[str]) -> Options:
    parser = argparse.ArgumentParser(
        prog="gantry registry serve", description="Serve an OCI registry from a folder."
    )
    parser.add_argument("--root", default="/var/lib/gantry-registry", help="folder of its data")
    parser.add_argument("--listen", default="127.0.0.1:5000", metavar="HOST:PORT")
    parser.add_argument("--tls-cert", default="", dest="tls_certificate", metavar="FILE")
    parser.add_argument("--tls-key", default="", metavar="FILE")
    parser.add_argument("--htpasswd", default="", metavar="FILE", help="users, by htpasswd -B")
    parser.add_argument("--proxy", default="", metavar="REGISTRY", help="cache this registry")
    parser.add_argument("--proxy-user", default="", metavar="NAME")
    parser.add_argument("--proxy-password-file", default="", metavar="FILE", help="of --proxy-user")
    parser.add_argument("--insecure-upstream", action="store_true", help="HTTP to --proxy is fine")
    found = parser.parse_args(arguments)
    if bool(found.tls_certificate) != bool(found.tls_key):
        parser.error("--tls-cert and --tls-key go together")
    password = ""
    if found.proxy_password_file:
        try:
            with open(found.proxy_password_file, encoding="utf-8") as file:
                password = file.read().rstrip("\n")
        except OSError as error:
            parser.error(str(error))
    return Options(
        found.root,
        found.listen,
        found.tls_certificate,
        found.tls_key,
        found.htpasswd,
        found.proxy.removeprefix("https://").removeprefix("http://").rstrip("/"),
        found.proxy_user,
        password,
        found.insecure_upstream,
    )


@contextlib.asynccontextmanager
async def served(options: Options) -> AsyncIterator[str]:
    """The registry at work; gives host:port. GantryError when it cannot be."""
    from aiohttp import web

    host, colon, port = options.listen.rpartition(":")
    if not colon or not port.isdigit():
        raise InvalidParameter(f"invalid address {options.listen!r}: want HOST:PORT")
    content = ContentStore(os.path.join(options.root, "content"))
    access = Access(options.htpasswd) if options.htpasswd else None

    def upstream(repositories: Repositories) -> Upstream:
        insecure = [options.proxy] if options.insecure_upstream else []
        client = RegistryClient(parse_settings(insecure=insecure))
        who = Credentials(options.proxy_user, options.proxy_password)
        return Upstream(client, options.proxy, who, content, repositories)

    registry = Registry(
        options.root, content, access=access, upstream=upstream if options.proxy else None
    )
    await registry.recover()
    tasks = TaskOwner("registry")
    tls = None
    if options.tls_certificate:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            tls.load_cert_chain(options.tls_certificate, options.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise InvalidParameter(f"cannot read {options.tls_certificate}: {error}") from error
    runner = web.AppRunner(make_app(registry), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]") or None, int(port), ssl_context=tls)
        try:
            await site.start()
        except OSError as error:
            raise InvalidParameter(f"cannot listen on {options.listen}: {error}") from error
        [address, *_] = runner.addresses
        tasks.spawn(_collecting(registry), "collect")
        yield f"{address[0]}:{address[1]}"
    finally:
        await tasks.aclose()
        await runner.cleanup()
        await registry.aclose()


async def _collecting(registry: Registry) -> None:
    while True:
        await asyncio.sleep(_COLLECT)
        try:
            await registry.collect()
        except (GantryError, OSError) as error:
            _log.warning("cannot clean up: %s", error)


async def _run(options: Options) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with served(options) as address:
        print(f"registry: serving {options.root} on {address}", flush=True)
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 ended by a signal, 1 could not serve."""
    logging.basicConfig(level=logging.WARNING, format="registry: %(message)s")
    options = parse_options(sys.argv[1:] if arguments is None else arguments)
    try:
        import uvloop

        uvloop.run(_run(options))
    except GantryError as error:
        print(f"registry: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
