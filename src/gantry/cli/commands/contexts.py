"""`context`: engines by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gantry.cli.command import App, Command
from gantry.cli.commands.inspect import show_all
from gantry.cli.commands.listing import FORMAT_HELP
from gantry.cli.config import directory
from gantry.cli.contexts import (
    DEFAULT,
    DEFAULT_DESCRIPTION,
    Context,
    Contexts,
    check_name,
    current,
)
from gantry.cli.flags import Flag, Options
from gantry.cli.table import Columns, render
from gantry.client.address import DEFAULT_HOST, parse_address
from gantry.model.errors import GantryError

_TABLE = (
    "table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}"
)
_KEYS = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    description: str
    endpoint: str
    current: bool
    error: str = ""


_COLUMNS: Columns[_Row] = Columns(
    "*formatter.clientContextContext",
    {
        "Name": "NAME",
        "Current": "",
        "Description": "DESCRIPTION",
        "DockerEndpoint": "DOCKER ENDPOINT",
        "Error": "ERROR",
    },
    {
        "Name": lambda row: row.name,
        "Current": lambda row: row.current,
        "Description": lambda row: row.description,
        "DockerEndpoint": lambda row: row.endpoint,
        "Error": lambda row: row.error,
    },
)


def _contexts(app: App) -> Contexts:
    return Contexts(directory(app.environment))


def _current(app: App) -> str:
    return current(app.context, app.environment, app.config.text("currentContext"))


def _default(app: App) -> Context:
    host = app.environment.get("DOCKER_HOST") or DEFAULT_HOST
    return Context(DEFAULT, host, metadata={"Description": DEFAULT_DESCRIPTION})


def _ls(app: App, options: Options, _arguments: list[str]) -> int:
    contexts, chosen = _contexts(app), _current(app)
    rows = [_Row(DEFAULT, DEFAULT_DESCRIPTION, _default(app).host, chosen == DEFAULT)]
    for name in contexts.names():
        found = contexts.get(name)
        rows.append(_Row(name, found.description, found.host, chosen == name))
    if chosen not in {row.name for row in rows}:
        rows.append(_Row(chosen, "", "", True, "context not found"))
    template = "{{.Name}}" if options.on("quiet") else options.text("format")
    if template in ("", "table"):
        template = _TABLE
    app.write(render(_COLUMNS, sorted(rows, key=lambda row: row.name), template))
    if app.environment.get("DOCKER_HOST") and not options.on("quiet"):
        app.err(
            "Warning: DOCKER_HOST environment variable overrides the active context. To use a "
            "context, either set the global --context flag, or unset DOCKER_HOST environment "
            "variable."
        )
    return 0


def _show(app: App, _options: Options, _arguments: list[str]) -> int:
    app.out(_current(app))
    return 0


def _use(app: App, _options: Options, arguments: list[str]) -> int:
    name = arguments[0]
    if name != DEFAULT:
        _contexts(app).get(name)
    if name == DEFAULT:
        app.config.raw.pop("currentContext", None)
    else:
        app.config.raw["currentContext"] = name
    app.config.save()
    app.out(name)
    app.err(f'Current context is now "{name}"')
    if app.environment.get("DOCKER_HOST"):
        app.err("Warning: DOCKER_HOST environment variable overrides the active context.")
    return 0


def _endpoint(texts: list[str]) -> tuple[str, bool, dict[str, bytes] | None]:
    """`host=tcp://…,ca=FILE,cert=FILE,key=FILE,skip-tls-verify=true`."""
    host, skip, tls = "", False, None
    for item in (item for text in texts for item in text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise GantryError(f"invalid docker endpoint option: {item}")
        if key == "host":
            host = value
        elif key == "skip-tls-verify":
            skip = value in ("1", "true")
        elif key in _KEYS:
            with open(value, "rb") as file:
                tls = {**(tls or {}), _KEYS[key]: file.read()}
        else:
            raise GantryError(f'unrecognized config key: "{key}"')
    if host:
        parse_address(host)
    return host, skip, tls


def _create(app: App, options: Options, arguments: list[str]) -> int:
    name, contexts = arguments[0], _contexts(app)
    check_name(name)
    if name in contexts.names():
        raise GantryError(f'context "{name}" already exists')
    source = options.text("from")
    if source and options.many("docker"):
        raise GantryError("cannot use --docker flag when --from is set")
    if source or not options.many("docker"):
        base = _default(app) if source in ("", DEFAULT) else contexts.get(source)
        tls = contexts.read_tls(source) if source not in ("", DEFAULT) else None
        made = replace(base, name=name, metadata=dict(base.metadata) if source else {})
    else:
        host, skip, tls = _endpoint(options.many("docker"))
        made = Context(name, host or _default(app).host, skip)
    if options.text("description"):
        made = replace(made, metadata={"Description": options.text("description")})
    contexts.put(made, tls)
    app.out(name)
    app.err(f'Successfully created context "{name}"')
    return 0


def _update(app: App, options: Options, arguments: list[str]) -> int:
    name, contexts = arguments[0], _contexts(app)
    check_name(name)
    found, tls = contexts.get(name), None
    if options.changed("description"):
        described = {**found.metadata, "Description": options.text("description")}
        found = replace(found, metadata=described)
    if options.many("docker"):
        host, skip, tls = _endpoint(options.many("docker"))
        found = replace(found, host=host or found.host, skip_verify=skip)
    contexts.put(found, tls)
    app.out(name)
    app.err(f'Successfully updated context "{name}"')
    return 0


def _rm(app: App, options: Options, names: list[str]) -> int:
    contexts, chosen = _contexts(app), _current(app)

    def remove(name: str) -> None:
        if name == DEFAULT:
            raise GantryError('context "default" cannot be removed')
        if name == chosen:
            if not options.on("force"):
                raise GantryError(f'context "{name}" is in use, set -f flag to force remove')
            app.config.raw.pop("currentContext", None)
            app.config.save()
        contexts.remove(name)

    return app.each(names, remove)


def _inspect(app: App, options: Options, names: list[str]) -> int:
    contexts = _contexts(app)
    found, errors = [], []
    for name in names or [_current(app)]:
        try:
            context = _default(app) if name == DEFAULT else contexts.get(name)
        except GantryError as error:
            errors.append(str(error))
            continue
        held = [] if name == DEFAULT else contexts.tls_files(name)
        stored = name != DEFAULT
        endpoint = {"Host": context.host, "SkipTLSVerify": context.skip_verify}
        found.append(
            {
                "Name": name,
                "Metadata": dict(context.metadata) if stored else {},
                "Endpoints": {"docker": endpoint},
                "TLSMaterial": {"docker": held} if held else {},
                "Storage": {
                    "MetadataPath": contexts.meta_folder(name) if stored else "<IN MEMORY>",
                    "TLSPath": contexts.tls_folder(name) if stored else "<IN MEMORY>",
                },
            }
        )
    return show_all(app, found, errors, options.text("format"))


_DOCKER = Flag("docker", "Its engine: host=tcp://H:P,ca=FILE,cert=FILE,key=FILE", "list")
_DESCRIPTION = Flag("description", "What it is", "string")

LS = Command(
    "List contexts",
    "[OPTIONS]",
    _ls,
    (Flag("format", FORMAT_HELP, "string"), Flag("quiet", "Names only", short="q")),
)
SHOW = Command("Print the name of the current context", "", _show)
USE = Command(
    "Set the current context",
    "CONTEXT",
    _use,
    least=1,
    most=1,
    examples=(("gantry context use default", "Back to DOCKER_HOST or the default socket"),),
)
CREATE = Command(
    "Create a context",
    "[OPTIONS] CONTEXT",
    _create,
    (_DESCRIPTION, _DOCKER, Flag("from", "Start from a copy of this one", "string")),
    1,
    1,
    examples=(
        ("gantry context create far --docker host=tcp://10.0.0.5:2376,ca=ca.pem", "With TLS"),
    ),
)
UPDATE = Command("Update a context", "[OPTIONS] CONTEXT", _update, (_DESCRIPTION, _DOCKER), 1, 1)
RM = Command(
    "Remove one or more contexts",
    "CONTEXT [CONTEXT...]",
    _rm,
    (Flag("force", "Even the current one", short="f"),),
    1,
    None,
)
INSPECT = Command(
    "Display detailed information on one or more contexts",
    "[OPTIONS] [CONTEXT] [CONTEXT...]",
    _inspect,
    (Flag("format", "Go template, or json", "string", "f"),),
    0,
    None,
)
