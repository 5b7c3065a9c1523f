"""Contexts: named engines, in the files of Docker's client.

On disk, under the configuration folder (the digest is the name's sha256)::

    contexts/meta/<digest>/meta.json         {"Name", "Metadata", "Endpoints": {"docker": …}}
    contexts/tls/<digest>/docker/*.pem       ca.pem, cert.pem, key.pem
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gantry.client.address import Address, Tls, parse_address
from gantry.model.errors import GantryError, NotFound

DEFAULT = "default"
DEFAULT_DESCRIPTION = "Current DOCKER_HOST based configuration"
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+")
TLS_FILES = ("ca.pem", "cert.pem", "key.pem")


@dataclass(frozen=True, slots=True)
class Context:
    """One context as stored."""

    name: str
    host: str
    skip_verify: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> str:
        return str(self.metadata.get("Description") or "")


def current(given: str, environment: Mapping[str, str], configured: str) -> str:
    """Which context counts: --context, DOCKER_HOST (none), DOCKER_CONTEXT, config.json."""
    if given:
        return given
    if environment.get("DOCKER_HOST"):
        return DEFAULT
    return environment.get("DOCKER_CONTEXT") or configured or DEFAULT


def check_name(name: str) -> None:
    if name == DEFAULT:
        raise GantryError('"default" is a reserved context name')
    if not _NAME.fullmatch(name):
        raise GantryError(
            f'context name "{name}" is invalid, names are validated against regexp '
            f'"^{_NAME.pattern}$"'
        )


class Contexts:
    """The contexts in a configuration folder."""

    def __init__(self, folder: str) -> None:
        self._root = os.path.join(folder, "contexts")

    def _digest(self, name: str) -> str:
        from hashlib import sha256

        return sha256(name.encode()).hexdigest()

    def meta_folder(self, name: str) -> str:
        return os.path.join(self._root, "meta", self._digest(name))

    def tls_folder(self, name: str) -> str:
        return os.path.join(self._root, "tls", self._digest(name))

    def get(self, name: str) -> Context:
        """NotFound with Docker's text."""
        path = os.path.join(self.meta_folder(name), "meta.json")
        try:
            with open(path, "rb") as file:
                return _decode(json.load(file))
        except FileNotFoundError:
            raise NotFound(
                f'context "{name}": context not found: open {path}: no such file or directory'
            ) from None
        except (ValueError, TypeError) as error:
            raise GantryError(f'context "{name}": {path}: {error}') from error

    def names(self) -> list[str]:
        """Of all that can be read, sorted."""
        found = []
        try:
            entries = os.listdir(os.path.join(self._root, "meta"))
        except FileNotFoundError:
            return []
        for entry in entries:
            try:
                with open(os.path.join(self._root, "meta", entry, "meta.json"), "rb") as file:
                    found.append(_decode(json.load(file)).name)
            except (OSError, ValueError, TypeError):
                continue
        return sorted(found)

    def tls_files(self, name: str) -> list[str]:
        folder = os.path.join(self.tls_folder(name), "docker")
        return [file for file in TLS_FILES if os.path.exists(os.path.join(folder, file))]

    def address(self, name: str) -> Address:
        """Where the context's engine is, with its TLS material."""
        context = self.get(name)
        folder = os.path.join(self.tls_folder(name), "docker")
        held = self.tls_files(name)
        tls = None
        if held or (context.skip_verify and context.host.startswith("tcp")):
            ca, certificate, key = (
                os.path.join(folder, file) if file in held else "" for file in TLS_FILES
            )
            tls = Tls(ca, certificate, key, verify=not context.skip_verify)
        return parse_address(context.host, tls)

    def put(self, context: Context, tls: Mapping[str, bytes] | None = None) -> None:
        """Writes it, and its TLS files when given (they replace those that were there)."""
        endpoint = {"Host": context.host, "SkipTLSVerify": context.skip_verify}
        document = {
            "Name": context.name,
            "Metadata": dict(context.metadata),
            "Endpoints": {"docker": endpoint},
        }
        folder = self.meta_folder(context.name)
        os.makedirs(folder, mode=0o755, exist_ok=True)
        _write(os.path.join(folder, "meta.json"), json.dumps(document).encode(), 0o644)
        if tls is None:
            return
        keys = os.path.join(self.tls_folder(context.name), "docker")
        os.makedirs(keys, mode=0o700, exist_ok=True)
        for file in TLS_FILES:
            path = os.path.join(keys, file)
            if file in tls:
                _write(path, tls[file], 0o600)
            elif os.path.exists(path):
                os.unlink(path)

    def read_tls(self, name: str) -> dict[str, bytes]:
        folder = os.path.join(self.tls_folder(name), "docker")
        found = {}
        for file in self.tls_files(name):
            with open(os.path.join(folder, file), "rb") as opened:
                found[file] = opened.read()
        return found

    def remove(self, name: str) -> None:
        import shutil

        if not os.path.isdir(self.meta_folder(name)):
            raise NotFound(f'context "{name}" does not exist')
        shutil.rmtree(self.meta_folder(name))
        shutil.rmtree(self.tls_folder(name), ignore_errors=True)


def _decode(raw: Any) -> Context:
    endpoint = raw["Endpoints"].get("docker") or {}
    return Context(
        str(raw["Name"]),
        str(endpoint.get("Host") or ""),
        bool(endpoint.get("SkipTLSVerify")),
        dict(raw.get("Metadata") or {}),
    )


def _write(path: str, data: bytes, mode: int) -> None:
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    os.replace(temporary, path)
