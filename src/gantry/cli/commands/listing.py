"""`ps`: containers in rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gantry.cli import ports, units
from gantry.cli.command import App, Command
from gantry.cli.flags import Flag, Options
from gantry.cli.names import familiar
from gantry.cli.table import Columns, ellipsis, render, short_id
from gantry.cli.template.functions import quoted

TABLE = (
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
)
FORMAT_HELP = "Go template, 'table TEMPLATE', or json"


@dataclass(frozen=True, slots=True)
class Item:
    """One container as /containers/json lists it; `trunc` shortens what is long."""

    raw: dict[str, Any]
    trunc: bool


def _names(item: Item) -> str:
    names = [name.removeprefix("/") for name in item.raw.get("Names") or []]
    if not item.trunc:
        return ",".join(names)
    return next((name for name in names if "/" not in name), "")


def _image(item: Item) -> str:
    image = str(item.raw.get("Image") or "<no image>")
    if not item.trunc:
        return image
    short = short_id(str(item.raw.get("ImageID", "")))
    if short and short == short_id(image):
        return short
    return familiar(image.partition("@")[0]) if "@" in image else image


def _command(item: Item) -> str:
    command = str(item.raw.get("Command", ""))
    return quoted(ellipsis(command, 20) if item.trunc else command)


def size_text(raw: dict[str, Any]) -> str:
    own = units.human_size(raw.get("SizeRw") or 0, 3)
    whole = raw.get("SizeRootFs") or 0
    return f"{own} (virtual {units.human_size(whole, 3)})" if whole > 0 else own


def _labels(item: Item) -> str:
    return ",".join(sorted(f"{key}={value}" for key, value in _label_map(item).items()))


def _label_map(item: Item) -> dict[str, str]:
    return item.raw.get("Labels") or {}


def _mounts(item: Item) -> str:
    names = [
        str(mount.get("Name") or mount.get("Source", "")) for mount in item.raw.get("Mounts") or []
    ]
    return ",".join(ellipsis(name, 15) if item.trunc else name for name in names)


def _networks(item: Item) -> str:
    return ",".join((item.raw.get("NetworkSettings") or {}).get("Networks") or {})


def _health(item: Item) -> str:
    health = (item.raw.get("Health") or {}).get("Status")
    if health:
        return str(health)
    status = str(item.raw.get("Status", ""))
    if not status.endswith(")"):
        return ""
    word = status.rpartition("(")[2][:-1].removeprefix("health: ")
    return word if word in ("healthy", "unhealthy", "starting") else ""


def _platform(item: Item) -> object:
    return (item.raw.get("ImageManifestDescriptor") or {}).get("platform")


COLUMNS: Columns[Item] = Columns(
    "*formatter.ContainerContext",
    {
        "ID": "CONTAINER ID",
        "Names": "NAMES",
        "Image": "IMAGE",
        "Command": "COMMAND",
        "CreatedAt": "CREATED AT",
        "RunningFor": "CREATED",
        "Ports": "PORTS",
        "State": "STATE",
        "Status": "STATUS",
        "Size": "SIZE",
        "Labels": "LABELS",
        "Mounts": "MOUNTS",
        "LocalVolumes": "LOCAL VOLUMES",
        "Networks": "NETWORKS",
        "Platform": "PLATFORM",
        "HealthStatus": "HEALTH STATUS",
    },
    {
        "ID": lambda item: short_id(item.raw["Id"]) if item.trunc else item.raw["Id"],
        "Names": _names,
        "Image": _image,
        "Command": _command,
        "CreatedAt": lambda item: units.local_time(item.raw.get("Created", 0)),
        "RunningFor": lambda item: units.ago(item.raw.get("Created", 0)),
        "Ports": lambda item: ports.display(item.raw.get("Ports") or []),
        "State": lambda item: item.raw.get("State", ""),
        "Status": lambda item: item.raw.get("Status", ""),
        "Size": lambda item: size_text(item.raw),
        "Labels": _labels,
        "Mounts": _mounts,
        "LocalVolumes": lambda item: str(
            sum(mount.get("Driver") == "local" for mount in item.raw.get("Mounts") or [])
        ),
        "Networks": _networks,
        "Platform": _platform,
        "HealthStatus": _health,
    },
    {"Label": lambda item, name: _label_map(item).get(name, "")},
)


def choose_format(given: str, configured: str, quiet: bool, table: str) -> str:
    """Which template: --format, else ids for --quiet, else the configured one, else the table."""
    if not given and configured and not quiet:
        given = configured
    if given in ("", "table"):
        return "{{.ID}}" if quiet else table
    return "{{.ID}}" if quiet and given != "raw" else given


def _ps(app: App, options: Options, _arguments: list[str]) -> int:
    template = choose_format(
        options.text("format"),
        app.config.format_of("psFormat"),
        options.on("quiet"),
        TABLE + ("\t{{.Size}}" if options.on("size") else ""),
    )
    last = 1 if options.on("latest") else options.number("last")
    size = options.on("size") or (".Size" in template and not options.changed("size"))
    query = {
        "all": options.on("all") or options.on("latest") or last > 0,
        "limit": last if last > 0 else None,
        "size": size,
        "filters": options.filters() or None,
    }
    trunc = not options.on("no-trunc")
    rows = [Item(raw, trunc) for raw in app.engine.get("/containers/json", query)]
    app.write(render(COLUMNS, rows, template))
    return 0


PS = Command(
    "List containers",
    "[OPTIONS]",
    _ps,
    (
        Flag("all", "Those that do not run, too", short="a"),
        Flag("filter", "Only those: status=exited, name=web, label=KEY[=VALUE] …", "filter", "f"),
        Flag("format", FORMAT_HELP, "string"),
        Flag("last", "The last N made, running or not", "int", "n", -1),
        Flag("latest", "The last one made", short="l"),
        Flag("no-trunc", "Whole ids and commands"),
        Flag("quiet", "Ids only", short="q"),
        Flag("size", "Disk space each uses", short="s"),
    ),
    examples=(
        ("gantry ps -a", "All of them"),
        ("gantry ps -q -f status=exited", "Ids of those that have ended"),
        ("gantry ps --format '{{.Names}}: {{.Status}}'", "Just these columns"),
        ("gantry ps --format json", "One JSON object a line"),
    ),
)
