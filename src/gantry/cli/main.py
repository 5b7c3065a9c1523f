"""Entry of the `gantry` command: global flags, the command, errors as one line.

Start-up is kept light: a command's module is imported when it is called, help (click)
and progress bars (rich) only when they are shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

from gantry.cli.command import App, Command, ExitStatus, UsageError
from gantry.cli.flags import Flag, FlagError, Options, parse
from gantry.cli.registry import ALIASES, COMMANDS, GROUPS
from gantry.cli.template.nodes import TemplateError
from gantry.client.address import DEFAULT_HOST, Address, Tls, parse_address
from gantry.client.engine import Engine
from gantry.client.errors import Unreachable
from gantry.model.errors import GantryError, NotFound

GLOBAL_FLAGS = (
    Flag("config", "Folder of the client's configuration", "string"),
    Flag("context", "Name of the context to use", "string", "c"),
    Flag("debug", "Say more about what is being done", short="D"),
    Flag("host", "Address of the engine: unix://PATH or tcp://HOST:PORT", "list", "H"),
    Flag("log-level", "How much to log: debug, info, warn, error or fatal", "string", "l", "info"),
    Flag("tls", "Use TLS (without checking the server's name)"),
    Flag("tlscacert", "Trust servers whose certificate this file signed", "string"),
    Flag("tlscert", "Client certificate", "string"),
    Flag("tlskey", "Key of the client certificate", "string"),
    Flag("tlsverify", "Use TLS and check the server's certificate"),
    Flag("version", "Print the version and end", short="v"),
    Flag("help", "Print help", short="h", hidden=True),
)

HELP = Flag("help", "Print usage", hidden=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr] # a real stdout
    try:
        status = _guarded(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone: end as a filter does, without a word.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return status


def _guarded(words: list[str]) -> int:
    try:
        return _dispatch(words)
    except ExitStatus as end:
        status, message = end.status, end.message
    except BrokenPipeError:
        raise
    except (GantryError, TemplateError) as error:
        status, message = 1, str(error)
    except KeyboardInterrupt:
        status, message = 130, ""
    except OSError as error:
        status, message = 1, _os_error(error)
    sys.stdout.flush()
    if message:
        sys.stderr.write(message + "\n")
    return status


def _os_error(error: OSError) -> str:
    """`open x: no such file or directory`, as Go's tools put it."""
    name = error.filename
    text = (error.strerror or str(error)).lower()
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    return f"open {name}: {text}" if name else text


def _dispatch(words: list[str]) -> int:
    try:
        options, rest = parse(GLOBAL_FLAGS, words, interspersed=False)
    except FlagError as error:
        raise ExitStatus(125, f"{error}\n\nRun 'gantry --help' for more information")
    if options.on("version"):
        from gantry import __version__

        sys.stdout.write(f"gantry version {__version__}\n")
        return 0
    if not rest or options.on("help") or rest[0] == "help":
        from gantry.cli.help import show_help

        return show_help(rest[1:] if rest[:1] == ["help"] else rest)
    path, rest = _find(rest)
    command = load(path)
    app = App(path, connect=lambda app: open_engine(app, options))
    if options.text("config"):
        app.environment = {**os.environ, "DOCKER_CONFIG": options.text("config")}
    app.debug = options.on("debug")
    app.context = options.text("context")
    return _run(app, command, rest)


def _find(words: list[str]) -> tuple[str, list[str]]:
    """The longest known command path at the start of the line, and what follows it."""
    for length in (3, 2, 1):
        path = " ".join(words[:length])
        path = ALIASES.get(path, path)
        if path in COMMANDS and len(words) >= length:
            return path, words[length:]
    group = words[0]
    if group in GROUPS:
        from gantry.cli.help import show_help

        following = [word for word in words[1:] if not word.startswith("-")]
        if following:
            name = f"gantry {group} {following[0]}"
            raise ExitStatus(
                1,
                f"gantry: unknown command: {name}\n\nUsage:  gantry {group}\n\n"
                f"Run 'gantry {group} --help' for more information",
            )
        raise ExitStatus(show_help([group]))
    raise ExitStatus(
        1, f"gantry: unknown command: gantry {group}\n\nRun 'gantry --help' for more information"
    )


