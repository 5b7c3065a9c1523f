"""Help that teaches: what a command is for, its flags, examples. Set by click."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence

from click import HelpFormatter

from gantry.cli.command import Command, ExitStatus
from gantry.cli.flags import Flag
from gantry.cli.registry import ALIASES, COMMANDS, COMMON, GROUPS


def show_help(words: Sequence[str]) -> int:
    """Help for the whole program, a group or a command; 1 when there is none such."""
    from gantry.cli.main import load

    path = " ".join(words)
    path = ALIASES.get(path, path)
    if path in COMMANDS:
        show_command(path, load(path))
    elif path in GROUPS:
        _group(path)
    elif not path:
        _program()
    else:
        raise ExitStatus(
            1, f"gantry: unknown command: gantry {path}\n\nRun 'gantry --help' for more information"
        )
    return 0


def _formatter() -> HelpFormatter:
    try:
        width = os.get_terminal_size(1).columns
    except OSError:
        width = 80
    return HelpFormatter(width=max(60, min(width - 2, 110)), max_width=110)


def _print(formatter: HelpFormatter) -> None:
    sys.stdout.write(formatter.getvalue())


def show_command(path: str, command: Command) -> None:
    formatter = _formatter()
    formatter.write(f"Usage:  gantry {path} {command.usage}".rstrip() + "\n\n")
    formatter.write_text(command.summary)
    if command.details:
        formatter.write_paragraph()
        formatter.write_text(command.details)
    same = sorted(_other_names(path))
    if same:
        _section(formatter, "Aliases")
        formatter.write("  " + ", ".join(f"gantry {name}" for name in [path, *same]) + "\n")
    if command.examples:
        _section(formatter, "Examples")
        for line, meaning in command.examples:
            formatter.write(f"  # {meaning}\n  {line}\n")
    shown = sorted((flag for flag in command.flags if not flag.hidden), key=lambda f: f.name)
    if shown:
        _section(formatter, "Options")
        _list(formatter, [(_flag_name(flag), _flag_text(flag)) for flag in shown])
    _print(formatter)


def _other_names(path: str) -> Iterable[str]:
    place = COMMANDS[path]
    found = {name for name, other in COMMANDS.items() if other == place}
    found |= {alias for alias, name in ALIASES.items() if name in found}
    return found - {path}


def _section(formatter: HelpFormatter, title: str) -> None:
    formatter.write(f"\n{title}:\n")


def _list(formatter: HelpFormatter, rows: Sequence[tuple[str, str]]) -> None:
    formatter.indent()
    formatter.write_dl(rows, col_max=32)
    formatter.dedent()


def _flag_name(flag: Flag) -> str:
    kinds = {"bool": "", "duration": " duration", "decimal": " number", "filter": " filter"}
    short = f"-{flag.short}, " if flag.short else "    "
    return f"{short}--{flag.name}{kinds.get(flag.kind, f' {flag.kind}')}"


def _flag_text(flag: Flag) -> str:
    if flag.kind == "bool" and flag.default:
        return f"{flag.help} (default true)"
    if flag.default not in (None, 0, -1, "", False):
        return f"{flag.help} (default {flag.default})"
    return flag.help


def _group(group: str) -> None:
    from gantry.cli.main import load

    formatter = _formatter()
    formatter.write(f"Usage:  gantry {group} COMMAND\n\n{GROUPS[group]}\n")
    _section(formatter, "Commands")
    names = [path for path in COMMANDS if path.startswith(f"{group} ")]
    rows = [(path.removeprefix(f"{group} "), load(path).summary) for path in sorted(names)]
    _list(formatter, rows)
    formatter.write(f"\nRun 'gantry {group} COMMAND --help' for more information on a command.\n")
    _print(formatter)


def _program() -> None:
    from gantry.cli.main import GLOBAL_FLAGS, load

    formatter = _formatter()
    formatter.write("Usage:  gantry [OPTIONS] COMMAND\n\nRun and look after containers\n")
    top = [path for path in COMMANDS if " " not in path and not load(path).hidden]
    _section(formatter, "Common commands")
    _list(formatter, [(name, load(name).summary) for name in COMMON if name in COMMANDS])
    _section(formatter, "Management commands")
    _list(formatter, sorted(GROUPS.items()))
    _section(formatter, "Commands")
    rows = [(name, load(name).summary) for name in sorted(top) if name not in COMMON]
    _list(formatter, rows)
    _section(formatter, "Global options")
    flags = [flag for flag in GLOBAL_FLAGS if not flag.hidden]
    _list(formatter, [(_flag_name(flag), _flag_text(flag)) for flag in flags])
    formatter.write("\nRun 'gantry COMMAND --help' for more information on a command.\n")
    _print(formatter)
