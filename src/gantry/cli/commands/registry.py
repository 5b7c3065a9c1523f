"""`gantry registry serve`: becomes the registry server, a program of its own.

The server is no part of the client (`gantry.daemon.registryd` imports what the engine does), so
this only checks the command line and executes it. Without the folder it is called in on the
path of modules: what lies there is nobody's to run.
"""

from __future__ import annotations

import os
import sys

from gantry.cli.command import App, Command
from gantry.cli.flags import Flag, Options
from gantry.model.errors import GantryError

_MODULE = "gantry.daemon.registryd"
_TEXTS = (
    "root", "listen", "tls-cert", "tls-key", "htpasswd", "proxy", "proxy-user",
    "proxy-password-file",
)  # fmt: skip


def _serve(_app: App, options: Options, _arguments: list[str]) -> int:
    line = [sys.executable, "-P", "-m", _MODULE]
    for name in _TEXTS:
        if options.changed(name):
            line += [f"--{name}", options.text(name)]
    if options.on("insecure-upstream"):
        line.append("--insecure-upstream")
    sys.stdout.flush()
    try:
        os.execv(sys.executable, line)
    except OSError as error:
        raise GantryError(f"cannot run {sys.executable}: {error}") from error


SERVE = Command(
    "Serve an OCI registry from a folder",
    "[OPTIONS]",
    _serve,
    (
        Flag(
            "root",
            "Folder of its data",
            "string",
            default="/var/lib/gantry-registry",
        ),
        Flag(
            "listen",
            "Address to listen on; port 0 for any",
            "string",
            default="127.0.0.1:5000",
        ),
        Flag("tls-cert", "Certificate, with its chain (PEM)", "string"),
        Flag("tls-key", "Key of --tls-cert", "string"),
        Flag("htpasswd", "Users, as `htpasswd -B` writes them", "string"),
        Flag("proxy", "Be a pull-through cache of this registry", "string"),
        Flag("proxy-user", "User at the registry that is cached", "string"),
        Flag("proxy-password-file", "Password of --proxy-user", "string"),
        Flag("insecure-upstream", "Plain HTTP, or any certificate, is fine for --proxy"),
    ),
    details=(
        "Serves the distribution protocol (push, pull, mount, chunked and resumed uploads,"
        " delete, tags, referrers, catalog) until it gets SIGTERM or SIGINT. Needs no engine."
    ),
    examples=(
        ("gantry registry serve --root ./registry", "A registry on 127.0.0.1:5000"),
        (
            "gantry registry serve --proxy docker.io --listen 127.0.0.1:5001",
            "A cache of Docker Hub",
        ),
    ),
)