def load(path: str) -> Command:
    """The command at a path (`container ls`), its module imported now."""
    module, _, name = COMMANDS[path].partition(":")
    command = getattr(import_module(f"gantry.cli.commands.{module}"), name)
    assert isinstance(command, Command)
    return command


def _run(app: App, command: Command, words: list[str]) -> int:
    usage = f"Usage:  gantry {app.path} {command.usage}".rstrip()
    try:
        options, arguments = parse([*command.flags, HELP], words, interspersed=command.interspersed)
    except FlagError as error:
        raise ExitStatus(
            125, f"{error}\n\n{usage}\n\nRun 'gantry {app.path} --help' for more information"
        )
    if options.on("help"):
        from gantry.cli.help import show_command

        show_command(app.path, command)
        return 0
    problem = _count(command, arguments)
    if problem:
        raise ExitStatus(
            1,
            f"gantry: 'gantry {app.path}' {problem}\n\n{usage}\n\n"
            f"See 'gantry {app.path} --help' for more information",
        )
    try:
        return command.run(app, options, arguments) or 0
    except UsageError as error:
        raise ExitStatus(
            125, f"gantry: {error}\n\nRun 'gantry {app.path} --help' for more information"
        )


def _count(command: Command, arguments: Sequence[str]) -> str:
    count, least, most = len(arguments), command.least, command.most
    if least <= count and (most is None or count <= most):
        return ""
    if most == 0:
        return "accepts no arguments"
    if least == most:
        return f"requires {_plural(least)}"
    if count < least:
        return f"requires at least {_plural(least)}"
    return f"requires at most {_plural(most or 0)}"


def _plural(number: int) -> str:
    return f"{number} argument{'' if number == 1 else 's'}"


def open_engine(app: App, options: Options) -> Engine:
    """The engine the user means; one is started when none listens on the default socket."""
    environment = app.environment
    given = "".join(options.many("host")[-1:]) or environment.get("DOCKER_HOST", "")
    address = _context_address(app, options)
    named = bool(given) or address is not None
    if address is None:
        address = parse_address(given, _tls(options, environment))
    engine = Engine(
        address,
        api_version=environment.get("DOCKER_API_VERSION", ""),
        headers=app.config.http_headers,
    )
    app.host = address.text
    if named or address != Address(DEFAULT_HOST, path=address.path):
        return engine
    try:
        engine.ping()
    except Unreachable:
        from gantry.cli.autostart import start_engine

        start_engine(app, engine)
    return engine


def _context_address(app: App, options: Options) -> Address | None:
    """The current context's engine; None where no context counts."""
    hosts = options.many("host")
    if len(hosts) > 1:
        raise ExitStatus(1, "Specify only one -H")
    if hosts and app.context:
        raise ExitStatus(1, "conflicting options: cannot specify both --host and --context")
    if hosts:
        return None
    configured = app.config.text("currentContext")
    if not (app.context or configured or app.environment.get("DOCKER_CONTEXT")):
        return None
    from gantry.cli.config import directory
    from gantry.cli.contexts import DEFAULT, Contexts, current

    name = current(app.context, app.environment, configured)
    if name == DEFAULT:
        return None
    try:
        return Contexts(directory(app.environment)).address(name)
    except NotFound as error:
        raise ExitStatus(1, f"unable to resolve docker endpoint: {error}")


def _tls(options: Options, environment: Mapping[str, str]) -> Tls | None:
    verify = options.on("tlsverify") or bool(environment.get("DOCKER_TLS_VERIFY"))
    if not (verify or options.on("tls")):
        return None
    from gantry.cli.config import directory

    folder = environment.get("DOCKER_CERT_PATH") or directory(environment)

    def path(flag: str, name: str) -> str:
        given = options.text(flag)
        default = os.path.join(folder, name)
        return given or (default if os.path.exists(default) else "")

    return Tls(
        path("tlscacert", "ca.pem"), path("tlscert", "cert.pem"), path("tlskey", "key.pem"), verify
    )


if __name__ == "__main__":
    sys.exit(main())
