"""`cp` and `export`: files out of containers and into them."""

from __future__ import annotations

import base64
import json
import os
import posixpath
import sys
from typing import Any

from gantry.cli import units
from gantry.cli.command import App, Command
from gantry.cli.commands.transfer import pieces, to_file
from gantry.cli.flags import Flag, Options
from gantry.cli.localcopy import Reader, asserts_directory, pack, split_entry, unpack
from gantry.cli.session import write_all
from gantry.cli.terminal import is_terminal
from gantry.client.connection import Response
from gantry.client.engine import segment
from gantry.client.errors import ApiError
from gantry.model.errors import GantryError

_GO_DIRECTORY = 1 << 31
_GO_SYMLINK = 1 << 27


def _cp(app: App, options: Options, arguments: list[str]) -> int:
    if not arguments[0]:
        raise GantryError("source can not be empty")
    if not arguments[1]:
        raise GantryError("destination can not be empty")
    source_container, source = _split(arguments[0])
    target_container, target = _split(arguments[1])
    quiet = options.on("quiet") if options.changed("quiet") else not is_terminal(1)
    if source_container and target_container:
        raise GantryError("copying between containers is not supported")
    if source_container:
        size = _out(app, options, source_container, source, target)
        where = os.path.abspath(target)
    elif target_container:
        size = _in(app, options, target_container, source, target)
        where = f"{target_container}:{target}"
    else:
        raise GantryError("must specify at least one container source")
    if not quiet and target != "-":
        app.err(f"Successfully copied {units.human_size(size, 3)} to {where}")
    return 0


def _split(argument: str) -> tuple[str, str]:
    """`container:path`; what begins with / or . is a path here even with a colon in it."""
    if argument.startswith(("/", ".")) or argument == "-":
        return "", argument
    container, colon, path = argument.partition(":")
    return (container, path) if colon else ("", argument)


def _stat_of(response: Response) -> dict[str, Any]:
    raw = response.headers.get("x-docker-container-path-stat", "")
    return dict(json.loads(base64.b64decode(raw + "=" * (-len(raw) % 4)) or b"{}"))


def _stat(app: App, container: str, path: str) -> dict[str, Any]:
    where = f"/containers/{segment(container)}/archive"
    with app.engine.request("HEAD", where, {"path": path}) as response:
        return _stat_of(response)


# -- out of a container ---------------------------------------------------------------


def _out(app: App, options: Options, container: str, source: str, target: str) -> int:
    source = source or "/"
    rebase = ""
    if options.on("follow-link"):
        source, rebase = _followed(app, container, source)
    where = f"/containers/{segment(container)}/archive"
    with app.engine.request("GET", where, {"path": source}) as response:
        if target == "-":
            sys.stdout.flush()
            for piece in response:
                write_all(1, piece)
            return 0
        is_folder = bool(int(_stat_of(response).get("mode", 0)) & _GO_DIRECTORY)
        folder, old, new = _destination(source, rebase, is_folder, target)
        reader = Reader(iter(response))
        unpack(reader, folder, old, new, owners=options.on("archive") and os.geteuid() == 0)
        return reader.taken


def _followed(app: App, container: str, path: str) -> tuple[str, str]:
    details = _stat(app, container, path)
    if not int(details.get("mode", 0)) & _GO_SYMLINK:
        return path, ""
    link = str(details.get("linkTarget", ""))
    if not link.startswith("/"):
        link = posixpath.join(posixpath.dirname(path.rstrip("/")), link)
    return link, posixpath.basename(path.rstrip("/"))


def _destination(source: str, rebase: str, is_folder: bool, target: str) -> tuple[str, str, str]:
    """Where to unpack, and which first component becomes which (Docker's cp rules)."""
    path = os.path.abspath(target)
    if asserts_directory(target):
        path = path.rstrip("/") + "/"
    base = split_entry(source)[1]
    inner = "." if base == "." else base
    if os.path.isdir(path):
        return path, inner, rebase or ""
    bare = path.rstrip("/")
    parent, name = os.path.split(os.path.realpath(bare) if os.path.islink(bare) else bare)
    if not os.path.isdir(parent):
        raise GantryError(f"invalid output path: directory {parent!r} does not exist")
    if os.path.lexists(bare) and is_folder:
        raise GantryError("cannot copy directory")
    if asserts_directory(target) and not is_folder:
        raise GantryError(
            "destination directory does not exist"
            if not os.path.lexists(bare)
            else "not a directory"
        )
    # Entries of `dir/.` are called ./x or dir/x, depending on the engine.
    return parent, _first(source) if inner == "." else inner, name


