"""The user's client configuration: `config.json` in DOCKER_CONFIG or ~/.docker."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gantry.model.errors import GantryError

INDEX_SERVER = "https://index.docker.io/v1/"


@dataclass(slots=True)
class Config:
    """What config.json says; `raw` keeps what we do not know, for writing it back."""

    path: str
    raw: dict[str, Any] = field(default_factory=dict)

    def text(self, key: str) -> str:
        value = self.raw.get(key)
        return value if isinstance(value, str) else ""

    @property
    def http_headers(self) -> dict[str, str]:
        headers = self.raw.get("HttpHeaders")
        if not isinstance(headers, dict):
            return {}
        return {str(key): str(value) for key, value in headers.items() if key != "User-Agent"}

    def format_of(self, key: str) -> str:
        """The default of --format for a listing: psFormat, imagesFormat …"""
        return self.text(key)

    def auth_for(self, registry: str) -> dict[str, str]:
        """Credentials for a registry (`docker.io` is kept under its index server's URL)."""
        key = INDEX_SERVER if registry in ("docker.io", "index.docker.io", "") else registry
        helper = self._helper(key)
        if helper:
            return _ask_helper(helper, key)
        auths = self.raw.get("auths")
        entry = auths.get(key) if isinstance(auths, dict) else None
        if not isinstance(entry, dict):
            return {}
        found = {"serveraddress": key}
        if isinstance(entry.get("auth"), str) and entry["auth"]:
            decoded = base64.b64decode(entry["auth"]).decode("utf-8", "replace")
            found["username"], _, found["password"] = decoded.rstrip("\0").partition(":")
        for name in ("identitytoken", "registrytoken"):
            if isinstance(entry.get(name), str):
                found[name] = entry[name]
        return found

    def _helper(self, key: str) -> str:
        helpers = self.raw.get("credHelpers")
        if isinstance(helpers, dict) and isinstance(helpers.get(key), str):
            return str(helpers[key])
        return self.text("credsStore")

    def store_auth(self, registry: str, username: str, password: str, token: str = "") -> None:
        auths = self.raw.setdefault("auths", {})
        entry: dict[str, str] = {}
        if token:
            entry["identitytoken"] = token
            entry["auth"] = base64.b64encode(f"{username}:".encode()).decode()
        else:
            entry["auth"] = base64.b64encode(f"{username}:{password}".encode()).decode()
        auths[registry] = entry
        self.save()

    def forget_auth(self, registry: str) -> bool:
        auths = self.raw.get("auths")
        if not isinstance(auths, dict) or registry not in auths:
            return False
        del auths[registry]
        self.save()
        return True

    def save(self) -> None:
        """Writes it back whole, readable by its owner only."""
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        temporary = f"{self.path}.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(self.raw, file, indent="\t")
        os.replace(temporary, self.path)


def directory(environment: Mapping[str, str]) -> str:
    return environment.get("DOCKER_CONFIG") or os.path.join(
        environment.get("HOME") or os.path.expanduser("~"), ".docker"
    )


def load(environment: Mapping[str, str]) -> Config:
    """Reads it; an absent file is an empty configuration, a broken one an error."""
    path = os.path.join(directory(environment), "config.json")
    try:
        with open(path, "rb") as file:
            raw = json.load(file)
    except FileNotFoundError:
        return Config(path)
    except (OSError, ValueError) as error:
        raise GantryError(f"Error loading config file: {path}: {error}") from error
    return Config(path, raw if isinstance(raw, dict) else {})


def encode_auth(auth: Mapping[str, str]) -> str:
    """The X-Registry-Auth header: JSON in base64url."""
    return base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()


def registry_of(image: str) -> str:
    """The registry's name in an image's: what precedes the first slash, if it is a host."""
    first, slash, _ = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first
    return "docker.io"


def _ask_helper(helper: str, key: str) -> dict[str, str]:
    import subprocess

    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=key.encode(),
            capture_output=True,
            check=False,
        )
        answer = json.loads(done.stdout) if done.returncode == 0 else {}
    except (OSError, ValueError):
        return {}
    if not answer:
        return {}
    if answer.get("Username") == "<token>":
        return {"serveraddress": key, "identitytoken": str(answer.get("Secret", ""))}
    return {
        "serveraddress": key,
        "username": str(answer.get("Username", "")),
        "password": str(answer.get("Secret", "")),
    }
