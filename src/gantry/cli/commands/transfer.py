"""Images over the wire: pull, push, load, save, import, and the accounts for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from gantry.cli.command import App, Command
from gantry.cli.config import INDEX_SERVER, encode_auth, registry_of
from gantry.cli.flags import Flag, Options
from gantry.cli.names import check_lower_case, split_reference, split_tag
from gantry.cli.progress import show
from gantry.cli.session import write_all
from gantry.cli.terminal import is_terminal
from gantry.client.engine import segment
from gantry.model.errors import GantryError

_PIECE = 1 << 18


def pieces(descriptor: int) -> Iterator[bytes]:
    """A file or pipe to its end."""
    while data := os.read(descriptor, _PIECE):
        yield data


def _auth_header(app: App, image: str) -> dict[str, str]:
    return {"X-Registry-Auth": encode_auth(app.config.auth_for(registry_of(image)))}


# -- pull and push --------------------------------------------------------------------


def pull_image(
    app: App,
    image: str,
    *,
    platform: str = "",
    quiet: bool = False,
    everything: bool = False,
    to: int = 1,
) -> None:
    """Pulls, with progress on descriptor `to` unless quiet. Raises on any failure."""
    repository, tag = split_reference(image)
    if not tag and not everything:
        tag = "latest"
    query = {"fromImage": repository, "tag": tag, "platform": platform}
    stream = app.engine.stream("POST", "/images/create", query, headers=_auth_header(app, image))
    show(stream, to=None if quiet else to)


def _pull(app: App, options: Options, arguments: list[str]) -> int:
    image = arguments[0]
    repository, tag = split_reference(image)
    everything = options.on("all-tags")
    if everything and tag:
        raise GantryError("tag can't be used with --all-tags/-a")
    check_lower_case(image)
    if not tag and not everything:
        tag = "latest"
        if not options.on("quiet"):
            app.out("Using default tag: latest")
    pull_image(
        app,
        image,
        platform=options.text("platform"),
        quiet=options.on("quiet"),
        everything=everything,
    )
    app.out(_full_name(repository, tag))
    return 0


def _full_name(repository: str, tag: str) -> str:
    registry = registry_of(repository)
    if registry == "docker.io" and not repository.startswith("docker.io/"):
        repository = f"library/{repository}" if "/" not in repository else repository
        repository = f"docker.io/{repository}"
    if not tag:
        return repository
    return f"{repository}{'@' if ':' in tag else ':'}{tag}"


def _push(app: App, options: Options, arguments: list[str]) -> int:
    repository, tag = split_tag(arguments[0])
    everything = options.on("all-tags")
    if everything and tag:
        raise GantryError("tag can't be used with --all-tags/-a")
    if not tag and not everything:
        tag = "latest"
        if not options.on("quiet"):
            app.out("Using default tag: latest")
    stream = app.engine.stream(
        "POST",
        f"/images/{segment(repository)}/push",
        {"tag": tag, "platform": options.text("platform")},
        headers=_auth_header(app, repository),
    )
    show(stream, to=None if options.on("quiet") else 1)
    if options.on("quiet"):
        app.out(_full_name(repository, tag))
    return 0


# -- files ----------------------------------------------------------------------------


def _load(app: App, options: Options, _arguments: list[str]) -> int:
    path = options.text("input")
    if path:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    elif is_terminal(0):
        raise GantryError("requested load from stdin, but stdin is empty")
    else:
        descriptor = 0
    quiet = options.on("quiet") or not is_terminal(1)
    query = {"quiet": "1" if quiet else "0", "platform": options.many("platform")}
    headers = {"Content-Type": "application/x-tar"}
    with app.engine.request(
        "POST", "/images/load", query, body=pieces(descriptor), headers=headers
    ) as response:
        if response.content_type == "application/json":
            from gantry.client.messages import messages

            show(_checked(messages(response)), to=1)
        else:
            for piece in response:
                write_all(1, piece)
    return 0


def _checked(stream: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    from gantry.client.errors import StreamError

    for message in stream:
        if "errorDetail" in message or "error" in message:
            detail = message.get("errorDetail") or {}
            raise StreamError(str(detail.get("message") or message.get("error")))
        yield message


def _save(app: App, options: Options, names: list[str]) -> int:
    path = options.text("output")
    if not path and is_terminal(1):
        raise GantryError("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    query = {"names": names, "platform": options.many("platform")}
    with app.engine.request("GET", "/images/get", query) as response:
        to_file(response, path)
    return 0


def to_file(body: Iterable[bytes], path: str) -> None:
    """To stdout, or to a file that appears whole or not at all."""
    if not path:
        sys.stdout.flush()
        for piece in body:
            write_all(1, piece)
        return
    if os.path.exists(path) and not os.path.isfile(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, "wb") as special:
            for piece in body:
                special.write(piece)
        return
    temporary = f"{path}.{os.getpid()}.part"
    try:
        with open(temporary, "xb") as file:
            for piece in body:
                file.write(piece)
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _import(app: App, options: Options, arguments: list[str]) -> int:
    source = arguments[0]
    repository, tag = split_tag(arguments[1]) if len(arguments) > 1 else ("", "")
    query: dict[str, object] = {
        "message": options.text("message"),
        "repo": repository,
        "tag": tag,
        "changes": options.many("change"),
        "platform": options.text("platform"),
    }
    body: Iterable[bytes] | None = None
    if source == "-":
        query["fromSrc"] = "-"
        body = pieces(0)
    elif source.startswith(("http://", "https://")):
        query["fromSrc"] = source
    else:
        query["fromSrc"] = "-"
        body = pieces(os.open(source, os.O_RDONLY | os.O_CLOEXEC))
    headers = {"Content-Type": "text/plain"}
    show(app.engine.stream("POST", "/images/create", query, body=body, headers=headers), to=1)
    return 0


# -- accounts -------------------------------------------------------------------------


def _login(app: App, options: Options, arguments: list[str]) -> int:
    server = arguments[0] if arguments else INDEX_SERVER
    key = INDEX_SERVER if server in ("docker.io", "index.docker.io") else _host_of(server)
    username, password = options.text("username"), options.text("password")
    if options.on("password-stdin"):
        if password:
            raise GantryError(
                "conflicting options: cannot specify both --password and --password-stdin"
            )
        if not username:
            raise GantryError("the --password-stdin option requires --username to be set")
        password = sys.stdin.read().rstrip("\n").rstrip("\r")
    elif password:
        app.err("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    known = app.config.auth_for(key) if not username else {}
    if known.get("password") or known.get("identitytoken"):
        user = known.get("username") or "<token>"
        app.err(f"Authenticating with existing credentials... [Username: {user}]\n")
        auth = known
    else:
        if not is_terminal(0) and not (username and password):
            raise GantryError("Error: Cannot perform an interactive login from a non TTY device")
        if not username:
            app.write("Username: ")
            sys.stdout.flush()
            username = sys.stdin.readline().strip()
        if not password:
            from getpass import getpass

            password = getpass("Password: ")
        if not username or not password:
            raise GantryError("username and password are required")
        auth = {"username": username, "password": password, "serveraddress": key}
    answer = app.engine.post("/auth", body=auth) or {}
    if auth is not known:
        app.config.store_auth(key, username, password, str(answer.get("IdentityToken") or ""))
    app.out(answer.get("Status") or "Login Succeeded")
    return 0


def _host_of(server: str) -> str:
    if server == INDEX_SERVER:
        return server
    for scheme in ("https://", "http://"):
        server = server.removeprefix(scheme)
    return server.partition("/")[0]


def _logout(app: App, _options: Options, arguments: list[str]) -> int:
    server = arguments[0] if arguments else INDEX_SERVER
    key = INDEX_SERVER if server in ("docker.io", "index.docker.io") else _host_of(server)
    if app.config.forget_auth(key):
        app.out(f"Removing login credentials for {key}")
    else:
        app.out(f"Not logged in to {key}")
    return 0


def _search(app: App, options: Options, arguments: list[str]) -> int:
    from gantry.cli.table import Columns, ellipsis, render

    trunc = not options.on("no-trunc")
    official = ("false", "true") if options.text("format") == "json" else ("", "[OK]")
    limit = options.number("limit")
    query = {
        "term": arguments[0],
        "limit": limit or None,
        "filters": options.filters() or None,
    }
    rows = app.engine.get("/images/search", query)
    columns: Columns[dict[str, Any]] = Columns(
        "*registry.searchContext",
        {
            "Name": "NAME",
            "Description": "DESCRIPTION",
            "StarCount": "STARS",
            "IsOfficial": "OFFICIAL",
        },
        {
            "Name": lambda row: row.get("name", ""),
            "Description": lambda row: ellipsis(
                str(row.get("description", "")).replace("\n", " "), 45 if trunc else 1 << 30
            ),
            "StarCount": lambda row: str(row.get("star_count", 0)),
            "IsOfficial": lambda row: official[bool(row.get("is_official"))],
        },
    )
    template = options.text("format")
    if template in ("", "table"):
        template = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"
    app.write(render(columns, rows, template))
    return 0


_PLATFORM = Flag("platform", "Only this platform: linux/arm64", "string")
_PLATFORMS = Flag("platform", "Only these platforms", "list")
_NO_TRUST = Flag("disable-content-trust", "No effect", default=True, hidden=True)

PULL = Command(
    "Download an image from a registry",
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    _pull,
    (
        Flag("all-tags", "Every tag of the repository", short="a"),
        _NO_TRUST,
        _PLATFORM,
        Flag("quiet", "No progress", short="q"),
    ),
    1,
    1,
    examples=(("gantry pull localhost:5000/app:1.2", "From a registry of your own"),),
)
PUSH = Command(
    "Upload an image to a registry",
    "[OPTIONS] NAME[:TAG]",
    _push,
    (
        Flag("all-tags", "Every tag of the repository", short="a"),
        _NO_TRUST,
        _PLATFORM,
        Flag("quiet", "No progress", short="q"),
    ),
    1,
    1,
)
LOAD = Command(
    "Load an image from a tar archive or STDIN",
    "[OPTIONS]",
    _load,
    (
        Flag("input", "Read this file", "string", "i"),
        _PLATFORMS,
        Flag("quiet", "No progress", short="q"),
    ),
    details="Reads what save writes: Docker's archive or an OCI layout, compressed or not.",
    examples=(("gantry load -i app.tar.gz", "From a file"),),
)
SAVE = Command(
    "Save one or more images to a tar archive (streamed to STDOUT by default)",
    "[OPTIONS] IMAGE [IMAGE...]",
    _save,
    (Flag("output", "Write to this file", "string", "o"), _PLATFORMS),
    1,
    None,
    examples=(("gantry save app | ssh host gantry load", "Move an image without a registry"),),
)
IMPORT = Command(
    "Import the contents from a tarball to create a filesystem image",
    "[OPTIONS] file|URL|- [REPOSITORY[:TAG]]",
    _import,
    (
        Flag("change", "Dockerfile instruction for the image: CMD, ENV, EXPOSE …", "list", "c"),
        Flag("message", "Comment of the image", "string", "m"),
        _PLATFORM,
    ),
    1,
    2,
    examples=(("tar -C rootfs -c . | gantry import -c 'CMD [\"sh\"]' - mine", "From a folder"),),
)
LOGIN = Command(
    "Authenticate to a registry",
    "[OPTIONS] [SERVER]",
    _login,
    (
        Flag(
            "password", "Password or token (others can see it: use --password-stdin)", "string", "p"
        ),
        Flag("password-stdin", "Read the password from standard input"),
        Flag("username", "User name", "string", "u"),
    ),
    0,
    1,
)
LOGOUT = Command("Log out from a registry", "[SERVER]", _logout, (), 0, 1)
SEARCH = Command(
    "Search Docker Hub for images",
    "[OPTIONS] TERM",
    _search,
    (
        Flag("filter", "Only those: is-official=true, stars=3", "filter", "f"),
        Flag("format", "Go template, 'table TEMPLATE', or json", "string"),
        Flag("limit", "At most this many", "int", default=0),
        Flag("no-trunc", "Whole descriptions"),
    ),
    1,
    1,
)