def _first(source: str) -> str:
    """The name under which an engine archives `dir/.`: the folder's own."""
    return posixpath.basename(posixpath.normpath(source)) or "/"


# -- into a container -----------------------------------------------------------------


def _in(app: App, options: Options, container: str, source: str, target: str) -> int:
    exists, is_folder, path = _target(app, container, target)
    where = f"/containers/{segment(container)}/archive"
    query: dict[str, object] = {
        "noOverwriteDirNonDir": "true",
        "copyUIDGID": "true" if options.on("archive") else None,
    }
    headers = {"Content-Type": "application/x-tar"}
    if source == "-":
        if not is_folder:
            raise GantryError(f'destination "{container}:{target}" must be a directory')
        query["path"] = path
        with app.engine.request("PUT", where, query, body=pieces(0), headers=headers):
            return 0
    local = os.path.abspath(source)
    if os.path.islink(local) and options.on("follow-link"):
        local = os.path.realpath(local)
    if not os.path.lexists(local):
        raise GantryError(f"lstat {local}: no such file or directory")
    source_folder = os.path.isdir(local) and not os.path.islink(local)
    if asserts_directory(source) and not os.path.isdir(local):
        raise GantryError(f"lstat {local}/: not a directory")
    base = "." if posixpath.basename(source) == "." else os.path.basename(source.rstrip("/"))
    name = base or os.path.basename(local)
    if is_folder:
        folder = path
    elif exists and source_folder:
        raise GantryError("cannot copy directory")
    elif not exists and asserts_directory(path) and not source_folder:
        raise GantryError(f"no such directory: {container}:{target}")
    else:
        folder, name = split_entry(path)
    query["path"] = folder
    sent = _Counted(pack(local, name))
    with app.engine.request("PUT", where, query, body=sent, headers=headers):
        return sent.count


class _Counted:
    def __init__(self, pieces: Any) -> None:
        self._pieces = pieces
        self.count = 0

    def __iter__(self) -> Any:
        for piece in self._pieces:
            self.count += len(piece)
            yield piece


def _target(app: App, container: str, target: str) -> tuple[bool, bool, str]:
    """Does the destination exist, is it a folder, and its path with a last link followed."""
    path = target or "/"
    try:
        details = _stat(app, container, path)
        if int(details.get("mode", 0)) & _GO_SYMLINK:
            link = str(details.get("linkTarget", ""))
            path = link if link.startswith("/") else posixpath.join(posixpath.dirname(path), link)
            details = _stat(app, container, path)
    except ApiError as error:
        if error.status != 404:
            raise
        if not error.message or "No such container" in error.message:
            # HEAD has no body: ask again where the answer has one.
            app.engine.get(f"/containers/{segment(container)}/json")
        return False, False, path
    mode = int(details.get("mode", 0))
    return True, bool(mode & _GO_DIRECTORY), path


def _export(app: App, options: Options, names: list[str]) -> int:
    path = options.text("output")
    if not path and is_terminal(1):
        raise GantryError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    with app.engine.request("GET", f"/containers/{segment(names[0])}/export") as response:
        to_file(response, path)
    return 0


CP = Command(
    "Copy files/folders between a container and the local filesystem",
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n"
    "        gantry cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    _cp,
    (
        Flag("archive", "Keep owners", short="a"),
        Flag("follow-link", "Copy what a link points to", short="L"),
        Flag("quiet", "Say nothing", short="q"),
    ),
    2,
    2,
    details="A destination that is a folder gets the source under its own name; dir/. means "
    "what is in dir. With - a tar stream is read or written.",
    examples=(
        ("gantry cp web:/etc/nginx ./conf", "A folder out of a container"),
        ("gantry cp ./conf/. web:/etc/nginx", "The contents of a folder into it"),
    ),
)
EXPORT = Command(
    "Export a container's filesystem as a tar archive",
    "[OPTIONS] CONTAINER",
    _export,
    (Flag("output", "Write to this file", "string", "o"),),
    1,
    1,
)
